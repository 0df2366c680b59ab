"""What goes wrong at the press; held out: the rule was not made with these."""

import asyncio
import os
import shutil
import signal
import socketserver
import subprocess
import tempfile

from press import nightly, render, wire
from press.io import bucket, cache, database

import servers

CASES = []
WEB = [servers.web() for _ in range(2)]


def case(label, task, *ways):
    CASES.append((label, task, ways))


def ident(rng):
    return rng.choice([str(rng.randrange(10**6)), f"{rng.getrandbits(48):x}", "p/q-7"])


def web(rng, how):
    return f"{rng.choice(WEB)}/{how}"


def dead(rng):
    return f"http://127.0.0.1:{servers.nobody()}"


def redis_port():
    port = servers.nobody()
    program = shutil.which("redis-server")
    if program is None:
        return None
    one = subprocess.Popen(
        [program, "--port", str(port), "--save", "", "--dir", tempfile.mkdtemp()],
        stdout=subprocess.DEVNULL, preexec_fn=lambda: signal.alarm(300),
    )  # fmt: skip
    for _ in range(100):
        try:
            servers.socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            servers.time.sleep(0.05)
    import atexit

    atexit.register(one.kill)
    return port


REDIS = redis_port()


def wrong_kind(rng):
    name, store = ident(rng), cache.Cache(REDIS)
    store.client.delete(f"press:{name}")
    store.push(name, 1)
    store.count(name)


def not_a_number(rng):
    name, store = ident(rng), cache.Cache(REDIS)
    store.client.delete(f"press:{name}")
    store.remember(name, f"t{ident(rng)}")
    store.count(name)


case("cache-down", "cache", lambda r: cache.Cache(servers.nobody()).count(ident(r)))
case("cache-down-set", "cache", lambda r: cache.Cache(servers.nobody()).remember(ident(r), 1))
if REDIS:
    case("cache-kind", "cache", wrong_kind)
    case("cache-number", "cache", not_a_number)
    case("cache-nothing", "cache", lambda r: cache.Cache(REDIS).recall(f"gone{ident(r)}"))
    case("cache-type", "cache", lambda r: cache.Cache(REDIS).remember(ident(r), {"a": 1}))


class Store(servers.http.server.BaseHTTPRequestHandler):
    """As S3, to fail with the code that the bucket's name says."""

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        code = self.path.split("/")[1].split(".")[0]
        status, name = {"gone": (404, "NoSuchKey"), "nobucket": (404, "NoSuchBucket"),
                        "denied": (403, "AccessDenied"), "busy": (503, "SlowDown"),
                        }.get(code, (404, "NoSuchKey"))  # fmt: skip
        body = f"<Error><Code>{name}</Code><Message>No {name} for {self.path}</Message></Error>"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    do_PUT = do_GET

    def log_message(self, *args):
        pass


S3 = servers.started(servers.Quiet(("127.0.0.1", 0), Store))
ENDPOINT = f"http://127.0.0.1:{S3.server_address[1]}"
for name in ("gone", "nobucket", "denied", "busy"):
    case(f"download-{name}", "mirror", lambda r, n=name: bucket.download(ENDPOINT, n, ident(r)))
    case(f"upload-{name}", "store", lambda r, n=name: bucket.upload(ENDPOINT, n, ident(r), b"x"))
case("download-mirrored", "mirrors", lambda r: bucket.mirror(ENDPOINT, [ident(r)]))
case("download-down", "mirror", lambda r: bucket.download(dead(r), "gone", ident(r)))
case("upload-down", "store", lambda r: bucket.upload(dead(r), "gone", ident(r), b"x"))
case(
    "download-bucket-name",
    "mirror",
    lambda r: bucket.download(ENDPOINT, f"No Good {r.randrange(99)}", ident(r)),
)

POSTGRES = os.environ.get("CORPUS_POSTGRES")


def pages(*rows, bulk=False):
    conn = database.connect(POSTGRES)
    database.prepare(conn)
    if bulk:
        database.save_issue(conn, rows)
    for row in rows:
        database.save(conn, *row)


def n(rng):
    return rng.randrange(10**5)


