"""Loading the user's app, in a child: where it is, what it is made of."""

from __future__ import annotations

import hashlib
import importlib
import site
import sys
import sysconfig
from pathlib import Path

from failbetter.app import App
from failbetter.errors import ConfigurationError


def load_app(spec: str) -> App:
    """The App that `module:attribute` names (`module` alone means its only App).

    Raises ConfigurationError for a spec that names none; whatever the import raises passes.
    """
    module_name, _, attribute = spec.partition(":")
    if not module_name:
        raise ConfigurationError(f"{spec!r} names no app; write module:app")
    module = importlib.import_module(module_name)
    if attribute:
        found = module
        for part in attribute.split("."):
            if not hasattr(found, part):
                raise ConfigurationError(f"module {module_name} has no {attribute!r}")
            found = getattr(found, part)
        if not isinstance(found, App):
            raise ConfigurationError(f"{spec} is a {type(found).__name__}, not a failbetter.App")
        return found
    apps = [value for value in vars(module).values() if isinstance(value, App)]
    if len(set(map(id, apps))) != 1:
        raise ConfigurationError(f"module {module_name} has {len(apps)} Apps; write module:app")
    return apps[0]


def code_version(app: App) -> str:
    """The app's stated version, else a fingerprint of the user's code that is loaded."""
    return app.code_version or fingerprint_loaded_code(
        {task.function.__module__.partition(".")[0] for task in app.tasks.values()}
    )


def fingerprint_loaded_code(own: set[str]) -> str:
    """A hash over the source of every loaded module that is neither installed nor Python's own.

    Top-level packages named in `own` count even if they are installed: an application may be.
    """
    foreign = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    foreign += [*site.getsitepackages(), str(Path(__file__).parents[1])]
    prefixes = tuple(str(Path(path).resolve()) + "/" for path in foreign if path)
    digest = hashlib.sha256()
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not file.endswith(".py"):
            continue
        path = Path(file).resolve()
        is_own = name.partition(".")[0] in own or not str(path).startswith(prefixes)
        if not is_own or not path.is_file():
            continue
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]
