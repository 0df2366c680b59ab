"""`failbetter restart`: running workers load the code that is on disk now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

import failbetter
from failbetter.cli import opening, output, problems, texts
from failbetter.cli.changed import changed_files, matching
from failbetter.cli.parameters import Form, Where, a_duration
from failbetter.cli.problems import WrongUsage

# Of many files or workers, so many are named.
_NAMED = 5


def restart(
    where: Where,
    form: Form,
    if_changed: Annotated[
        str | None,
        typer.Option(
            "--if-changed",
            metavar="OLD..NEW",
            help="Only if a file differs between these revisions of the git repository here.",
        ),
    ] = None,
    path: Annotated[
        list[str] | None,
        typer.Option(
            "--path",
            metavar="PATTERN",
            help="With --if-changed: only files that fit, such as 'models.py' in any folder,"
            " 'shop/*.py'; repeat it for more.",
        ),
    ] = None,
    wait: Annotated[
        float | None,
        typer.Option(
            "--wait",
            metavar="DURATION",
            help="See what comes of it: 1 when a worker cannot load the new code, 75 when some are"
            " not done by then.",
            parser=a_duration,
        ),
    ] = None,
) -> int:
    """Ask every worker to finish what runs and go on with the code that is on disk.

    A worker replaces its children one after the other; what does not finish within its
    --shutdown-timeout is handed back uncharged. Where the new code cannot be loaded, it goes on
    with the old.
    """
    if path and if_changed is None:
        raise WrongUsage("--path says which changes count; give --if-changed OLD..NEW as well")
    changed = None
    if if_changed is not None:
        everything = changed_files(if_changed)
        changed = matching(everything, path or ())
        if not changed:
            return _nothing(form, if_changed, everything)
    app = opening.ledger(where)
    found = app.restart_workers(timeout=wait)
    if form.json:
        output.document(
            {
                "changed": changed,
                "workers": [
                    {"worker": one.worker, "state": one.state, "code": one.code, "error": one.error}
                    for one in found
                ],
            }
        )
    else:
        if changed:
            output.line(f"{texts.count(len(changed), 'file')} changed: {_names(changed)}")
        _tell(found)
    return _code(found, waited=wait is not None)


def _nothing(form: Form, revisions: str, everything: Sequence[str]) -> int:
    if form.json:
        output.document({"changed": [], "workers": []})
    elif everything:
        output.line(
            f"nothing to do: of {texts.count(len(everything), 'file')} that changed in {revisions},"
            " none fits --path"
        )
    else:
        output.line(f"nothing to do: no file changed in {revisions}")
    return problems.OK


# What became of workers, by their state.
_TOLD = {
    "asked": "asked to restart",
    "done": "restarted",
    "failed": "could not load the new code and goes on with the old",
    "gone": "ended by itself",
    "not_ours": "not ours to restart: it runs in another system's process",
}


def _tell(found: Sequence[failbetter.WorkerRestart]) -> None:
    """A line for each of what became of them; of errors, each."""
    if not found:
        output.line("no worker runs: nothing to restart; the next one loads the code that is there")
    for state, told in _TOLD.items():
        those = [one for one in found if one.state == state]
        if state == "failed":
            for one in those:
                output.line(f"{told}: {one.worker}, code {one.code or '-'}: {one.error}", "red")
        elif those:
            names = _names([one.worker for one in those])
            output.line(f"{told}: {texts.count(len(those), 'worker')} ({names})")


def _code(found: Sequence[failbetter.WorkerRestart], *, waited: bool) -> int:
    states = {one.state for one in found}
    if "failed" in states:
        return problems.REFUSED
    return problems.TRY_AGAIN if waited and "asked" in states else problems.OK


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(texts.one_line(name) for name in names[:_NAMED]) + more
