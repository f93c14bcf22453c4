"""The recipe of docs/who-did-it.md for psycopg. usage: with_psycopg.py URL"""
import json
import sys

import psycopg

user = "ann@psycopg"
with psycopg.connect(sys.argv[1]) as connection:
    with connection.transaction():
        connection.execute("select pg_logical_emit_message(true, 'bygone', %s)", [json.dumps({"actor": user})])
        connection.execute("update orders set status = 'paid' where id = 7")
