"""Finding the app, or without one the ledger, that a command is about."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import traceback
from pathlib import Path

import failbetter
from failbetter.cli.parameters import Where
from failbetter.cli.problems import Misconfigured, WrongUsage
from failbetter.cli.settings import a_text, setting
from failbetter.worker.appload import load_app

_SPEC = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*(:[^\W\d]\w*(\.[^\W\d]\w*)*)?")
_NO_LEDGER = (
    "which ledger? Give -A MODULE:APP or --url sqlite:///FILE,"
    " or set FAILBETTER_APP or FAILBETTER_URL"
)
_NO_APP = (
    "which app? Give -A MODULE:APP, set FAILBETTER_APP,"
    ' or write app = "MODULE:APP" under [tool.failbetter] in pyproject.toml'
)


_opened: list[failbetter.App] = []


def close() -> None:
    """Close what was opened. Whoever runs a command in its own process may run another."""
    while _opened:
        _opened.pop().close()


def _open(app: failbetter.App) -> failbetter.App:
    _opened.append(app)
    return app


def app_spec(where: Where) -> str:
    """The app's `module:attribute`, without importing it. Raises WrongUsage when none is given."""
    spec = setting("app", where.app, _spec)
    if spec is None:
        raise WrongUsage(_NO_APP)
    return spec


def spec_or_url(where: Where) -> tuple[str | None, str | None]:
    """The app's `module:attribute`, or for want of one the ledger's URL; nothing is imported.

    A URL on the command line goes before an app from elsewhere. Raises WrongUsage for neither.
    """
    url = setting("url", where.url, a_text)
    spec = setting("app", where.app, _spec) if where.url is None or where.app is not None else None
    if spec is None and not (url or os.environ.get("DATABASE_URL")):
        raise WrongUsage(_NO_LEDGER)
    share_url(where)
    return spec, None if spec is not None else url


def share_url(where: Where) -> None:
    """Let an app that names no database find the one meant here: in the environment."""
    url = setting("url", where.url, a_text)
    if url is not None:
        os.environ["FAILBETTER_URL"] = url


def with_tasks(where: Where) -> failbetter.App:
    """The app with its tasks. Raises WrongUsage or Misconfigured when there is none."""
    spec = app_spec(where)
    share_url(where)
    app = _open(_load(spec))
    if where.url is not None:
        _same_ledger(app, where.url, spec)
    return app


def ledger(where: Where, *, new: bool = False) -> failbetter.App:
    """The app, or for want of one a bare App on the ledger's URL: enough for all but tasks.

    A database that is not there is made by the first job, by a worker and by `migrate` (`new`),
    but not by a look at it, whose path may be mistyped: that raises LedgerUnavailable.
    """
    if where.url is not None:
        app = _open(failbetter.App(setting("url", where.url, a_text)))
    elif setting("app", where.app, _spec) is not None:
        app = with_tasks(where)
    else:
        share_url(where)
        if not (os.environ.get("FAILBETTER_URL") or os.environ.get("DATABASE_URL")):
            raise WrongUsage(_NO_LEDGER)
        app = _open(failbetter.App())
    if not new and not exists(app):
        raise failbetter.LedgerUnavailable(no_ledger(app))
    return app


def no_ledger(app: failbetter.App) -> str:
    """What to say of a ledger that is not there."""
    return (
        f"there is no ledger at {app.database.name} yet; the first job makes it,"
        " and so does `failbetter migrate`"
    )


def exists(app: failbetter.App) -> bool:
    """Whether the ledger's file is there; of a server, only that there is none to be missed."""
    url = app.database.url
    return url.get_backend_name() != "sqlite" or Path(url.database or "").exists()


def _spec(value: object) -> str:
    spec = a_text(value)
    if _SPEC.fullmatch(spec):
        return spec
    hint = ""
    if "/" in spec or spec.partition(":")[0].endswith(".py"):
        hint = " (a module as `import` takes it, not a file)"
    raise ValueError(f"{spec!r} names no app; write MODULE:APP{hint}")


def _load(spec: str) -> failbetter.App:
    """Import the app. What its modules print while they load must not get into our output."""
    with contextlib.suppress(OSError):
        here = os.getcwd()
        if here not in sys.path:
            sys.path.insert(0, here)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return load_app(spec)
    except failbetter.ConfigurationError:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the user's module does on import, sys.exit() too
        raise Misconfigured(f"{spec} cannot be imported: {_told(error, spec)}") from error


def _told(error: BaseException, spec: str) -> str:
    module = spec.partition(":")[0]
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if _is_theirs(frame.filename)]
    if isinstance(error, ModuleNotFoundError) and not theirs:
        hint = " (write MODULE:APP, without .py)" if module.endswith(".py") else ""
        return f"there is no module {module!r} in {os.getcwd()} or installed{hint}"
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    if isinstance(error, SyntaxError):
        return text
    if not theirs:
        return text
    return f"{text} ({os.path.relpath(theirs[-1].filename)}, line {theirs[-1].lineno})"


def _is_theirs(filename: str) -> bool:
    ours = os.path.dirname(failbetter.__file__)
    return not filename.startswith((ours, "<")) and "importlib" not in filename


def _same_ledger(app: failbetter.App, url: str, spec: str) -> None:
    if failbetter.App(url).database.url != app.database.url:
        raise WrongUsage(
            f"--url: {spec} has a ledger of its own, {app.database.name}; leave out one of the two"
        )
