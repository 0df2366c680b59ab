"""What goes wrong in the shop: label, task, and the ways to it. Each takes a source of chance."""

import gzip
import os
import tempfile
import types
import zipfile

from shop import background, files, mail, orders, records
from shop.clients import http

import servers

WEB = [servers.web() for _ in range(2)]


def ident(rng):
    return rng.choice(
        [rng.randrange(10**6), f"{rng.getrandbits(64):x}", f"ord-{rng.randrange(999)}"]
    )


def path(rng, text=None, suffix=".csv"):
    folder = tempfile.mkdtemp(prefix=f"run{rng.randrange(9999)}-")
    name = os.path.join(folder, f"{rng.choice('abcdef')}{rng.randrange(999)}{suffix}")
    if text is not None:
        with open(name, "wb") as file:
            file.write(text if isinstance(text, bytes) else text.encode())
    return name


def dead(rng):
    return f"http://127.0.0.1:{servers.nobody()}"


def web(rng, how):
    return f"{rng.choice(WEB)}/{how}"


def zipped(rng, names=("a.txt",)):
    name = path(rng, suffix=".zip")
    with zipfile.ZipFile(name, "w") as archive:
        for one in names:
            archive.writestr(one, "x" * 50)
    return name


def order(rng, **changes):
    base = {"id": ident(rng), "lines": [{"amount": rng.randrange(1, 99), "currency": "EUR"}],
            "total": 5, "customer": "ann", "currency": "EUR", "city": "berlin", "zip": "1234",
            "zone_offset": 0}  # fmt: skip
    return {**base, **changes}


def currency(rng):
    return rng.choice(["GBP", "CHF", "SEK", "JPY"])


def limited(call, kind, seconds=0.03):
    with background.Limit(seconds, kind):
        call()


class JobTimeout(Exception):
    pass


CASES = []


def case(label, task, *ways):
    CASES.append((label, task, ways))


# -- over HTTP
for status in (404, 401, 429, 500, 503):
    case(f"prices-{status}", "prices", lambda r, s=status: http.fetch_prices(web(r, s), ident(r)))
    case(
        f"stock-{status}",
        "stock",
        lambda r, s=status: http.push_stock(web(r, s), ident(r), r.randrange(99)),
    )
    case(f"feed-{status}", "feeds", lambda r, s=status: http.read_feed(web(r, s), ident(r)),
         lambda r, s=status: http.sync_supplier(web(r, s), ident(r)))  # fmt: skip
case("prices-refused", "prices", lambda r: http.fetch_prices(dead(r), ident(r)))
case("prices-slow", "prices", lambda r: http.fetch_prices(web(r, "slow"), ident(r)))
case("prices-cut", "prices", lambda r: http.fetch_prices(web(r, "cut"), ident(r)))
case("prices-garbage", "prices", lambda r: http.fetch_prices(web(r, "garbage"), ident(r)))
case("prices-missing", "prices", lambda r: http.fetch_prices(web(r, "200"), ident(r)))
case(
    "prices-unknown-host",
    "prices",
    lambda r: http.fetch_prices(f"http://h{r.randrange(999)}.invalid", ident(r)),
)
case("stock-refused", "stock", lambda r: http.push_stock(dead(r), ident(r), 1))
case("stock-slow", "stock", lambda r: http.push_stock(web(r, "slow"), ident(r), 1))
case("stock-cut", "stock", lambda r: http.push_stock(web(r, "cut"), ident(r), 1))
case("stock-garbage", "stock", lambda r: http.push_stock(web(r, "garbage"), ident(r), 1))
case("feed-refused", "feeds", lambda r: http.read_feed(dead(r), ident(r)),
     lambda r: http.sync_supplier(dead(r), ident(r)))  # fmt: skip
case("feed-slow", "feeds", lambda r: http.read_feed(web(r, "slow"), ident(r)),
     lambda r: http.sync_supplier(web(r, "slow"), ident(r)))  # fmt: skip
