"""Logging: who says it, about which job; and the two formats of a worker's own output."""

from __future__ import annotations

import contextvars
import logging
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec

KEYS = ("job_id", "task", "attempt", "queue", "worker", "fingerprint")
"""What every record about a job carries in its `extra`."""

context: contextvars.ContextVar[dict[str, Any] | None] = contextvars.ContextVar(
    "failbetter_job", default=None
)
"""The job that runs here: what `KEYS` name. structlog's `merge_contextvars` can be given it."""

logging.getLogger("failbetter").addHandler(logging.NullHandler())


class JobFilter(logging.Filter):
    """Adds the running job's keys to every record of its thread or task, the user's own too."""

    def filter(self, record: logging.LogRecord) -> bool:
        current = context.get()
        if current is not None:
            for key, value in current.items():
                if not hasattr(record, key):
                    setattr(record, key, value)
        return True


class TaskLogger(logging.LoggerAdapter[logging.Logger]):
    """Prefixes messages with the task's name and carries the job's keys."""

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        extra = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return f"[{extra.get('task')}] {msg}", {**kwargs, "extra": extra}


def _tame(text: str) -> str:
    """What a body says must not forge a line of the log or colour an operator's terminal."""
    lines = (
        "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in line)
        for line in text.split("\n")
    )
    return "\n    ".join(lines)


class TextFormatter(logging.Formatter):
    """One readable line."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.%f")[:-3]
        job = getattr(record, "job_id", None)
        tail = f"  job={job}" if job else ""
        line = f"{at} {record.levelname.lower():<7} {_tame(record.getMessage())}{tail}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        for key in KEYS:
            value = getattr(record, key, None)
            if value is not None:
                fields[key] = value
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(fields, enc_hook=str).decode()


def configure(log_format: str, level: str = "INFO") -> None:
    """Set up the output of a process that is failbetter's own: a supervisor or a child."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(JobFilter())
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def flush() -> None:
    """Write out what the handlers hold."""
    for handler in logging.getLogger().handlers:
        handler.flush()
