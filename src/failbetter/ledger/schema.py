"""The tables. Hot ones hold integers and text only, so that a driver can run them unconverted.

Times are microseconds since the epoch. What is `1 or NULL` is so on purpose: a unique index
over it binds only the rows where it is 1, on every database, with no partial index needed.
Partial indexes are used where a database has them, for size alone; nothing depends on one.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    text,
)

from failbetter.limits import KEY_LENGTH

REVISION = "0005"
"""The migration this version of the code works with."""

OLDEST_CODE = "0001"
"""The oldest migration whose code can still work with this schema: written into the ledger, so
that old workers go on while a deploy rolls. A migration that takes away raises it."""

VERSION_TABLE = "failbetter_version"
"""Where Alembic keeps the revision: not under its own name, which an application that shares the
database may use."""

metadata = MetaData()

jobs = Table(
    "failbetter_jobs",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("task", String(KEY_LENGTH), nullable=False),
    Column("queue", String(KEY_LENGTH), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("state", String(12), nullable=False),
    Column("reason", String(16)),
    # Minus the priority while the job waits for a claim, else NULL: the claim reads only these.
    Column("rank", Integer),
    # 1: claimed one by one, because at most one of its exclusive key may run.
    Column("careful", SmallInteger, nullable=False),
    Column("run_at", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("begun_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("expires_at", BigInteger),
    # Counts every claim and every ending: whoever wrote it last owns the row.
    Column("fence", Integer, nullable=False),
    Column("worker", BigInteger),
    Column("live", SmallInteger),
    Column("claimed", SmallInteger),
    Column("cancel", SmallInteger),
    Column("starts", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("crashes", Integer, nullable=False),
    Column("losses", Integer, nullable=False),
    Column("hand_backs", Integer, nullable=False),
    Column("suspect", SmallInteger, nullable=False),
    Column("released_since", BigInteger),
    Column("payload", Text, nullable=False),
    Column("policy", Text, nullable=False),
    Column("unique_key", String(KEY_LENGTH)),
    Column("exclusive_key", String(KEY_LENGTH)),
    Column("subject", String(KEY_LENGTH)),
    # With the subject: a job whose version is below that of the last success is out of date.
    Column("version", BigInteger),
    # The hold or line in which it waits; then `rank` is NULL, so that no claim comes across it.
    Column("held", BigInteger),
    Column("tags", Text),
    Column("result", Text),
    Column("note", Text),
    Column("error_type", String(KEY_LENGTH)),
    Column("error_message", Text),
    Column("fingerprint", String(40)),
    # The version of the code that the last attempt ran. A whole success at once leaves it out.
    Column("code", String(64)),
    # A row of the user's own that follows this job, as JSON, and which one it is.
    Column("mirror", Text),
    Column("mirror_key", String(KEY_LENGTH)),
    # The engine whose job it is, if it was adopted; NULL: it is ours.
    Column("origin", String(12)),
    # The fence with which its id was last sent to an engine, and when. Once the job waits with
    # another fence, it is to be sent again.
    Column("sent", Integer),
    Column("sent_at", BigInteger),
)


def _where(condition: str) -> dict[str, Any]:
    # Naming a dialect loads it, which costs every worker memory: only those in use are named.
    return {"sqlite_where": text(condition)}


Index(
    "failbetter_jobs_waiting",
    jobs.c.rank,
    jobs.c.queue,
    jobs.c.careful,
    jobs.c.run_at,
    **_where("rank IS NOT NULL"),
)
# With the id: what a gone worker held is read some at a time, each from where the last ended.
Index("failbetter_jobs_by_worker", jobs.c.worker, jobs.c.id, **_where("worker IS NOT NULL"))
Index(
    "failbetter_jobs_unique",
    jobs.c.unique_key,
    jobs.c.live,
    unique=True,
    **_where("unique_key IS NOT NULL"),
)
Index(
    "failbetter_jobs_exclusive",
    jobs.c.exclusive_key,
    jobs.c.claimed,
    unique=True,
    **_where("exclusive_key IS NOT NULL"),
)
# `live` first: of those whose time was over, most have ended long ago.
Index(
    "failbetter_jobs_expiring", jobs.c.live, jobs.c.expires_at, **_where("expires_at IS NOT NULL")
)
Index(
    "failbetter_jobs_mirrored",
    jobs.c.mirror_key,
    jobs.c.id,
    **_where("mirror_key IS NOT NULL"),
)
Index("failbetter_jobs_by_state", jobs.c.state, jobs.c.ended_at)
# What has failed, to be looked through: a page at a time, of a cause or not, and by cause. The
# last holds all that most filters ask for, so that counting a million reads no row of them.
_failed = _where("state = 'failed'")
Index("failbetter_jobs_failed", jobs.c.state, jobs.c.id, **_failed)
Index(
    "failbetter_jobs_by_cause",
    jobs.c.state,
    jobs.c.fingerprint,
    jobs.c.id,
    jobs.c.ended_at,
    jobs.c.task,
    jobs.c.queue,
    jobs.c.reason,
    jobs.c.error_type,
    jobs.c.code,
    **_failed,
)
Index("failbetter_jobs_held", jobs.c.held, jobs.c.id, **_where("held IS NOT NULL"))

attempts = Table(
    "failbetter_attempts",
    metadata,
    Column("job_id", BigInteger, primary_key=True, autoincrement=False),
    Column("fence", Integer, primary_key=True, autoincrement=False),
    Column("number", Integer, nullable=False),
    Column("cause", String(20), nullable=False),
    # What the attempt's end made of the job.
    Column("state", String(12), nullable=False),
    Column("reason", String(16)),
    Column("run_at", BigInteger),
    Column("begun_at", BigInteger),
    Column("ended_at", BigInteger, nullable=False),
    Column("worker", String(KEY_LENGTH), nullable=False),
    Column("code", String(64)),
    Column("error_type", String(KEY_LENGTH)),
    Column("error_message", Text),
    Column("traceback", Text),
    Column("evidence", Text),
    sqlite_with_rowid=False,
)

bases = Table(
    "failbetter_bases",
    metadata,
    # What an error's type derives from, as it was when such an error was recorded.
    Column("error_type", String(KEY_LENGTH), primary_key=True),
    Column("base", String(KEY_LENGTH), primary_key=True),
    sqlite_with_rowid=False,
)

effects = Table(
    "failbetter_effects",
    metadata,
    Column("job_id", BigInteger, primary_key=True, autoincrement=False),
    Column("name", String(KEY_LENGTH), primary_key=True),
    Column("fence", Integer, nullable=False),
    Column("intended_at", BigInteger, nullable=False),
    Column("done_at", BigInteger),
    Column("result", Text),
    # Who settled a doubt: "verify", or a person.
    Column("settled_by", String(KEY_LENGTH)),
    sqlite_with_rowid=False,
)

progress = Table(
    "failbetter_progress",
    metadata,
    # How far a job has come, in each list that it works through and (series "") by its own word.
    Column("job_id", BigInteger, primary_key=True, autoincrement=False),
    Column("series", String(KEY_LENGTH), primary_key=True),
    Column("done", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("vanished", BigInteger, nullable=False),
    Column("total", BigInteger),
    Column("cursor", Text),
    # Of the attempt that wrote it last, and when.
    Column("fence", Integer, nullable=False),
    Column("at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

items = Table(
    "failbetter_items",
    metadata,
    Column("job_id", BigInteger, primary_key=True, autoincrement=False),
    Column("series", String(KEY_LENGTH), primary_key=True),
    Column("key", String(KEY_LENGTH), primary_key=True),
    # 1: finished. 0: failed, as told by the error.
    Column("done", SmallInteger, nullable=False),
    # The attempt in which it was last seen in the list, and when it was finished.
    Column("fence", Integer, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("error_type", String(KEY_LENGTH)),
    Column("error_message", Text),
    sqlite_with_rowid=False,
)

workers = Table(
    "failbetter_workers",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("name", String(KEY_LENGTH), nullable=False),
    Column("host", String(KEY_LENGTH), nullable=False),
    Column("pid", Integer, nullable=False),
    # Which lock folder its lock file is in; a lock can be judged only from the same one.
    Column("fleet", String(64), nullable=False),
    Column("lease", BigInteger, nullable=False),
    # Counts renewals: a sweeper watches it by its own clock, so no two clocks are compared.
    Column("beats", BigInteger, nullable=False),
    Column("renewed_at", BigInteger, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("stopping", SmallInteger, nullable=False),
    Column("code", String(64)),
    Column("queues", Text, nullable=False),
    Column("tasks", Text, nullable=False),
    Column("processes", Integer, nullable=False),
    Column("concurrency", Integer, nullable=False),
    # 1: it waits for work, so that a producer elsewhere does well to tell of some.
    Column("idle", SmallInteger, nullable=False),
    # When it last looked for interrupted jobs and could (by the ledger's clock).
    Column("swept_at", BigInteger),
    # When a person asked it to finish what runs and to start anew.
    Column("restart_at", BigInteger),
    # The engine in whose process it runs bodies, and what shows whether that process lives (JSON).
    Column("engine", String(12)),
    Column("keeper", Text),
    # Since when it runs `code`; the version of what is on disk by now, if that is another; and why
    # the new code could not be loaded, the last time that this was tried.
    Column("code_at", BigInteger),
    Column("newer_code", String(64)),
    Column("restart_error", Text),
)

turns = Table(
    "failbetter_turns",
    metadata,
    # What only one worker of all hosts does at a time, by its name; who does it, and until when
    # nobody else will, by the ledger's clock.
    Column("name", String(40), primary_key=True),
    Column("worker", BigInteger, nullable=False),
    Column("until", BigInteger, nullable=False),
)

outbox = Table(
    "failbetter_outbox",
    metadata,
    # Jobs whose mirror row does not say yet what they do.
    Column("job_id", BigInteger, primary_key=True, autoincrement=False),
    Column("since", BigInteger, nullable=False),
    # Counts what happened to the job meanwhile: what is delivered must be the latest.
    Column("version", Integer, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("next_at", BigInteger, nullable=False),
    Column("error", Text),
)
Index("failbetter_outbox_due", outbox.c.next_at)

holds = Table(
    "failbetter_holds",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    # What is held: "queue", "task", "group" (a fingerprint) or "breaker"; and its name.
    Column("kind", String(12), nullable=False),
    Column("name", String(KEY_LENGTH), nullable=False),
    # 1 while it holds; NULL once it lets go of what it held: then its jobs are made to wait for
    # nothing, some at a time, and after the last the row is taken away.
    Column("active", SmallInteger),
    Column("reason", Text),
    Column("actor", String(KEY_LENGTH)),
    Column("since", BigInteger, nullable=False),
    # Jobs a second that are let go of once it has ended (thousandths); NULL: all at once.
    Column("rate", BigInteger),
    Column("let_go", BigInteger, nullable=False),
    Column("let_go_since", BigInteger),
    # Of a breaker: how often a job is let through to see, when the next one, which one that is
    # now, and which one was the last.
    Column("probe_every", BigInteger),
    Column("probe_at", BigInteger),
    Column("probe", BigInteger),
    Column("probed", BigInteger),
)
Index("failbetter_holds_of", holds.c.kind, holds.c.name, holds.c.active, unique=True)

breakers = Table(
    "failbetter_breakers",
    metadata,
    # Failures since the first one that counts.
    Column("name", String(KEY_LENGTH), primary_key=True),
    Column("failures", BigInteger, nullable=False),
    Column("since", BigInteger, nullable=False),
)

groups = Table(
    "failbetter_groups",
    metadata,
    # What a person has said of a cause. What has failed of it later than that opens it again.
    Column("fingerprint", String(40), primary_key=True),
    Column("state", String(12), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("actor", String(KEY_LENGTH)),
    Column("note", Text),
)

operations = Table(
    "failbetter_operations",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    # NULL: only a preview so far.
    Column("verb", String(12)),
    Column("state", String(12), nullable=False),
    # What was asked for, as JSON, for people to read.
    Column("filters", Text, nullable=False),
    Column("actor", String(KEY_LENGTH)),
    Column("note", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("begun_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("total", BigInteger, nullable=False),
    # Pace and canary, as JSON.
    Column("options", Text),
    # Counts changes: whoever drives it writes only over what they have read.
    Column("version", Integer, nullable=False),
    # How far it has come (JSON), and when it is to be looked at next.
    Column("course", Text),
    Column("next_at", BigInteger),
)
Index("failbetter_operations_due", operations.c.next_at, **_where("next_at IS NOT NULL"))

selected = Table(
    "failbetter_selected",
    metadata,
    # The frozen list of an operation: a job, and the failed attempt that was seen.
    Column("operation_id", BigInteger, primary_key=True, autoincrement=False),
    Column("job_id", BigInteger, primary_key=True, autoincrement=False),
    Column("fence", Integer, nullable=False),
    Column("fingerprint", String(40)),
    Column("verdict", String(20), nullable=False),
    Column("why", Text),
    # What acting on it changes, as JSON, so that it can be undone.
    Column("past", Text),
    # Once acted on: the fence that the act gave the job; or, with `why`, that it was skipped.
    Column("outcome", String(12)),
    Column("moved_fence", Integer),
    Column("moved_at", BigInteger),
    # 1: among the first few. Others are moved after those were judged.
    Column("canary", SmallInteger),
    sqlite_with_rowid=False,
)
Index("failbetter_selected_by_job", selected.c.job_id, selected.c.operation_id)

subjects = Table(
    "failbetter_subjects",
    metadata,
    # The last success of what jobs of a task are about, if they have versions: the highest one.
    Column("task", String(KEY_LENGTH), primary_key=True),
    Column("subject", String(KEY_LENGTH), primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("job_id", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

limits = Table(
    "failbetter_limits",
    metadata,
    # How many bodies may begin (`count`) in any `per` microseconds, as the newest job said that
    # came across it (`said_by`); and until when the last ones had to begin, as JSON.
    Column("name", String(KEY_LENGTH), primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("per", BigInteger, nullable=False),
    Column("begun", Text, nullable=False),
    Column("said_by", BigInteger, nullable=False),
)

lines = Table(
    "failbetter_lines",
    metadata,
    # Where jobs wait for a limit (`name`), apart by what a claim goes by: `held` on their rows is
    # the line's id. It is there as long as some wait.
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("name", String(KEY_LENGTH), nullable=False),
    Column("rank", Integer, nullable=False),
    Column("queue", String(KEY_LENGTH), nullable=False),
    Column("careful", SmallInteger, nullable=False),
    Column("since", BigInteger, nullable=False),
)

edits = Table(
    "failbetter_edits",
    metadata,
    # A job that was made from another, with other arguments.
    Column("job_id", BigInteger, primary_key=True, autoincrement=False),
    Column("original", BigInteger, nullable=False),
    # The parameters whose values are others, as JSON.
    Column("changed", Text, nullable=False),
    Column("actor", String(KEY_LENGTH)),
    Column("note", Text),
    Column("at", BigInteger, nullable=False),
)
Index("failbetter_edits_of", edits.c.original, edits.c.job_id)

hooks = Table(
    "failbetter_hooks",
    metadata,
    # Tasks that are run when something happens: whoever writes the event makes their jobs, in
    # the same transaction. A job of theirs is made as this says, for they import no user's code.
    Column("event", String(20), primary_key=True),
    Column("task", String(KEY_LENGTH), primary_key=True),
    Column("queue", String(KEY_LENGTH), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("policy", Text, nullable=False),
    # Microseconds.
    Column("expires_after", BigInteger),
    Column("tags", Text),
    # Of the function, to which the event is given.
    Column("parameter", String(KEY_LENGTH), nullable=False),
    # The tasks whose events are meant, as JSON; NULL: all.
    Column("only", Text),
    Column("since", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

adopted = Table(
    "failbetter_adopted",
    metadata,
    # A job of an engine's own: its name there, and what it takes to put it back (JSON).
    Column("job_id", BigInteger, primary_key=True, autoincrement=False),
    Column("engine", String(12), nullable=False),
    Column("name", String(KEY_LENGTH), nullable=False),
    Column("message", Text),
    # How it stood there when it was last looked at, as JSON.
    Column("seen", Text),
    Column("seen_at", BigInteger, nullable=False),
    # 1: a person has retried it, and the engine does not have it yet.
    Column("to_send", SmallInteger),
)
Index("failbetter_adopted_by_name", adopted.c.engine, adopted.c.name, unique=True)
Index("failbetter_adopted_to_send", adopted.c.to_send, **_where("to_send IS NOT NULL"))

alerts = Table(
    "failbetter_alerts",
    metadata,
    # A rule that is watched: since when what it says is so (NULL: it is not), when that was last
    # told, and what it goes by to know what is new, as JSON.
    Column("name", String(KEY_LENGTH), primary_key=True),
    Column("since", BigInteger),
    Column("told_at", BigInteger),
    Column("seen", Text),
    Column("looked_at", BigInteger, nullable=False),
)

notes = Table(
    "failbetter_notes",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("value", Text, nullable=False),
)
