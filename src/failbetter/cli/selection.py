"""From filters and ids, as typed, to jobs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import failbetter
from failbetter.cli import texts
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
    wanted = checked(jobs, ids) if ids else None
    try:
        found = jobs.where(state=state, ids=wanted)
    except (ValueError, TypeError) as error:
        raise WrongUsage(str(error)) from None
    for name, given in filters.given().items():
        plain, option = name.removeprefix("not_"), f"--{name.replace('_', '-')}"
        for asked in _as_filters(jobs, option, plain, given):
            try:
                found = found.where(**asked) if plain == name else found.exclude(**asked)
            except (ValueError, TypeError) as error:
                # The library names the filter, if anything; the option is what was typed.
                text = str(error).removeprefix(f"{next(iter(asked))}: ")
                raise WrongUsage(f"{option}: {text}") from None
    return found


def _as_filters(jobs: failbetter.Jobs, option: str, name: str, given: Any) -> Iterator[Any]:
    """An option as the library takes it: keywords for each filter that must match alone."""
    if name == "fingerprint":
        yield {name: [fingerprint(jobs, option, text) for text in given]}
    elif name == "arg":
        for text in given:
            parameter, separator, pattern = text.partition("=")
            if not separator:
                raise WrongUsage(f"{option}: {text!r} is no NAME=PATTERN, such as path='*.png'")
            yield {"args": {parameter.strip(): pattern}}
    else:
        yield {name: given}


def fingerprint(jobs: failbetter.Jobs, option: str, text: str) -> str:
    """The fingerprint that is meant by its beginning, if any failed job has it; else the text.

    Raises WrongUsage when several begin so.
    """
    text = text.strip()
    if "*" in text or not text:
        raise WrongUsage(f"{option}: {text!r} is no fingerprint; `failbetter failed` prints them")
    failed = jobs.where(state="failed")
    if next(iter(failed.where(fingerprint=text).limit(1)), None) is not None:
        return text
    begin_so = failed.where(fingerprint=f"{text}*").groups()
    if len(begin_so) > 1:
        raise WrongUsage(f"{option}: {texts.count(len(begin_so), 'group')} begin with {text}")
    return (begin_so[0].fingerprint or text) if begin_so else text


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


def why(error: failbetter.Refused) -> str:
    """The reason of a refusal, without the job's id, which stands beside it."""
    return str(error).partition(": ")[2] or str(error)
