"""What goes wrong in the laboratory; held out, and written after the rule was settled."""

import asyncio
import base64
import bz2
import io
import tarfile

from lab import tables
from lab.api import Api
from lab.jobs import measure, remote

import servers

CASES = []
WEB = [servers.web() for _ in range(2)]
tables.prepare()


def case(label, task, *ways):
    CASES.append((label, task, ways))


def n(rng):
    return rng.randrange(1, 10**6)


def web(rng, how):
    return f"{rng.choice(WEB)}/{how}"


def dead():
    return f"http://127.0.0.1:{servers.nobody()}"


def reading(rng, **changes):
    return {"id": n(rng), "value": "1.5", "device": "d1", "state": {}, **changes}


for status in (404, 429, 500, 503):
    case(f"sample-{status}", "sample", lambda r, s=status: Api(web(r, s)).sample(n(r)))
    case(f"submit-{status}", "submit", lambda r, s=status: Api(web(r, s)).submit(n(r), 1))
    case(f"fetch-{status}", "fetch", lambda r, s=status: asyncio.run(remote.fetch(web(r, s), n(r))),
         lambda r, s=status: asyncio.run(remote.fetch_all(web(r, s), [n(r)])))  # fmt: skip
    if status != 404:
        case(f"exists-{status}", "exists", lambda r, s=status: remote.exists(web(r, s), n(r)))
case("sample-down", "sample", lambda r: Api(dead()).sample(n(r)))
case("sample-slow", "sample", lambda r: Api(web(r, "slow")).sample(n(r)))
case("sample-garbage", "sample", lambda r: Api(web(r, "garbage")).sample(n(r)))
case("submit-slow", "submit", lambda r: Api(web(r, "slow")).submit(n(r), 1))
case("submit-down", "submit", lambda r: Api(dead()).submit(n(r), 1),
     lambda r: Api(dead()).submit_stubbornly(n(r), 1, r.randrange(3)))  # fmt: skip
case("fetch-down", "fetch", lambda r: asyncio.run(remote.fetch(dead(), n(r))))
case("fetch-slow", "fetch", lambda r: asyncio.run(remote.fetch(web(r, "slow"), n(r))))
case("fetch-cut", "fetch", lambda r: asyncio.run(remote.fetch(web(r, "cut"), n(r))))
case("fetch-garbage", "fetch", lambda r: asyncio.run(remote.fetch(web(r, "garbage"), n(r))))
case("exists-down", "exists", lambda r: remote.exists(dead(), n(r)))
case("ftp-down", "archive", lambda r: remote.archive("127.0.0.1", servers.nobody(), n(r)))
case(
    "ftp-web",
    "archive",
    lambda r: remote.archive("127.0.0.1", int(r.choice(WEB).rsplit(":", 1)[1]), n(r)),
)
case("imap-down", "inbox", lambda r: remote.inbox("127.0.0.1", servers.nobody()))
case("mysql-down", "warehouse", lambda r: remote.warehouse(servers.nobody()))


def twice(code):
    tables.record(code, 1)
    tables.record(code, 2)


def two_alike(weight):
    tables.record(f"a{weight}", weight)
    tables.record(f"b{weight}", weight)
    tables.by_weight(weight)


case("code-twice", "tables", lambda r: twice(f"L{n(r)}"))
case("weight-none", "tables", lambda r: tables.record(f"M{n(r)}", None))
case("weight-text", "tables", lambda r: tables.record(f"N{n(r)}", f"w{n(r)}"))
case("no-sample", "tables", lambda r: tables.reweigh(f"none{n(r)}", 1))
case("no-field", "tables", lambda r: tables.heavier("colour", n(r)))
case("two-alike", "tables", lambda r: two_alike(n(r)))
case("no-weight", "tables", lambda r: tables.by_weight(-n(r)))
# -- measuring
case("value-text", "measure", lambda r: measure.mean([reading(r, value=f"v{n(r)}")]),
     lambda r: measure.calibrate([reading(r, value=f"v{n(r)}")], {"d1": 1}),
     lambda r: measure.report([reading(r, value=f"v{n(r)}")], {"d1": 1}))  # fmt: skip
case("value-missing", "measure", lambda r: measure.mean([{"id": n(r)}]))
case("value-kind", "measure", lambda r: measure.mean([reading(r, value=[n(r)] * 4)]))
case("nothing", "measure", lambda r: measure.mean([]))
case("no-factor", "measure",
     lambda r: measure.calibrate([reading(r, device=f"d{n(r)}")], {}),
     lambda r: measure.report([reading(r, device=f"d{n(r)}")], {}))  # fmt: skip
case("factor-none", "measure", lambda r: measure.calibrate([reading(r)], {"d1": None}))
case("no-values", "measure", lambda r: measure.report([], {}))
case("cleanup", "measure", lambda r: measure.report([reading(r, value="x", state=None)], {"d1": 1}))
case("base64", "unpack", lambda r: measure.unpack(f"!{n(r)}"))
case("bz2", "unpack", lambda r: measure.unpack(base64.b64encode(b"x%d" % n(r))))
case("bz2-json", "unpack", lambda r: measure.unpack(base64.b64encode(bz2.compress(b"[%d" % n(r)))))


def tar(member):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(member))
    path = f"/tmp/{member}.tar"
    with open(path, "wb") as file:
        file.write(data.getvalue())
    return path


case("tar-member", "unpack", lambda r: measure.from_tar(tar(f"m{n(r)}"), f"other{n(r)}"))
case("tar-missing", "unpack", lambda r: measure.from_tar(f"/tmp/gone{n(r)}.tar", "m"))
case("tar-broken", "unpack", lambda r: measure.from_tar(__file__, f"m{n(r)}"))
case("spectrum-kind", "spectrum", lambda r: measure.spectrum([f"x{n(r)}"]))
case("spectrum-zero", "spectrum", lambda r: measure.spectrum([0.0, n(r)]))
case("weighs-nothing", "check", lambda r: measure.check({"code": f"L{n(r)}", "weight": -n(r)}))
case("other-laboratory", "check", lambda r: measure.check({"code": f"X{n(r)}", "weight": n(r)}))
for problem in ("the seal of {} is broken", "the label of {} cannot be read"):
    case(
        problem[4:8],
        "check",
        lambda r, p=problem: measure.check({"code": "L1", "weight": 1, "problem": p.format(n(r))}),
    )
case("no-code", "check", lambda r: measure.check({"weight": n(r)}))
case("limit-fit", "fit", lambda r: measure.under_limit(1, measure.fit, 10**8))
case("limit-simulate", "fit", lambda r: measure.under_limit(1, measure.simulate, 10**8))
