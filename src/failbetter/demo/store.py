"""An object store that is real and moody: an HTTP server in its own process.

It has two doors. The *object* port stores, reads and lists objects, and it is this one that
limits, refuses and goes away. The *office* port takes receipts and answers questions about
everything that happened; it is always well, so that the proof can be had in any weather.

| object port | |
|---|---|
| `PUT /objects/NAME` | needs `X-Content-SHA256`; `Idempotency-Key` makes a repeat harmless |
| `GET`, `HEAD /objects/NAME` | the bytes, or their size and hash |
| `GET /objects?prefix=` | the list |

| office port | |
|---|---|
| `POST /receipts` | JSON `{"name", "sha256"}` and `Idempotency-Key`; each one is kept |
| `GET /receipts`, `/deliveries`, `/status` | the books |
| `POST /hold`, `/release` | uploads wait for their answer, after they were stored |
| `POST /repair` | ends an outage |

Started as `python -m failbetter.demo.store --root DIR --faults JSON`, it prints one JSON line with
its two ports, and ends when its standard input does, so that it never outlives who started it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import socket
import socketserver
import sys
import threading
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from failbetter.demo.faults import StoreFaults
from failbetter.demo.shelf import BadUpload, Shelf

HOST = "127.0.0.1"
LONGEST_HOLD = 6.0
LARGEST_BODY = 64 * 1024 * 1024


@dataclass(frozen=True)
class Reply:
    """An HTTP answer; a `body` that is not bytes is sent as JSON."""

    status: int
    body: object = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """What a door is asked: `target` is the path after its first part, decoded."""

    method: str
    place: str
    target: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


def _problem(status: int, code: str, detail: str, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {"error": code, "detail": detail}, named)


class Store:
    """The rules of both doors: what is answered, and what goes wrong when."""

    def __init__(self, root: Path, faults: StoreFaults) -> None:
        self.shelf = Shelf(root)
        self.faults = faults
        self.outage_due = threading.Event()
        self.repaired = threading.Event()
        self.outages: list[dict[str, float]] = []
        self._out = False
        self._counts = {"limited": 0, "refused": 0, "unavailable": 0}
        self._limited: set[str] = set()
        self._in_flight: dict[int, dict[str, object]] = {}
        self._visits = itertools.count()
        self._state = threading.Condition()
        self._holding = False

    # Object port

    def objects(self, request: Request) -> Reply:
        """Answer a request to the object port."""
        if request.place != "objects":
            return _problem(404, "no_such_place", request.place)
        if self._out and self.faults.outage_kind == "unavailable":
            return self._counted("unavailable", _problem(503, "unavailable", "the store is out"))
        match request.method:
            case "PUT" if request.target:
                return self._upload(request)
            case "GET" | "HEAD" if request.target:
                return self._read(request)
            case "GET":
                return Reply(200, self.shelf.listing(request.query.get("prefix", "")))
            case _:
                return _problem(405, "no_such_method", request.method)

    def _upload(self, request: Request) -> Reply:
        name = request.target
        if refusal := self.faults.refused.get(name):
            return self._counted("refused", _problem(refusal[0], "refused", refusal[1]))
        if self._limit(name):
            wait = str(self.faults.retry_after)
            return self._counted(
                "limited", _problem(429, "slow_down", "too many uploads", Retry_After=wait)
            )
        time.sleep(self.faults.upload_seconds)
        stored = self.shelf.put(
            name,
            request.body,
            request.headers.get("x-content-sha256"),
            request.headers.get("idempotency-key"),
        )
        if self.shelf.counts()["stored"] == self.faults.outage_after and not self.outages:
            self.outage_due.set()
        self._wait_while_held(name, request.headers.get("x-client-pid", ""))
        return Reply(201 if stored else 200, {"name": name, "stored": stored})

    def _limit(self, name: str) -> bool:
        with self._state:
            if name in self._limited or self._holding or not self.faults.limits(name):
                return False
            self._limited.add(name)
            return True

    def _read(self, request: Request) -> Reply:
        body = self.shelf.get(request.target)
        known = self.shelf.describe(request.target)
        if body is None or known is None:
            return _problem(404, "no_such_object", request.target)
        return Reply(200, body, {"X-Content-SHA256": known[1]})

    def _counted(self, what: str, reply: Reply) -> Reply:
        with self._state:
            self._counts[what] += 1
        return reply

    def _wait_while_held(self, name: str, pid: str) -> None:
        """Keep the client waiting for its answer, as a store does whose disk is busy."""
        with self._state:
            if not self._holding:
                return
            visit = next(self._visits)
            self._in_flight[visit] = {"name": name, "pid": int(pid) if pid.isdigit() else None}
            self._state.wait_for(lambda: not self._holding, LONGEST_HOLD)
            del self._in_flight[visit]

    # Office port

    def office(self, request: Request) -> Reply:
        """Answer a request to the office port."""
        match request.method, request.place:
            case "POST", "receipts":
                return self._receipt(request)
            case "GET", "receipts":
                return Reply(200, [asdict(receipt) for receipt in self.shelf.receipts()])
            case "GET", "deliveries":
                deliveries = self.shelf.deliveries()
                return Reply(200, {key: asdict(delivery) for key, delivery in deliveries.items()})
            case "GET", "status":
                return Reply(200, self.status())
            case "POST", ("hold" | "release") as verb:
                with self._state:
                    self._holding = verb == "hold"
                    self._state.notify_all()
                return Reply(200, self.status())
            case "POST", "repair":
                self.repaired.set()
                return Reply(200, self.status())
            case _:
                return _problem(404, "no_such_place", request.place)

    def _receipt(self, request: Request) -> Reply:
        key = request.headers.get("idempotency-key")
        try:
            document = json.loads(request.body)
            name, sha256 = str(document["name"]), str(document["sha256"])
        except (ValueError, KeyError, TypeError) as error:
            return _problem(400, "bad_receipt", repr(error))
        if not key:
            return _problem(400, "no_key", "a receipt needs an Idempotency-Key")
        self.shelf.add_receipt(key, name, sha256)
        return Reply(201, {"name": name})

    def status(self) -> dict[str, object]:
        """Figures so far, whether the store is out, past outages, uploads that are held."""
        with self._state:
            return {
                **self.shelf.counts(),
                **self._counts,
                "out": self._out,
                "outages": list(self.outages),
                "held": list(self._in_flight.values()),
            }

    def begin_outage(self) -> None:
        """The object port is out from now on."""
        self._out = True
        self.outages.append({"after": self.shelf.counts()["stored"], "seconds": 0.0})

    def end_outage(self, seconds: float) -> None:
        """The object port is well again."""
        self._out = False
        self.outages[-1]["seconds"] = round(seconds, 2)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    answer: Any

    def server_bind(self) -> None:
        # HTTPServer looks its own name up in the DNS here, which can take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that Murphy killed hangs up in the middle of a word: not worth a traceback.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    wbufsize = -1  # headers and body leave in one packet
    disable_nagle_algorithm = True
    timeout = 10

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if length > LARGEST_BODY:
            reply = _problem(413, "too_large", f"{length} bytes")
        else:
            url = urllib.parse.urlsplit(self.path)
            place, _, target = url.path.lstrip("/").partition("/")
            request = Request(
                method=self.command,
                place=place,
                target=urllib.parse.unquote(target),
                query=dict(urllib.parse.parse_qsl(url.query)),
                headers={name.lower(): value for name, value in self.headers.items()},
                body=self.rfile.read(length),
            )
            try:
                reply = self.server.answer(request)
            except BadUpload as error:
                reply = _problem(error.status, error.code, str(error))
        self._send(reply)

    def _send(self, reply: Reply) -> None:
        raw = isinstance(reply.body, bytes)
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        self.send_header("Content-Type", "application/octet-stream" if raw else "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = _serve

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the books hold it all."""