case(
    "answer-error",
    "feeds",
    lambda r: http.check_answer(
        {"status": "no", "error": f"the supplier's licence {ident(r)} has run out"}
    ),
)
case("answer-empty", "feeds", lambda r: http.check_answer({"status": "ok", "items": []}))
case(
    "answer-price",
    "feeds",
    lambda r: http.check_answer({"status": "ok", "items": [{"id": ident(r), "price": -1}]}),
)
# -- orders
case(
    "currency",
    "bill",
    lambda r: orders.convert(3, currency(r)),
    lambda r: orders.total([{"amount": 3, "currency": currency(r)}]),
    lambda r: orders.totals([order(r, lines=[{"amount": 1, "currency": currency(r)}])]),
)
case("amount", "bill", lambda r: orders.convert(f"{ident(r)}x", "EUR"))
case("no-orders", "bill", lambda r: orders.average([]))
case("city", "zones", lambda r: orders.zone_of(r.choice(["Rome", "Oslo", "Bern"])))
case(
    "zip",
    "ship",
    lambda r: orders.ship(order(r, city=r.choice("xyz"), zip="")),
    lambda r: orders.ship_all([order(r, city="q", zip="")]),
)
case(
    "zip-letters",
    "ship",
    lambda r: orders.ship(order(r, city=r.choice("xyz"), zip=r.choice("KLM"))),
)
case("zone-offset", "ship", lambda r: orders.ship(order(r, city="nn", zone_offset=None)))
case("empty-order", "bill", lambda r: orders.validate(order(r, lines=[])))
case("negative", "bill", lambda r: orders.validate(order(r, total=-r.randrange(1, 500))))
case("no-customer", "bill", lambda r: orders.validate(order(r, customer=None)))
case("bad-currency", "bill", lambda r: orders.validate(order(r, currency=currency(r))))
case("declined", "bill", lambda r: orders.charge(lambda o: {"declined": True}, order(r)))
for code in (12, 40):
    case(
        f"gateway-{code}",
        "bill",
        lambda r, c=code: orders.charge(lambda o: {"declined": False, "code": c}, order(r)),
    )
case("no-receipt", "bill", lambda r: orders.charge(lambda o: {"declined": 0, "code": 0}, order(r)))
case(
    "refund-role",
    "refund",
    lambda r: orders.refund({"name": r.choice(["ann", "bob"]), "roles": []}, order(r)),
)
case(
    "refund-fee",
    "refund",
    lambda r: orders.refund({"name": "ann", "roles": ["admin"]}, order(r, paid=5, fee=None)),
)
case(
    "no-name",
    "bill",
    lambda r: orders.customer_name(
        types.SimpleNamespace(customer=types.SimpleNamespace(name=None))
    ),
)
case("nobody", "bill", lambda r: orders.customer_name(types.SimpleNamespace(customer=None)))


def twice(rng, ref=True, bulk=False):
    db, number, name = orders.open_db(), rng.randrange(1000), f"r{ident(rng)}"
    rows = [(number, name, 1), (number + ref, name if ref else f"{name}b", 1)]
    if bulk:
        orders.store_many(db, rows)
    for row in rows:
        orders.store(db, *row)


case("ref-twice", "store", lambda r: twice(r), lambda r: twice(r, bulk=True))
case("id-twice", "store", lambda r: twice(r, ref=False))
case("no-quantity", "store", lambda r: orders.store(orders.open_db(), r.randrange(99), "a", None))
case("quantity-zero", "store", lambda r: orders.store(orders.open_db(), r.randrange(99), "a", 0))
case("no-table", "store", lambda r: orders.find(orders.open_db(), "gone", r.randrange(99)))
case("bad-sql", "store", lambda r: orders.find(orders.open_db(), "orders", "1 and and 2"))


def locked(rng):
    name = path(rng, suffix=".db")
    one = orders.open_db(name)
    one.execute("begin exclusive")
    orders.store(orders.open_db(name), 1, ident(rng), 1)


