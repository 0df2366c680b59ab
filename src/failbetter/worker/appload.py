"""Loading the user's app, in a child: where it is, what it is made of."""

from __future__ import annotations

import importlib

from failbetter.app import App
from failbetter.errors import ConfigurationError
from failbetter.worker.code import LoadedCode, own_files


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


def loaded_code(app: App, since: float = float("inf"), seen: str | None = None) -> LoadedCode:
    """The user's code that this process has loaded by now. See LoadedCode."""
    own = {task.function.__module__.partition(".")[0] for task in app.tasks.values()}
    return LoadedCode(own_files(own), since, seen)


def code_version(app: App) -> str:
    """The app's stated version, else a fingerprint of the user's code that is loaded."""
    return app.code_version or loaded_code(app).name
