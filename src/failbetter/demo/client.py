"""How the demo speaks to its store: plain `http.client`, one connection for each request."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class StoreDown(ConnectionError):
    """The store cannot be reached, or says 503: it may well be back in a moment."""


class RateLimited(Exception):
    """The store asks for patience: come back in `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Refused(Exception):
    """The store does not want this object, today or ever."""


class StoreError(Exception):
    """Any other answer that is no success."""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer that was a success."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Objects:
    """The store's object port, `address` being "host:port".

    When nobody listens there, a request knocks for `patience` seconds before it gives up with
    `StoreDown`. Once a connection stands, a request is sent only once.
    """

    address: str
    patience: float = 0.05
    timeout: float = 10.0

    def put(self, name: str, body: bytes, sha256: str, idempotency_key: str | None) -> bool:
        """Upload; true when stored now, false when this key had stored it before.

        Raises `RateLimited`, `Refused`, `StoreDown` or `StoreError`.
        """
        headers = {"X-Content-SHA256": sha256, "X-Client-Pid": str(os.getpid())}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        return self._ask("PUT", _path(name), body, headers).status == 201

    def get(self, name: str) -> bytes:
        """The object's bytes; raises `StoreDown` or `StoreError`."""
        return self._ask("GET", _path(name)).body

    def head(self, name: str) -> str:
        """The object's SHA-256; raises `StoreDown` or `StoreError`."""
        return self._ask("HEAD", _path(name)).headers["x-content-sha256"]

    def listing(self, prefix: str = "") -> Any:
        """Every object whose name starts so: dictionaries of name, size, sha256."""
        query = urllib.parse.urlencode({"prefix": prefix})
        return json.loads(self._ask("GET", f"/objects?{query}").body)

    def _ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        give_up = time.monotonic() + self.patience
        while True:
            try:
                return ask(self.address, method, path, body, headers or {}, self.timeout)
            except ConnectionRefusedError as error:
                if time.monotonic() >= give_up:
                    raise StoreDown("the store is out of reach: connection refused") from error
                time.sleep(0.02)


@dataclass(frozen=True)
class Office:
    """The store's office port: receipts, the books, and Murphy's hand on the brake."""

    address: str
    timeout: float = 10.0

    def receipt(self, name: str, sha256: str, idempotency_key: str) -> None:
        """Give a receipt; the store keeps each one it is given."""
        body = json.dumps({"name": name, "sha256": sha256}).encode()
        self._ask("POST", "/receipts", body, {"Idempotency-Key": idempotency_key})

    def receipts(self) -> Any:
        """Every receipt: dictionaries of key, name, sha256."""
        return self._ask("GET", "/receipts")

    def deliveries(self) -> Any:
        """Idempotency key -> name, sha256, stored (times), repeated (times)."""
        return self._ask("GET", "/deliveries")

    def status(self) -> Any:
        """Figures so far; see `store.Store.status`."""
        return self._ask("GET", "/status")

    def hold(self) -> None:
        """From now on uploads are stored, but their answers wait."""
        self._ask("POST", "/hold")

    def release(self) -> None:
        """Send the answers that wait."""
        self._ask("POST", "/release")

    def repair(self) -> None:
        """End the outage."""
        self._ask("POST", "/repair")

    def _ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Any:
        answer = ask(self.address, method, path, body, headers or {}, self.timeout)
        return json.loads(answer.body)


def _path(name: str) -> str:
    return "/objects/" + urllib.parse.quote(name)


def ask(
    address: str,
    method: str,
    path: str,
    body: bytes,
    headers: Mapping[str, str],
    timeout: float,
) -> Answer:
    """One request over a connection of its own; any answer but a success is an exception.

    `ConnectionRefusedError` says that nobody listens, and so that nothing was sent.
    """
    connection = http.client.HTTPConnection(address, timeout=timeout)
    try:
        try:
            connection.connect()
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            content = response.read()
        except ConnectionRefusedError:
            raise
        except (http.client.HTTPException, OSError) as error:
            raise StoreDown(f"the store hung up: {type(error).__name__}") from error
    finally:
        connection.close()
    return _judge(response, content)


def _judge(response: http.client.HTTPResponse, content: bytes) -> Answer:
    headers = {name.lower(): value for name, value in response.getheaders()}
    status = response.status
    if status in (200, 201):
        return Answer(status, headers, content)
    detail = _detail(content)
    match status:
        case 429:
            raise RateLimited(f"429 {detail}", float(headers.get("retry-after", "1")))
        case 403 | 422:
            raise Refused(f"{status} {detail}")
        case 503:
            raise StoreDown(f"503 {detail}")
        case _:
            raise StoreError(f"{status} {detail}")


def _detail(content: bytes) -> str:
    try:
        return str(json.loads(content)["detail"])
    except (ValueError, KeyError, TypeError):
        return "without a word"