class Doors:
    """Both ports, each served by a thread, and the thread that makes the outage."""

    def __init__(self, store: Store) -> None:
        self.store = store
        # Held without listening, it keeps the port ours while the door is shut: otherwise the
        # system could give it to anyone, even to a client's own end of the connection.
        self._claim = _bound_socket(0)
        self.object_port: int = self._claim.getsockname()[1]
        self._objects = self._open_objects()
        self._office = _Server((HOST, 0), _Handler)
        self._office.answer = store.office
        self.office_port: int = self._office.server_address[1]
        _thread(self._office.serve_forever)
        self._closing = threading.Event()
        _thread(self._weather)

    def _open_objects(self) -> _Server:
        server = _Server((HOST, self.object_port), _Handler, bind_and_activate=False)
        server.socket.close()
        server.socket = _bound_socket(self.object_port)
        server.server_name, server.server_port = HOST, self.object_port
        server.answer = self.store.objects
        server.server_activate()
        _thread(server.serve_forever, 0.02)
        return server

    def _weather(self) -> None:
        self.store.outage_due.wait()
        if self._closing.is_set():
            return
        began = time.monotonic()
        self.store.begin_outage()
        if self.store.faults.outage_kind == "closed":
            self._objects.shutdown()
            self._objects.server_close()
        self.store.repaired.wait(self.store.faults.outage_seconds)
        if self.store.faults.outage_kind == "closed" and not self._closing.is_set():
            self._objects = self._open_objects()
        self.store.end_outage(time.monotonic() - began)

    def close(self) -> None:
        """Close both ports for good."""
        self._closing.set()
        self.store.outage_due.set()
        self.store.repaired.set()
        for server in (self._objects, self._office):
            server.shutdown()
            server.server_close()
        self._claim.close()


def _bound_socket(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind((HOST, port))
    return bound


def _thread(target: Any, *args: object) -> None:
    threading.Thread(target=target, args=args, daemon=True).start()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the store until standard input ends."""
    parser = argparse.ArgumentParser(prog="failbetter.demo.store")
    parser.add_argument("--root", type=Path, required=True, help="folder for the objects")
    parser.add_argument("--faults", type=StoreFaults.from_json, default=StoreFaults())
    options = parser.parse_args(arguments)
    doors = Doors(Store(options.root, options.faults))
    ports = {"pid": os.getpid(), "objects": doors.object_port, "office": doors.office_port}
    sys.stdout.write(json.dumps(ports) + "\n")
    sys.stdout.flush()
    while sys.stdin.buffer.read(4096):
        pass
    # Uploads that are still held sit in daemon threads; nothing here needs a farewell.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
