"""From filters and ids, as typed, to jobs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

import failbetter
from failbetter.cli.parameters import Filters
from failbetter.cli.problems import WrongUsage

_DATE = re.compile(r"\d{4}-\d\d-\d\d")


def narrowed(
    jobs: failbetter.Jobs,
    filters: Filters,
    ids: Sequence[str] | None = None,
    *,
    state: str | None = None,
) -> failbetter.Jobs:
    """The jobs that match. Raises WrongUsage for a filter that cannot be."""
    given = filters.given()
    since = _moment("--since", given.pop("since", None))
    until = _moment("--until", given.pop("until", None))
    wanted = checked(jobs, ids) if ids else None
    try:
        return jobs.where(state=state, since=since, until=until, ids=wanted, **given)
    except (ValueError, TypeError) as error:
        raise WrongUsage(str(error)) from None


def one(app: failbetter.App, text: str) -> failbetter.Job:
    """The job of an id as typed. Raises WrongUsage when it is none, JobNotFound."""
    try:
        return app.job(text)
    except ValueError as error:
        raise WrongUsage(str(error)) from None


def checked(jobs: failbetter.Jobs, ids: Sequence[str]) -> list[str]:
    """The ids as failbetter writes them, each once. Raises WrongUsage for what is no id."""
    cleaned = list(dict.fromkeys(text.strip().lower() for text in ids))
    try:
        jobs.where(ids=cleaned)  # never run: it only reads the ids
    except ValueError as error:
        raise WrongUsage(str(error)) from None
    return cleaned


def moment(option: str, text: str) -> str | datetime:
    """A duration as typed, or a date and time; without a zone it is this machine's.

    Raises WrongUsage when it is neither.
    """
    if _DATE.match(text.strip()):
        try:
            return datetime.fromisoformat(text.strip()).astimezone()
        except (ValueError, OverflowError):
            raise WrongUsage(
                f"{option}: {text!r} is no date; write one such as 2026-01-31 or 2026-01-31T09:00"
            ) from None
    try:
        failbetter.fixed(text)
    except ValueError as error:
        raise WrongUsage(f"{option}: {error}, or a date such as 2026-01-31T09:00") from None
    return text


def _moment(option: str, text: str | None) -> str | datetime | None:
    return None if text is None else moment(option, text)


def why(error: failbetter.Refused) -> str:
    """The reason of a refusal, without the job's id, which stands beside it."""
    return str(error).partition(": ")[2] or str(error)