case("db-locked", "store", locked)
# -- SQLAlchemy
case(
    "email-twice",
    "customers",
    lambda r: records.bring_in(records.open_session(), [(f"a{ident(r)}@x.com", "a")] * 2),
    lambda r: [records.add(s, email="a@x.com", name="a") for s in [records.open_session()] * 2],
)
case(
    "name-missing",
    "customers",
    lambda r: records.register(records.open_session(), f"{ident(r)}@x.com", None),
)
case(
    "no-such-customer",
    "customers",
    lambda r: records.by_email(records.open_session(), f"{ident(r)}@x.com"),
)
case(
    "no-such-report",
    "customers",
    lambda r: records.report(records.open_session(), "reports", r.randrange(99)),
)
case(
    "no-column",
    "customers",
    lambda r: records.wrong_column(records.open_session(), r.randrange(99)),
)
# -- files
case(
    "settings-missing",
    "start",
    lambda r: files.load_settings(path(r)),
    lambda r: files.settings(path(r)),
)
case(
    "settings-section",
    "start",
    lambda r: files.load_settings(path(r, "[other]\na = 1\n")),
    lambda r: files.settings(path(r, "[else]\na = 1\n")),
)
case("settings-option", "start", lambda r: files.load_settings(path(r, "[shop]\na = 1\n")))
case("settings-syntax", "start", lambda r: files.load_settings(path(r, "currency = 1\n")))
case("not-a-zip", "import", lambda r: files.unpack(path(r, "hello"), "a.txt"))
case("no-member", "import", lambda r: files.unpack(zipped(r), f"{ident(r)}.txt"))
case("no-zip", "import", lambda r: files.unpack(path(r), "a.txt"))
case(
    "row-number",
    "import",
    lambda r: files.read_rows(path(r, f"id,price,name\nx{ident(r)},2,a\n")),
    lambda r: files.parse_row({"id": f"n{ident(r)}", "price": "2", "name": "x"}),
)
case("row-price", "import", lambda r: files.read_rows(path(r, f"id,price,name\n1,{ident(r)}y,a\n")))
case(
    "row-short",
    "import",
    lambda r: files.read_rows(path(r, f"id,price,name\n{r.randrange(9)},2\n")),
)
case("row-column", "import", lambda r: files.read_rows(path(r, "id,name\n1,b\n")))
case("row-quotes", "import", lambda r: files.read_rows(path(r, 'id,price,name\n1,"2"x,b\n')))
case(
    "row-encoding",
    "import",
    lambda r: files.read_rows(
        path(r, b"id,price,name\n1,2,caf" + bytes([r.choice([0xE9, 0xFF, 0xE8])]) + b"\n")
    ),
)
case("not-gz", "import", lambda r: files.read_gz(path(r, f"{r.choice('abc')}hello")))
case(
    "gz-cut",
    "import",
    lambda r: files.read_gz(path(r, gzip.compress(os.urandom(r.randrange(100, 900)))[:-12])),
)
case("gz-json", "import", lambda r: files.read_gz(path(r, gzip.compress(b"{'a': 1}"))))
case("archive-there", "clean", lambda r: files.archive("x", tempfile.mkdtemp()))
case("archive-gone", "clean", lambda r: files.archive(path(r), tempfile.mkdtemp() + "/new"))
case("remove-gone", "clean", lambda r: files.remove(path(r)))
case("remove-folder", "clean", lambda r: files.remove(tempfile.mkdtemp()))
for code in (3, 4):
    case(f"thumbnail-{code}", "media", lambda r, c=code: files.thumbnail(path(r), c))
    case(f"probe-{code}", "media", lambda r, c=code: files.probe(path(r), c))
case("video-3", "media", lambda r: files.convert_video(path(r), 3))
case("killed", "media", lambda r: files.kill_itself(9, path(r)))
case("segfault", "media", lambda r: files.kill_itself(11, path(r)))
case("no-program", "media", lambda r: files.run([f"convert{r.randrange(9)}", path(r)]))
case("too-slow", "media", lambda r: files.slow(path(r)))


# -- mail
def refused(verb, answer):
    return lambda r: mail.send(*servers.mail(verb, answer), f"u{ident(r)}@x.com", "Hi")


case("mail-unknown-user", "mail", refused("RCPT", "550 5.1.1 no such user"),
     lambda r: mail.newsletter(*servers.mail("RCPT", "550 5.1.1 no such user"),
                               [f"{ident(r)}@x.org"]),
     lambda r: mail.receipt(*servers.mail("RCPT", "550 5.1.1 no such user"),
                            {"email": f"{ident(r)}@x.org", "id": ident(r)}))  # fmt: skip
case("mail-busy", "mail", refused("RCPT", "451 4.7.1 try again later"))
case("mail-sender", "mail", refused("MAIL", "553 5.7.1 sender refused"))
case("mail-data", "mail", refused("DATA", "554 5.7.1 spam"))
case("mail-closed", "mail", refused("close", ""))
case("mail-down", "mail", lambda r: mail.send("127.0.0.1", servers.nobody(), "a@x.com", "Hi"))
# -- background
case(
    "limit-crunch",
    "index",
    lambda r: limited(lambda: background.crunch(2), JobTimeout, r.choice([0.02, 0.03])),
    lambda r: limited(lambda: background.index_all(2), JobTimeout, 0.025),
)
case(
    "limit-wait",
    "index",
    lambda r: limited(lambda: background.wait_for_stock(2), JobTimeout, r.choice([0.02, 0.03])),
)
case("listen", "queue", lambda r: background.asyncio.run(background.listen(r.choice([0.01, 0.02]))))
case(
    "confirm",
    "queue",
    lambda r: background.asyncio.run(background.confirmed(r.choice([0.01, 0.02]))),
)
case("score", "rank", lambda r: background.score(r.randrange(99)),
     lambda r: background.score_all([r.randrange(99)]),
     lambda r: background.fan_out([r.randrange(99)]))  # fmt: skip
case("rank", "rank", lambda r: background.rank(r.randrange(99)),
     lambda r: background.rank_all([r.randrange(99)]),
     lambda r: background.rank_apart([r.randrange(99)]))  # fmt: skip
case("recursion", "rank", lambda r: background.recurse(0), lambda r: background.bounce(0))
