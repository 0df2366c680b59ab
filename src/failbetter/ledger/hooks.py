"""Which tasks are hooks: written by workers, which know the code, for whoever writes an ending."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import delete, insert, update

from failbetter.ledger import events, registry
from failbetter.ledger.prepared import Prepared, b
from failbetter.ledger.schema import hooks
from failbetter.lifecycle.events import Hook
from failbetter.limits import DRILL

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from failbetter.ledger.kinds import Tx

_this = (hooks.c.event == b("event"), hooks.c.task == b("task"))
_rest = Hook.__struct_fields__[2:]
CHANGE = Prepared(
    update(hooks).values({name: b(name) for name in _rest}).where(*_this),
    f"{' '.join(_rest)} event task",
)
ADD = Prepared(
    lambda kind: kind.insert_unless(
        insert(hooks).values(
            {name: b(name) for name in Hook.__struct_fields__} | {"since": b("since")}
        ),
        [*hooks.primary_key],
    ),
    f"{' '.join(Hook.__struct_fields__)} since",
)
REMOVE = Prepared(delete(hooks).where(*_this), "event task")


def register(tx: Tx, known: Sequence[Hook], tasks: Iterable[str]) -> None:
    """Write the hooks of code that has been loaded, with these tasks; forget those that are gone.

    Once the worker that has loaded it is registered, if it is one.
    """
    now = tx.now()
    # In one order everywhere, so that two workers do not each wait for the other's row.
    for hook in sorted(known, key=lambda one: (one.event, one.task)):
        event, task, *rest, only = msgspec.structs.astuple(hook)
        rest.append(only and msgspec.json.encode(only).decode())
        if not tx.run(CHANGE, *rest, event, task):
            tx.run(ADD, event, task, *rest, now)
    tidy(tx, tasks)


def tidy(tx: Tx, tasks: Iterable[str] = ()) -> None:
    """Forget hooks that neither `tasks` nor any live worker knows: no job of theirs could run.

    Where nobody knows of any task, nobody works here just now, and nothing is forgotten. A drill's
    workers have other tasks than the app, and say nothing of it.
    """
    there = events.registered(tx)
    if not there:
        return
    now = tx.now()
    known = set(tasks)
    for worker in registry.all_workers(tx):
        if not worker.lease_expired(now):
            known |= set(msgspec.json.decode(worker.tasks, type=list[str]))
    if all(task.startswith(DRILL) for task in known):
        return
    for hook in there:
        if hook.task not in known:
            tx.run(REMOVE, hook.event, hook.task)
