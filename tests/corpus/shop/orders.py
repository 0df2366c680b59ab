import sqlite3
from decimal import Decimal

from shop.decorators import allowed_for, logged
from shop.errors import PaymentFailed, ShopError, UnknownCity

RATES = {"EUR": Decimal("1"), "USD": Decimal("0.9")}
ZONES = {"berlin": 1, "paris": 2}


def convert(amount, currency):
    return Decimal(amount) * RATES[currency]


def total(lines):
    return sum(convert(line["amount"], line["currency"]) for line in lines)


def totals(orders):
    return [total(order["lines"]) for order in orders]


def average(orders):
    return sum(totals(orders)) / len(orders)


def zone_of(city):
    if city not in ZONES:
        raise UnknownCity(city)
    return ZONES[city]


def shipping(order):
    try:
        zone = ZONES[order["city"]]
    except KeyError:
        zone = guess_zone(order)
    return zone * 4


def guess_zone(order):
    return int(order["zip"][0]) + order["zone_offset"]


def validate(order):
    if not order["lines"]:
        raise ValueError(f"order {order['id']} is empty")
    if order["total"] < 0:
        raise ValueError(f"order {order['id']} has a negative total: {order['total']}")
    if order["customer"] is None:
        raise ValueError("no customer")
    assert order["currency"] in RATES, order["currency"]


def charge(gateway, order):
    answer = gateway(order)
    if answer["declined"]:
        raise PaymentFailed("declined", order["id"])
    if answer["code"] != 0:
        raise ShopError(f"gateway answered with code {answer['code']} for order {order['id']}")
    return answer["receipt"]


@allowed_for("admin")
def refund(user, order):
    return order["paid"] - order["fee"]


def customer_name(order):
    return order.customer.name.title()


@logged
def ship(order):
    return shipping(order)


def ship_all(orders):
    return [ship(order) for order in orders]


def open_db(path=":memory:"):
    db = sqlite3.connect(path, timeout=0.01)
    db.execute(
        "create table if not exists orders (id integer primary key, ref text unique,"
        " qty integer not null check (qty > 0))"
    )
    return db


def store(db, number, ref, qty):
    db.execute("insert into orders values (?, ?, ?)", (number, ref, qty))


def find(db, table, number):
    return db.execute(f"select * from {table} where id = {number}").fetchone()


def store_many(db, rows):
    for row in rows:
        store(db, *row)
