"""A hosting panel's backups: RQ's workers make them, and the customer's row tells how they went.

The ledger is in the panel's own database, so that a customer's row changes in the very transaction
that moves the job: it cannot say "running" of something that is not.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import sqlalchemy
from models import Account, find_account

import failbetter

PANEL = os.environ["PANEL_DATABASE"]
_DUMP = "database.sql"
STORE = Path(os.environ.get("BACKUP_STORE", "/srv/backups"))

app = failbetter.App(
    PANEL, engine=failbetter.RQ(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"))
)
app.mirror(
    "customer_backup_jobs",
    key="customer",
    from_arg="customer",
    status="status",
    error="error_message",
    ended_at="ended_at",
    values={"succeeded": "completed", "discarded": "failed"},
    tasks=["backup"],
)


@app.task(
    queue="backups",
    unique=lambda customer: customer,  # one active backup for each customer
    max_attempts=3,
    backoff=failbetter.exponential(2, cap=60),
    timeout="2h",
    expires_after="6h",
)
def backup(customer: str) -> str:
    """Files and database of a customer in one archive; its name."""
    account = _account(customer)
    job = failbetter.current_job()
    with _alone(customer) as folder:
        # What a killed attempt has left is of no use: an archive has its name once it is whole.
        shutil.rmtree(folder / "partial", ignore_errors=True)
        partial = folder / "partial"
        partial.mkdir()
        with (partial / _DUMP).open("wb") as dump:
            _run([_program("mariadb-dump", "mysqldump"), *_login(account)], stdout=dump)
        archive = partial / "archive.tar.gz"
        # The home by its own name: whatever the customer keeps in it, the dump is beside it.
        home = Path(account.home)
        both = ["-C", str(home.parent), home.name, "-C", str(partial), _DUMP]
        _run(["tar", "--create", "--gzip", f"--file={archive}", *both])
        whole = folder / f"{job.id}.tar.gz"
        archive.rename(whole)
        shutil.rmtree(partial)
    return whole.name


@app.task(
    queue="backups",
    # Half of a restore, run again by itself over what a customer has changed since, is worse than
    # none: whatever becomes of it, a person decides.
    max_attempts=1,
    on_lost="fail",
    replay="never",
    unique=lambda customer, archive: customer,
    timeout="2h",
)
def restore(customer: str, archive: str) -> None:
    """Put a customer's files and database back as they were."""
    account = _account(customer)
    with _alone(customer) as folder:
        found = folder / Path(archive).name
        if not found.is_file():
            raise failbetter.Fail("There is no such backup.")
        home = Path(account.home)
        extract = ["tar", "--extract", "--gzip", f"--file={found}"]
        _run([*extract, "-C", str(home.parent), home.name])
        _run([*extract, "-C", str(folder), _DUMP])
        with (folder / _DUMP).open("rb") as statements:
            _run([_program("mariadb", "mysql"), *_login(account)], stdin=statements)
        (folder / _DUMP).unlink()


def _account(customer: str) -> Account:
    account = find_account(customer)
    if account is None:
        raise failbetter.Fail("There is no such account.")
    return account


@contextlib.contextmanager
def _alone(customer: str) -> Iterator[Path]:
    """The customer's folder in the store, which one job at a time works in."""
    folder = STORE / customer
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise failbetter.Release(after=10) from None
        yield folder


def _login(account: Account) -> list[str]:
    """How MariaDB's programs are told where the database is; the password goes another way."""
    url = sqlalchemy.make_url(PANEL)
    return [
        f"--host={url.host or '127.0.0.1'}",
        f"--port={url.port or 3306}",
        f"--user={url.username or 'root'}",
        "--protocol=tcp",
        account.database_name,
    ]


def _program(*names: str) -> str:
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise failbetter.Fail("Backups are not set up on this server.")
    return found


def _run(
    command: Sequence[str], *, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None
) -> None:
    """Run a program to its end. Raises CalledProcessError with what it said."""
    password = sqlalchemy.make_url(PANEL).password
    environment = {**os.environ, "MYSQL_PWD": str(password)} if password else None
    done = subprocess.run(
        command,
        stdin=stdin or subprocess.DEVNULL,
        stdout=stdout or subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        check=False,
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-500:]
        raise RuntimeError(f"{Path(command[0]).name} exited with {done.returncode}: {said}")