if POSTGRES:
    case(
        "page-twice",
        "pages",
        lambda r: pages(*[(7 + n(r), f"s{n(r)}", "t", 1)] * 2),
        lambda r: pages(*[(7 + n(r), f"s{n(r)}", "t", 1)] * 2, bulk=True),
    )
    case(
        "slug-twice",
        "pages",
        lambda r: [pages((1, s, "t", 1), (2, s, "t", 1)) for s in [f"s{n(r)}"]],
    )
    case("no-title", "pages", lambda r: pages((n(r), f"s{n(r)}", None, 1)))
    case("size", "pages", lambda r: pages((n(r), f"s{n(r)}", "t", -n(r) - 1)))
    case("size-text", "pages", lambda r: pages((n(r), f"s{n(r)}", "t", f"x{n(r)}")))
    case(
        "pg-table",
        "pages",
        lambda r: database.lookup(
            database.connect(POSTGRES), f"select * from nothing where id = {n(r)}"
        ),
    )
    case(
        "pg-column",
        "pages",
        lambda r: database.lookup(
            database.connect(POSTGRES), f"select colour from pg_class where relpages = {n(r)}"
        ),
    )
    case(
        "pg-syntax",
        "pages",
        lambda r: database.lookup(database.connect(POSTGRES), f"select from from {n(r)}"),
    )
    case(
        "pg-slow",
        "pages",
        lambda r: database.slow_report(database.connect(POSTGRES), r.choice([1, 2])),
    )
    case(
        "pg-database",
        "pages",
        lambda r: database.connect(POSTGRES.replace("/postgres", f"/none{n(r)}")),
    )
case(
    "pg-down",
    "pages",
    lambda r: database.connect(f"postgresql://u{n(r)}:x@127.0.0.1:{servers.nobody()}/db"),
)
# -- rendering
case("template-missing", "render", lambda r: render.render(r.choice(["about", "about"])))
case("template-value", "render", lambda r: render.render("page"))
case("template-attribute", "render", lambda r: render.front_page([{"name": ident(r)}]))
case("template-broken", "render", lambda r: render.render("broken"))
case("template-zero", "render", lambda r: render.render("sum", count=0))
case("no-pages", "render", lambda r: render.front_page([]))
case("article-words", "article", lambda r: render.article({"title": ident(r), "words": f"x{n(r)}"}))
case(
    "meta-syntax",
    "manuscript",
    lambda r: render.meta(f"title: [{n(r)}, 'a"),
    lambda r: render.manuscript(f"title: [{n(r)}, 'a"),
)
case(
    "meta-title",
    "manuscript",
    lambda r: render.meta(f"name: {n(r)}"),
    lambda r: render.manuscript(f"size: {n(r)}"),
)
case("meta-empty", "manuscript", lambda r: render.meta(""), lambda r: render.manuscript("# x"))
case("title-long", "manuscript", lambda r: render.manuscript("title: " + "ab " * (20 + n(r) % 50)))
case("title-loud", "manuscript", lambda r: render.manuscript(f"title: LOUD{n(r)}"))
case("no-rank", "index", lambda r: render.headline([{"title": ident(r)}]))
case("no-articles", "index", lambda r: render.headline([]))
case("no-words", "index", lambda r: render.index([{"slug": ident(r), "parts": [{}]}]))
case("no-parts", "index", lambda r: render.index([{"slug": ident(r)}]))
case("words-none", "index", lambda r: render.index([{"slug": "a", "parts": [{"words": None}]}]))
# -- the wire
for status in (404, 500, 502, 418):
    case(f"ask-{status}", "ask", lambda r, s=status: wire.ask(web(r, s), ident(r)))
case("ask-down", "ask", lambda r: wire.ask(dead(r), ident(r)))
case("ask-down-again", "asks", lambda r: wire.ask_again(dead(r), ident(r)))
case("ask-slow", "ask", lambda r: wire.ask(web(r, "slow"), ident(r)))
case("ask-garbage", "ask", lambda r: wire.ask(web(r, "garbage"), ident(r)))
case("ask-cut", "ask", lambda r: wire.ask(web(r, "cut"), ident(r)))
case("ask-host", "ask", lambda r: wire.ask(f"http://x{n(r)}.invalid", ident(r)))
case("tls-plain", "tls", lambda r: wire.handshake("127.0.0.1", int(WEB[0].rsplit(":", 1)[1])))
case("tls-down", "tls", lambda r: wire.handshake("127.0.0.1", servers.nobody()))


