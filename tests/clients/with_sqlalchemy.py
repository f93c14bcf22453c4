"""The recipe of docs/who-did-it.md for SQLAlchemy: its ORM, over psycopg. usage: with_sqlalchemy.py URL"""
import json
import sys

from sqlalchemy import BigInteger, create_engine, event, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    status: Mapped[str]


def current_user():
    return "ann@sqlalchemy"


@event.listens_for(Session, "after_begin")
def say_who(session, transaction, connection):
    connection.execute(text("select pg_logical_emit_message(true, 'bygone', :who)"), {"who": json.dumps({"actor": current_user()})})


engine = create_engine(sys.argv[1].replace("postgres://", "postgresql+psycopg://", 1))
with Session(engine) as session:
    session.get_one(Order, 7).status = "paid"
    session.commit()
    # The next transaction says it again.
    session.get_one(Order, 8).status = "paid"
    session.commit()
