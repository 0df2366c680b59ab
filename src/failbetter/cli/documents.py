"""Jobs and groups as JSON documents. Times are ISO 8601 in UTC; what is not known is null."""

from __future__ import annotations

from typing import Any

import failbetter
from failbetter.cli.texts import masked, stamp


def job(job: failbetter.Job) -> dict[str, Any]:
    """A job as lists show it."""
    return {
        "id": job.id,
        "task": job.task,
        "queue": job.queue,
        "priority": job.priority,
        "state": job.state,
        "reason": job.reason,
        "attempt": job.attempt,
        "created_at": stamp(job.created_at),
        "run_at": stamp(job.run_at),
        "ended_at": stamp(job.ended_at),
        "waiting_for": job.waiting_for(),
        "error_type": job.error_type,
        "error_message": _masked(job.error_message),
        "fingerprint": job.fingerprint,
        "tags": list(job.tags),
        "args": job.args,
    }


def whole_job(shown: failbetter.Job) -> dict[str, Any]:
    """A job with its story."""
    return {
        **job(shown),
        "result": shown.result(timeout=0) if shown.state == "succeeded" else None,
        "note": shown.note,
        "progress": _progress(shown.progress),
        "failed_items": [_item(each) for each in shown.failed_items()],
        "attempts": [attempt(each) for each in shown.attempts],
        "effects": [effect(each) for each in shown.effects],
        "edited_from": _edit(shown.edited_from),
        "edited_as": _edit(shown.edited_as),
    }


def _edit(known: failbetter.Edit | None) -> dict[str, Any] | None:
    if known is None:
        return None
    return {
        "made": known.made,
        "original": known.original,
        "changed": list(known.changed),
        "actor": known.actor,
        "note": known.note,
        "at": stamp(known.at),
    }


def _progress(found: failbetter.Progress | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "done": found.done,
        "failed": found.failed,
        "total": found.total,
        "vanished": found.vanished,
        "at": stamp(found.at),
    }


def _item(failed: failbetter.FailedItem) -> dict[str, Any]:
    return {
        "list": failed.list,
        "key": failed.key,
        "at": stamp(failed.at),
        "error_type": failed.error_type,
        "error_message": _masked(failed.error_message),
    }


def attempt(ended: failbetter.Attempt) -> dict[str, Any]:
    """An ended attempt with its evidence."""
    return {
        "id": ended.id,
        "number": ended.number,
        "cause": ended.cause,
        "state": ended.state,
        "reason": ended.reason,
        "begun_at": stamp(ended.begun_at),
        "ended_at": stamp(ended.ended_at),
        "next_run_at": stamp(ended.next_run_at),
        "worker": ended.worker,
        "code": ended.code,
        "error_type": ended.error_type,
        "error_message": _masked(ended.error_message),
        "traceback": _masked(ended.traceback),
        "evidence": ended.evidence,
    }


def effect(known: failbetter.Effect) -> dict[str, Any]:
    """An effect; `done_at` null: intended, and not known to have happened."""
    return {
        "name": known.name,
        "intended_at": stamp(known.intended_at),
        "done_at": stamp(known.done_at),
        "result": known.result,
    }


def group(found: failbetter.Group) -> dict[str, Any]:
    """Failed jobs of one cause."""
    return {
        "fingerprint": found.fingerprint,
        "title": masked(found.title),
        "task": found.task,
        "reason": found.reason,
        "error_type": found.error_type,
        "count": found.count,
        "first_seen": stamp(found.first_seen),
        "last_seen": stamp(found.last_seen),
        "tasks": list(found.tasks),
        "queues": list(found.queues),
        "code_versions": list(found.code_versions),
        "state": found.state,
        "reopened": found.reopened,
        "recurred": found.recurred,
        "changed_at": stamp(found.changed_at),
        "actor": found.actor,
        "note": found.note,
        "sample": {
            "id": found.sample.id,
            "error_message": _masked(found.message),
        },
    }


def _masked(text: str | None) -> str | None:
    return None if text is None else masked(text)
