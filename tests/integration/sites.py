"""Real sites, each on a real server in a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
import requests

PATIENCE = 30.0
T = TypeVar("T")

SHOP = """
import failbetter

app = failbetter.App()

@app.task
def resize(n: int) -> int:
    return n
"""

FASTAPI = """
from fastapi import FastAPI
from failbetter.integrations.asgi import HealthApp, RecoveryMiddleware, lifespan
from shop import app, resize

site = FastAPI(lifespan=lifespan(app))
site.add_middleware(RecoveryMiddleware, app=app)
site.mount("/internal", HealthApp(app))

@site.get("/")
async def index() -> dict[str, str]:
    return {"job": (await resize.aenqueue(1)).id}
"""

STARLETTE = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from failbetter.integrations.asgi import HealthApp, RecoveryMiddleware
from shop import app, resize

async def index(request):
    return PlainTextResponse((await resize.aenqueue(1)).id)

site = HealthApp(
    app, RecoveryMiddleware(Starlette(routes=[Route("/", index)]), app), prefix="/internal"
)
"""

FLASK = """
from flask import Flask
from failbetter.integrations.wsgi import HealthApp, RecoveryMiddleware
from shop import app, resize

site = Flask(__name__)
site.wsgi_app = HealthApp(app, RecoveryMiddleware(site.wsgi_app, app), prefix="/internal")

@site.get("/")
def index() -> str:
    return resize.enqueue(1).id
"""

DJANGO = """
import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
from failbetter.integrations.wsgi import HealthApp, start_background
from shop import app, resize

def index(request):
    return HttpResponse(resize.enqueue(1).id)

urlpatterns = [path("", index)]
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x", DEBUG=False)
site = HealthApp(app, get_wsgi_application(), prefix="/internal")
start_background(app)
"""

UVICORN = (sys.executable, "-m", "uvicorn", "--fd", "{fd}", "--log-level", "warning", "site_:site")
WERKZEUG = (
    sys.executable,
    "-c",
    "from werkzeug.serving import make_server; from site_ import site;"
    " make_server('127.0.0.1', 0, site, threaded=True, fd={fd}).serve_forever()",
)
WSGIREF = (
    sys.executable,
    "-c",
    "import socket, wsgiref.simple_server as server; from site_ import site;"
    "made = server.make_server('127.0.0.1', 0, site); made.socket.close();"
    "made.socket = socket.socket(fileno={fd}); made.serve_forever()",
)


def wait_until(condition: Callable[[], T], what: str, patience: float = PATIENCE) -> T:
    """Poll until `condition` gives something true, and return that; fail after `patience` (s)."""
    limit = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < limit, f"waited {patience:g} s in vain for: {what}"
        time.sleep(0.01)
    return found


@dataclass
class Site:
    """A running site."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def get(self, path: str, method: str = "GET") -> requests.Response:
        """Ask for a path, of which only the answer counts, not how soon it comes."""
        url = f"http://127.0.0.1:{self.port}{path}"
        return requests.request(method, url, timeout=PATIENCE)

    def children(self) -> list[psutil.Process]:
        """Its living child processes."""
        with contextlib.suppress(psutil.Error):
            found = psutil.Process(self.process.pid).children()
            return [each for each in found if each.status() != psutil.STATUS_ZOMBIE]
        return []

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal the server and wait for its end; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def text(self) -> str:
        """What it and its worker have logged."""
        return self.log.read_text(errors="replace")


@contextlib.contextmanager
def serve(
    folder: Path, source: str, server: Sequence[str], url: str, **environment: str
) -> Iterator[Site]:
    """Serve the site of that source; killed at the end with all that it has started.

    The socket is made here, so that a request may be sent at once: it waits to be accepted.
    """
    (folder / "shop.py").write_text(SHOP)
    (folder / "site_.py").write_text(source)
    log = folder / "site.log"
    with socket.create_server(("127.0.0.1", 0)) as listening, log.open("ab") as sink:
        process = subprocess.Popen(
            [word.replace("{fd}", str(listening.fileno())) for word in server],
            cwd=folder,
            env={**os.environ, "FAILBETTER_URL": url, **environment},
            pass_fds=[listening.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
        )
        site = Site(process, listening.getsockname()[1], log)
    try:
        yield site
    finally:
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    family = []
    with contextlib.suppress(psutil.Error):
        family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait(PATIENCE)
    for member in family:
        with contextlib.suppress(psutil.Error):
            member.kill()
