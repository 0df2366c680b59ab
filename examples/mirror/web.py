"""The web front: a page that shows how far each mirror job is, and the endpoints for health.

`uvicorn web:site` serves it and, as small sites may, runs the jobs with a worker of its own. A
larger one has `failbetter worker` run them and leaves `worker=` out.
"""

from __future__ import annotations

from html import escape

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from tasks import app, mirror_owner, owners, repositories

import failbetter
from failbetter.integrations.asgi import HealthApp, RecoveryMiddleware, lifespan

SHOWN = 20

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="1">
<title>Mirrors</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ text-align: left; vertical-align: top; padding: .4rem .8rem .4rem 0;
  border-top: 1px solid #ccc }}
form {{ display: inline }}
progress {{ width: 12rem }}
small {{ color: #555; display: block }}
</style>
</head>
<body>
<h1>Mirrors</h1>
<p>{buttons}</p>
<table>
<tr><th>Owner</th><th>State</th><th>Progress</th><th>Interrupted and failed attempts</th></tr>
{rows}
</table>
<p>{recovery} <a href="/health">health</a> <a href="/metrics">metrics</a></p>
</body>
</html>
"""


def page(_request: Request) -> Response:
    """All that is known, newest first. Works without scripts: it loads itself again."""
    jobs = app.jobs.where(task=mirror_owner.name).limit(SHOWN)
    filled = PAGE.format(
        buttons=" ".join(button_of(owner) for owner in owners()) or "There are no repositories.",
        rows="\n".join(row_of(job) for job in jobs),
        recovery=escape(recovery_text(app.recovery_status())),
    )
    return HTMLResponse(filled, headers={"Cache-Control": "no-store"})


def button_of(owner: str) -> str:
    """What asks for an owner's repositories to be mirrored."""
    label = f"Mirror {owner} ({len(repositories(owner))} repositories)"
    return button(f"/mirror/{owner}", label)


def button(action: str, label: str) -> str:
    """A form of one button."""
    return f'<form method="post" action="{escape(action)}"><button>{escape(label)}</button></form>'


def row_of(job: failbetter.Job) -> str:
    """A job's row of the table."""
    cells = (escape(str(job.args["owner"])), state_of(job), progress_of(job), story_of(job))
    return f'<tr id="{job.id}"><td>' + "</td><td>".join(cells) + "</td></tr>"


def state_of(job: failbetter.Job) -> str:
    """The state; what the job waits for, or what may be done about it."""
    text = job.state if job.reason is None else f"{job.state} ({job.reason})"
    parts = [escape(text)]
    if waits := job.waiting_for():
        parts.append(f"<small>{escape(waits)}</small>")
    if job.state == "failed":
        parts.append(f"<small>{escape(job.error_message or '')}</small>")
        parts.append(button(f"/retry/{job.id}", "Retry"))
    return " ".join(parts)


def progress_of(job: failbetter.Job) -> str:
    """A bar, the same in words, and the repositories that failed."""
    seen = job.progress
    if seen is None or seen.total is None:
        return "not begun"
    bar = f'<progress value="{seen.done}" max="{seen.total}"></progress>'
    text = f"{seen.done} of {seen.total}" + (f", {seen.failed} failed" if seen.failed else "")
    failed = "".join(
        f"<small>{escape(item.key)}: {escape(item.error_message or '')}</small>"
        for item in job.failed_items(limit=5)
    )
    return f"{bar} {text}{failed}"


def story_of(job: failbetter.Job) -> str:
    """Why earlier attempts ended without success."""
    return "".join(
        f"<small>{attempt.number}: {escape(attempt.cause)}"
        f" {escape(str(attempt.evidence.get('signal_name', '')))}</small>"
        for attempt in job.attempts
        if attempt.cause != "returned"
    )


def recovery_text(status: failbetter.RecoveryStatus) -> str:
    """What became of interrupted jobs."""
    at_start = 0 if status.last is None else status.last.handed_back
    swept = status.swept.handed_back
    return f"Interrupted jobs handed back: {at_start} at the last start, {swept} by all workers."


def start(request: Request) -> Response:
    """Ask for an owner's mirror run; while one is live, that is the one."""
    owner = request.path_params["owner"]
    if owner not in owners():
        raise HTTPException(404, "there is no such owner")
    mirror_owner.enqueue(owner)
    return RedirectResponse("/", status_code=303)


def retry(request: Request) -> Response:
    """Run a failed job again; what it has mirrored already is left out."""
    try:
        job = app.job(request.path_params["job"])
    except ValueError as error:
        raise HTTPException(404, str(error)) from None
    job.retry()
    return RedirectResponse("/", status_code=303)


def trouble(_request: Request, error: Exception) -> Response:
    """What failbetter says of a request that cannot be served, in its own words."""
    codes: dict[type[Exception], int] = {failbetter.JobNotFound: 404, failbetter.Refused: 409}
    return PlainTextResponse(f"{error}\n", codes.get(type(error), 503))


inner = Starlette(
    routes=[
        Route("/", page),
        Route("/mirror/{owner}", start, methods=["POST"]),
        Route("/retry/{job}", retry, methods=["POST"]),
    ],
    exception_handlers={failbetter.FailbetterError: trouble},
    lifespan=lifespan(app, worker="tasks:app", processes=2),
)
# A process recovers once, at its start. The middleware sees to that with the first request where
# a server runs no lifespan.
site = HealthApp(app, RecoveryMiddleware(inner, app))
