"""The endpoints: from a method and a path to a status, headers and a body. No server, no socket.

`/livez` is answered from what the process knows of itself, at once. The others need a look at the
ledger first: `needs_ledger` says which, and `answer` is given what was seen.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from failbetter.health import metrics
from failbetter.health.findings import Finding, health, judge, unknown

if TYPE_CHECKING:
    from failbetter.health.looker import Seen

LIVE, READY, HEALTH, METRICS = "/livez", "/readyz", "/health", "/metrics"
PATHS = frozenset({LIVE, READY, HEALTH, METRICS})
_METHODS = ("GET", "HEAD")
_HEALTH_TYPE = "application/health+json"
_PROBLEM_TYPE = "application/problem+json"


class Response(msgspec.Struct, frozen=True):
    """A whole answer. A server leaves the body out for HEAD."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Process(Protocol):
    """What a process says of itself. None: nothing is wrong."""

    def not_alive(self) -> str | None:
        """Why it must be restarted."""

    def not_ready(self) -> str | None:
        """Why it cannot serve yet, or not any more, the ledger apart."""

    def findings(self) -> list[Finding]:
        """What `/health` has to say beside the ledger's figures."""


def is_page(path: str) -> bool:
    """Whether there is such an endpoint."""
    return path in PATHS


def needs_ledger(method: str, path: str) -> bool:
    """Whether a look at the ledger belongs to the answer."""
    return method in _METHODS and path in PATHS - {LIVE}


def answer(method: str, path: str, process: Process, seen: Seen | None) -> Response:
    """The answer. `seen`: what `needs_ledger` asked for."""
    if path not in PATHS:
        known = ", ".join(sorted(PATHS))
        return problem(HTTPStatus.NOT_FOUND, f"there are {known}")
    if method not in _METHODS:
        allow = ", ".join(_METHODS)
        text = f"{path} is only read: {allow}"
        return problem(HTTPStatus.METHOD_NOT_ALLOWED, text, ("Allow", allow))
    if path == LIVE:
        return _short(process.not_alive())
    assert seen is not None
    if path == READY:
        return _short(seen.why or process.not_ready())
    if path == METRICS:
        return _metrics(seen)
    figures = seen.figures
    found = [unknown(seen.why)] if figures is None else judge(figures)
    document = health([*found, *process.findings()])
    status = HTTPStatus.SERVICE_UNAVAILABLE if document.status == "fail" else HTTPStatus.OK
    return _response(status, _HEALTH_TYPE, msgspec.json.encode(document.as_dict()))


def _short(why_not: str | None) -> Response:
    if why_not is None:
        return _response(HTTPStatus.OK, _HEALTH_TYPE, b'{"status":"pass"}')
    body = msgspec.json.encode({"status": "fail", "output": why_not})
    return _response(HTTPStatus.SERVICE_UNAVAILABLE, _HEALTH_TYPE, body)


def _metrics(seen: Seen) -> Response:
    try:
        body = metrics.text(seen.figures)
    except ImportError:
        text = "metrics need prometheus-client; install failbetter with the extra `metrics`"
        return problem(HTTPStatus.NOT_IMPLEMENTED, text)
    return _response(HTTPStatus.OK, metrics.CONTENT_TYPE, body)


def problem(status: HTTPStatus, detail: str, *more: tuple[str, str]) -> Response:
    """An error as RFC 9457 has it."""
    document: dict[str, Any] = {"title": status.phrase, "status": status.value, "detail": detail}
    return _response(status, _PROBLEM_TYPE, msgspec.json.encode(document), *more)


def _response(status: HTTPStatus, kind: str, body: bytes, *more: tuple[str, str]) -> Response:
    headers = [
        ("Content-Type", kind),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        *more,
    ]
    return Response(status.value, headers, body)
