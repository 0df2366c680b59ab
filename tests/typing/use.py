"""How a user's code sees failbetter's types. Never run: mypy --strict reads it (test_typing.py).

A line that ends in `# error: CODE, …` must be refused by mypy with those codes; all others pass.
"""

import contextlib
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

import failbetter
from failbetter import (
    App,
    Backoff,
    Health,
    Job,
    Jobs,
    MirrorCheck,
    MirrorRow,
    Operation,
    Preview,
    Report,
    RunningJob,
    Task,
)
from failbetter.integrations import asgi, wsgi

app = App("sqlite:///jobs.db", lease="30s", durability="relaxed")
App("sqlite:///jobs.db", durability="none")  # error: arg-type
App("sqlite:///jobs.db", leese=5)  # error: call-arg


# -- tasks keep their function's signature


@app.task
def upload(path: str, *, size: int = 1) -> bytes:
    return path.encode() * size


@app.task(
    name="nap",
    queue="slow",
    priority=3,
    max_attempts=8,
    backoff=failbetter.exponential(5, cap="1h", jitter=False),
    retry_on=(OSError, ValueError),
    fail_on=KeyError,
    timeout=timedelta(minutes=2),
    expires_after="1h",
    release_within=60.5,
    unique=lambda seconds: seconds,
    exclusive=lambda seconds: "one",
    tags=("a",),
    replay="confirm",
    on_lost="fail",
    redact=["seconds"],
)
async def nap(seconds: float) -> str:
    return "woke"


assert_type(upload("a.png", size=2), bytes)
assert_type(upload.enqueue("a.png", size=2), Job)
assert_type(nap.enqueue(1.5), Job)
coroutine: Coroutine[Any, Any, str] = nap(1.5)
assert_type(upload.using(run_after="5m", queue="q", priority=1).enqueue("a.png"), Job)
assert_type(upload.enqueue_many([("a.png",), {"path": "b.png"}]), list[Job])
assert_type(upload.name, str)
assert_type(app.find_task("upload"), Task[..., Any])

app.mirror(
    "shop.uploads",
    key="id",
    from_arg="path",
    status="status",
    error="error",
    ended_at="ended_at",
    values={"pending": "new", "failed(timeout)": 7, "succeeded": None},
    tasks=[upload, "nap"],
    url="sqlite:///shop.db",
)
app.mirror("uploads", key="id", from_arg="path")
app.mirror("uploads", status="status")  # error: call-arg
app.mirror("uploads", key="id", from_arg="path", values={"failed": 1.5})  # error: dict-item
assert_type(app.check_mirrors(dry_run=True, limit=5), MirrorCheck)
assert_type(app.check_mirrors().rows, list[MirrorRow])

upload.enqueue(5)  # error: arg-type
upload.enqueue()  # error: call-arg
upload.enqueue("a.png", sizes=2)  # error: call-arg
upload.using().enqueue("a.png", 2)  # error: call-arg
upload.using(run_after=[1])  # error: arg-type


@app.task(replay="always")  # error: call-overload, untyped-decorator
def badly_replayed() -> None: ...


@app.task(max_attempts="3")  # error: call-overload, untyped-decorator
def badly_counted() -> None: ...


@app.task(max_atempts=3)  # error: call-overload, untyped-decorator
def badly_spelled() -> None: ...


for backoff in (5, "5s", timedelta(5), [1, "2s"], lambda n: n * 2, failbetter.fixed(1)):
    assert backoff

app.task(backoff=[1, "2s"])
app.task(backoff=lambda attempt: attempt * 2)
assert_type(failbetter.linear("5s", cap=60), Backoff)


# -- async callers


