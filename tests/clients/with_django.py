"""The recipe of docs/who-did-it.md for Django: a middleware, and requests that go through it. usage: with_django.py URL"""
import json
import sys
import types
from urllib.parse import urlsplit

import django
from django.conf import settings
from django.http import HttpResponse
from django.urls import path

url = urlsplit(sys.argv[1])
settings.configure(
    ROOT_URLCONF="urls",
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=["urls.authenticate", "urls.say_who"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": url.path.lstrip("/"),
            "USER": url.username,
            "HOST": url.hostname,
            "PORT": url.port,
            "ATOMIC_REQUESTS": True,
        }
    },
)
django.setup()

from django.db import connection, models, transaction  # noqa: E402  (after the settings)
from django.test import Client  # noqa: E402


class Order(models.Model):
    id = models.BigIntegerField(primary_key=True)
    status = models.TextField(null=True)

    class Meta:
        app_label = "shop"
        managed = False
        db_table = "orders"


def authenticate(get_response):
    def middleware(request):
        request.user = types.SimpleNamespace(username="ann@django")
        return get_response(request)
    return middleware


def say_who(get_response):
    def middleware(request):
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("select pg_logical_emit_message(true, 'bygone', %s)", [json.dumps({"actor": request.user.username})])
            return get_response(request)
    return middleware


def pay(request, order):
    Order.objects.filter(id=order).update(status="paid")
    return HttpResponse("paid")


def fail(request, order):
    Order.objects.filter(id=order).update(status="lost")
    raise ValueError("a view that fails")


urls = types.ModuleType("urls")
urls.authenticate, urls.say_who = authenticate, say_who
urls.urlpatterns = [path("pay/<int:order>", pay), path("fail/<int:order>", fail)]
sys.modules["urls"] = urls

client = Client(raise_request_exception=False)
assert client.post("/pay/7").content == b"paid"
assert client.post("/fail/8").status_code == 500
assert Order.objects.get(id=8).status == "new"
