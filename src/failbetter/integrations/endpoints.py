"""What ASGI and WSGI share of the endpoints: which path is one, and what this process says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from failbetter.errors import ConfigurationError
from failbetter.health import Finding, pages
from failbetter.health.looker import Looker
from failbetter.integrations.startup import known_startup

if TYPE_CHECKING:
    from failbetter import App


class Site:
    """A serving process, as `pages.Process` wants it."""

    def __init__(self, app: App) -> None:
        self._app = app

    def not_alive(self) -> str | None:
        """That it answers says it all."""
        return None

    def not_ready(self) -> str | None:
        """Not before the recovery at startup, where one is wanted, is over."""
        wanted = known_startup(self._app)
        return None if wanted is None or wanted.over else "recovery at startup is under way"

    def findings(self) -> list[Finding]:
        """What came of that recovery."""
        wanted = known_startup(self._app)
        return [] if wanted is None else [wanted.finding()]


class Endpoints:
    """The endpoints below a prefix. Opens nothing before it is asked."""

    def __init__(self, app: App, prefix: str) -> None:
        if prefix and (not prefix.startswith("/") or prefix.endswith("/")):
            raise ConfigurationError(f"a prefix is like '/internal', not {prefix!r}")
        self._prefix = prefix
        self.site = Site(app)
        self.looker = Looker(app.database.another())

    def page(self, path: str) -> str:
        """The path as the pages know it."""
        return path.removeprefix(self._prefix) if path.startswith(self._prefix) else ""

    def is_page(self, path: str) -> bool:
        """Whether the path is that of an endpoint."""
        return pages.is_page(self.page(path))
