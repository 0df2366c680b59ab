import sqlalchemy as sa
from sqlalchemy import orm

Base = orm.declarative_base()


class Customer(Base):
    __tablename__ = "customers"
    id = sa.Column(sa.Integer, primary_key=True)
    email = sa.Column(sa.String(80), unique=True)
    name = sa.Column(sa.String(80), nullable=False)


def open_session():
    engine = sa.create_engine("sqlite://")
    Base.metadata.create_all(engine)
    return orm.Session(engine)


def add(session, **values):
    session.add(Customer(**values))
    session.flush()


def register(session, email, name):
    add(session, email=email, name=name)


def bring_in(session, people):
    for email, name in people:
        register(session, email, name)


def by_email(session, email):
    return session.query(Customer).filter_by(email=email).one()


def report(session, table, number):
    return session.execute(sa.text(f"select * from {table} where id = :id"), {"id": number}).all()


def wrong_column(session, number):
    return session.execute(sa.text("select colour from customers where id = :id"), {"id": number})
