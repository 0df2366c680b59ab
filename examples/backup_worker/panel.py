"""The customer's page. It never says that a backup runs when none does, and it always says why.

`flask --app panel:site run`. A real panel has its own way to know who asks.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

import sqlalchemy
from backups import STORE, app, backup
from flask import Flask, abort, redirect
from models import engine, find_account
from werkzeug.wrappers import Response

import failbetter
from failbetter.integrations.wsgi import HealthApp

site = Flask(__name__)
# /health and the other endpoints, for whoever is on call.
site.wsgi_app = HealthApp(app, site.wsgi_app)  # type: ignore[method-assign]

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
{again}
<title>Backups of {customer}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 2rem auto }}
p.failed {{ border-left: 4px solid #b00; padding-left: .8rem }}
p.completed {{ border-left: 4px solid #080; padding-left: .8rem }}
p.pending, p.running {{ border-left: 4px solid #06c; padding-left: .8rem }}
small {{ color: #555; display: block }}
</style>
</head>
<body>
<h1>Backups of {customer}</h1>
<p class="{status}"><b>{title}</b><small>{detail}</small></p>
<form method="post" action="/customers/{customer}/backups">
<button{disabled}>Back up now</button>
</form>
<ul>
{archives}
</ul>
</body>
</html>
"""
TITLES = {
    "pending": "Waiting",
    "running": "Your backup is being made",
    "completed": "Your last backup is complete",
    "failed": "Your last backup failed",
}
ROW = sqlalchemy.text(
    "SELECT status, error_message, requested_at, ended_at FROM customer_backup_jobs"
    " WHERE customer = :customer"
)
ASK = sqlalchemy.text(
    "INSERT INTO customer_backup_jobs (customer, status, requested_at)"
    " VALUES (:customer, 'pending', UTC_TIMESTAMP())"
    " ON DUPLICATE KEY UPDATE requested_at = UTC_TIMESTAMP()"
)


@site.get("/customers/<customer>")
def page(customer: str) -> str:
    """How the last backup stands, and which there are."""
    if find_account(customer) is None:
        abort(404)
    with engine.connect() as connection:
        row = connection.execute(ROW, {"customer": customer}).mappings().first()
    status = "none" if row is None else row["status"]
    live = status in ("pending", "running")
    return PAGE.format(
        customer=escape(customer),
        again='<meta http-equiv="refresh" content="2">' if live else "",
        status=status,
        title=TITLES.get(status, "There is no backup yet"),
        detail=escape(_detail(customer, row)),
        disabled=" disabled" if live else "",
        archives="\n".join(f"<li>{escape(name)}</li>" for name in _archives(customer)),
    )


@site.post("/customers/<customer>/backups")
def ask(customer: str) -> Response:
    """Have a backup made: the customer's row and the job are one commit, so that neither is there
    without the other, whatever becomes of Redis."""
    if find_account(customer) is None:
        abort(404)
    with engine.begin() as connection:
        connection.execute(ASK, {"customer": customer})
        backup.using(connection=connection).enqueue(customer)
    return redirect(f"/customers/{customer}", code=303)


def _detail(customer: str, row: sqlalchemy.RowMapping | None) -> str:
    if row is None:
        return ""
    if row["status"] in ("pending", "running"):
        job = _job(customer)
        waits = None if job is None else job.waiting_for()
        return waits or "It has just begun."
    return row["error_message"] or f"{row['ended_at']} UTC"


def _job(customer: str) -> failbetter.Job | None:
    return next(iter(app.jobs.where(task="backup", args={"customer": customer}).limit(1)), None)


def _archives(customer: str) -> list[str]:
    folder = STORE / Path(customer).name
    return sorted((path.name for path in folder.glob("*.tar.gz")), reverse=True)