async def produce() -> None:
    assert_type(await upload.aenqueue("a.png"), Job)
    assert_type(await upload.aenqueue_many([("a.png",)]), list[Job])
    assert_type(await upload.using(run_after=1).aenqueue("a.png", size=1), Job)
    job = await upload.aenqueue("a.png")
    assert_type(await job.arefresh(), Job)
    assert_type(await job.acancel(), Job)
    assert_type(await job.aretry(), Job)
    assert_type(await job.adiscard(), Job)
    await job.aresult(timeout="5s")
    assert_type(await app.ahealth(), Health)
    await upload.aenqueue(5)  # error: arg-type


# -- jobs

job = app.job("0123456789abc")
assert_type(job.id, str)
assert_type(job.state, str)
assert_type(job.reason, str | None)
assert_type(job.attempt, int)
assert_type(job.attempts, list[failbetter.Attempt])
assert_type(job.effects, list[failbetter.Effect])
assert_type(job.args, dict[str, Any])
assert_type(job.tags, tuple[str, ...])
assert_type(job.created_at, datetime)
assert_type(job.ended_at, datetime | None)
assert_type(job.created, bool)
assert_type(job.over, bool)
assert_type(job.waiting_for(), str | None)
assert_type(job.refresh(), Job)
assert_type(job.cancel(), Job)
assert_type(job.retry(), Job)
for attempt in job.attempts:
    assert_type(attempt.cause, str)
    assert_type(attempt.ended_at, datetime)
    assert_type(attempt.evidence, dict[str, Any])

# -- queries

bad = app.failed.where(task="upload", error="OSError", message="*out*", since="2h")
assert_type(bad, Jobs)
assert_type(bad.where(until=datetime.now(UTC)).limit(5), Jobs)
assert_type(bad.count(), int)
assert_type(bad.retry(), Operation)
assert_type(bad.preview(), Preview)
assert_type(bad.preview().retry(rate=5, canary=3, note="up").report(), Report)
assert_type(app.operations, list[Operation])
assert_type(bad.discard(all=True).refused, dict[str, str])
assert_type(next(iter(app.jobs)), Job)
for group in bad.groups():
    assert_type(group, failbetter.Group)
    assert_type(group.count, int)
    assert_type(group.sample, Job)
bad.where(tusk="upload")  # error: call-arg
assert_type(app.health(), Health)
assert_type(app.health().as_dict(), dict[str, Any])


# -- in a body


@app.task
def charge(customer: int) -> str:
    running = failbetter.current_job()
    assert_type(running, RunningJob)
    assert_type(running.id, str)
    assert_type(running.attempt, int)
    assert_type(running.cancelled, bool)
    assert_type(running.effect_key("charge"), str)
    assert_type(running.once("charge", lambda: 5, not_done=(OSError,)), int)
    running.log.info("charging %d", customer)
    running.once("charge", lambda: 5, not_done=OSError)  # error: arg-type
    if customer < 0:
        raise failbetter.Fail("no such customer")
    raise failbetter.Release(after=failbetter.Retry(after="5m"))


async def refund() -> str:
    return "r"


@app.task
async def acharge() -> None:
    assert_type(await failbetter.current_job().aonce("refund", refund), str)


# -- fingerprints

assert_type(
    failbetter.fingerprint(
        failbetter.Failure(
            task="upload",
            error_type="OSError",
            message="x",
            frames=[failbetter.Frame("a.py", "f", 1, "x()", module="a")],
            causes=[failbetter.Failure(task="upload", error_type="KeyError")],
        )
    ),
    str,
)
failbetter.Failure("upload", "OSError")  # error: call-arg


# -- sites

asgi.HealthApp(app, asgi.RecoveryMiddleware(asgi.HealthApp(app), app, wait="1s"), prefix="/x")
wsgi.HealthApp(app, wsgi.RecoveryMiddleware(wsgi.HealthApp(app), app, timeout="15s"))
assert_type(wsgi.start_background(app, worker="shop:app", processes=2), wsgi.Background)
assert_type(asgi.lifespan(app, worker=True)(object()), contextlib.AbstractAsyncContextManager[None])
asgi.lifespan(app, wait=5)  # error: call-arg
wsgi.HealthApp()  # error: call-arg
