"""`watch`: says which of RQ's jobs are to be followed."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from redis import Redis

from failbetter.errors import ConfigurationError
from failbetter.rq.adopting import Adopter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from failbetter.app import App

Source: TypeAlias = "str | Redis"

# Seconds for Redis to accept a connection, and to answer; the URL may say otherwise.
_PATIENCE = 5.0


def watch(app: App, redis: Source, queues: Sequence[str] | None = None) -> None:
    """Have the ledger of `app` follow RQ's own jobs: what fails there is a row here.

    `redis`: Redis' URL, or a `redis.Redis`. `queues`: those meant, by name; None: all there are.
    From a job's first trouble on (a failed attempt, a crash, its worker lost) it has a row, with
    its evidence; `app.failed` finds it as any other, and a retry puts the same job back into RQ.
    `failbetter maintain -A` follows, within 60 s; workers of `failbetter.rq.WatchingWorker` tell
    at once. RQ stays the truth, and what it keeps is never unpickled here.

    Raises TypeError for what is no list or no Redis, ConfigurationError when another Redis is
    watched already.
    """
    if isinstance(queues, str):
        raise TypeError(f"queues is a list of names, not {queues!r}")
    if isinstance(redis, str):
        try:
            options = {"socket_timeout": _PATIENCE, "socket_connect_timeout": _PATIENCE}
            redis = Redis.from_url(redis, **options)
        except ValueError as error:
            # The URL may hold a password.
            raise ConfigurationError(f"the URL of the Redis to watch is none: {error}") from None
    elif not isinstance(redis, Redis):
        raise TypeError(f"what is to be watched is a URL or a redis.Redis, not {redis!r}")
    known = adopter_of(app)
    if known is not None:
        if not known.is_on(redis):
            raise ConfigurationError("an app watches one Redis; it watches another one already")
        known.add(queues)
        return
    app.followers.append(Adopter(redis, queues))


def adopter_of(app: App) -> Adopter | None:
    """What follows RQ's jobs for the app."""
    return next((one for one in app.followers if isinstance(one, Adopter)), None)
