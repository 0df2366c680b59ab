"""Where a server's workers of one host meet."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from failbetter.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import URL


def folder_of(url: URL, schema: str | None) -> Path:
    """A folder of this user's own on this host, by what the URL says, its password aside.

    Raises ConfigurationError when the place for it is somebody else's.
    """
    given = url.set(password=None).render_as_string()
    name = hashlib.sha256(f"{given} {schema}".encode()).hexdigest()[:16]
    top = Path(tempfile.gettempdir()) / f"failbetter-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        top.mkdir(mode=0o700)
    found = top.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ConfigurationError(
            f"{top} belongs to another user; say App(fleet_folder=…) or set"
            " FAILBETTER_FLEET_FOLDER to a folder on this host"
        )
    return top / name