class Hangs(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.close()


HANGS = servers.started(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Hangs))
case("tls-closed", "tls", lambda r: wire.handshake("127.0.0.1", HANGS.server_address[1]))
case(
    "dial-down", "dial", lambda r: wire.dial(r.choice(["127.0.0.1", "localhost"]), servers.nobody())
)
case("dial-host", "dial", lambda r: wire.dial(f"q{n(r)}.invalid", 80))
case("header-short", "feed", lambda r: wire.header(b"x" * r.randrange(5)))
case("feed-syntax", "feed", lambda r: wire.feed("<feed>" * r.randrange(1, 5)))
case("feed-title", "feed", lambda r: wire.feed("<feed><entry/></feed>"))
case("feed-text", "feed", lambda r: wire.feed("<feed><entry><title/></entry></feed>"))
case("date", "feed", lambda r: wire.published({"date": f"{n(r)}.1", "zone": "UTC"}))
case("no-date", "feed", lambda r: wire.published({"id": ident(r)}))
case("no-zone", "feed", lambda r: wire.published({"date": "2024-01-02", "id": ident(r)}))
case("zone", "feed", lambda r: wire.published({"date": "2024-01-02", "zone": f"Mars/B{n(r)}"}))
case("address", "feed", lambda r: wire.allowed(f"10.0.0.{300 + n(r)}"))
case("plugin", "plugins", lambda r: wire.plugin("gone"))
case("port-taken", "bind", lambda r: wire.bind(int(r.choice(WEB).rsplit(":", 1)[1])))
case("port-wrong", "bind", lambda r: wire.bind(70000 + n(r)))
# -- the night
case(
    "no-page-count",
    "night",
    lambda r: nightly.words_per_page(n(r), 0),
    lambda r: nightly.safe_words(n(r), 0),
    lambda r: nightly.chain([nightly.Step("a", lambda w: nightly.words_per_page(w, 0))], n(r)),
)
case("pick", "night", lambda r: nightly.pick([], n(r)), lambda r: nightly.safe_pick([1], 5 + n(r)))
case(
    "publish-charset",
    "night",
    lambda r: nightly.publish({"body": "é" + ident(r), "charset": "ascii"}, [1]),
)
case("publish-codec", "night", lambda r: nightly.publish({"body": "x", "charset": "klingon"}, [1]))
case(
    "publish-target", "night", lambda r: nightly.publish({"body": "x", "charset": "ascii"}, [None])
)
case("publish-body", "night", lambda r: nightly.publish({"charset": "ascii"}, [None]))
case(
    "proof",
    "night",
    lambda r: asyncio.run(nightly.together([{"id": ident(r)}])),
    lambda r: asyncio.run(nightly.gathered([{"id": ident(r)}])),
)
case("idle", "night", lambda r: asyncio.run(nightly.within(0.01, nightly.idle())))
case(
    "stuck",
    "night",
    lambda r: asyncio.run(nightly.within(r.choice([0.01, 0.02]), nightly.stuck())),
)
case("paper", "night", lambda r: asyncio.run(nightly.printed([1])))
case("queue", "night", lambda r: nightly.take(r.choice([0.01, 0.02])))
case("barrier", "night", lambda r: nightly.barrier(r.choice([0.01, 0.02])))
case("printer", "night", lambda r: nightly.wait_for_printer(r.choice([0.01, 0.02])))
case("setting", "night", lambda r: nightly.setting("PRESS_HOST"))
case("nothing", "night", lambda r: nightly.plan([]))
case("plan-size", "night", lambda r: nightly.plan([{"id": 1, "size": f"x{n(r)}"}]))
case("plan-id", "night", lambda r: nightly.plan([{"size": 3}]))
case("plan-zero", "night", lambda r: nightly.plan([{"id": n(r), "size": "0"}]))
