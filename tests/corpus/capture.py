"""A real exception as the data that a fingerprint is made of; and as from another machine."""

import linecache
import os
import random
import re
import sys
import sysconfig

HERE = os.path.dirname(os.path.abspath(__file__))
STDLIB = sysconfig.get_paths()["stdlib"]
PACKAGES = sysconfig.get_paths()["purelib"]

# Where applications, Pythons and their packages are found: application, stdlib, packages.
PLACES = [
    ("/app", "/usr/local/lib/python{v}", "/usr/local/lib/python{v}/site-packages"),
    ("/srv/{app}/releases/{stamp}", "/usr/lib/python{v}", "/srv/venv/lib/python{v}/site-packages"),
    ("/home/{user}/work/{app}", "/home/{user}/.pyenv/versions/{v}.4/lib/python{v}",
     "/home/{user}/work/{app}/.venv/lib/python{v}/site-packages"),
    ("/usr/src/app", "/usr/lib/python{v}", "/usr/lib/python3/dist-packages"),
    ("C:\\work\\{app}", "C:\\Python{w}\\Lib", "C:\\work\\{app}\\venv\\Lib\\site-packages"),
    ("/opt/{app}/current", "/opt/conda/lib/python{v}", "/opt/conda/lib/python{v}/site-packages"),
    ("/Users/{user}/dev/{app}", "/Library/Frameworks/Python.framework/Versions/{v}/lib/python{v}",
     "/Users/{user}/.virtualenvs/{app}/lib/python{v}/site-packages"),
    ("/opt/{app}/{app}.pyz", "/usr/lib/python{v}", "/root/.shiv/{app}_{stamp}/site-packages"),
]  # fmt: skip


def type_name(kind):
    if kind.__module__ in ("builtins", "__main__"):
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def frames_of(error):
    trace, frames = error.__traceback__, []
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename not in (__file__, os.path.join(HERE, "make.py")):
            frames.append(
                {
                    "file": code.co_filename,
                    "function": code.co_name,
                    "line": trace.tb_lineno,
                    "code": linecache.getline(code.co_filename, trace.tb_lineno).strip(),
                    "module": trace.tb_frame.f_globals.get("__name__"),
                }
            )
        trace = trace.tb_next
    return frames[:3] + frames[-60:] if len(frames) > 63 else frames


def chain_of(error):
    """The causes, root first; of a group, its first member."""
    causes, seen = [], {id(error)}
    while True:
        if getattr(error, "exceptions", None):
            error = error.exceptions[0]
        elif error.__cause__ is not None or error.__suppress_context__:
            error = error.__cause__
        else:
            error = error.__context__
        if error is None or id(error) in seen:
            return causes[::-1]
        seen.add(id(error))
        causes.append(error)


def described(error, task):
    return {
        "task": task,
        "error_type": type_name(type(error)),
        "message": str(error)[:2000],
        "frames": frames_of(error),
        "causes": [
            {"task": task, "error_type": type_name(type(one)), "message": str(one)[:2000],
             "frames": frames_of(one)}
            for one in chain_of(error)
        ],
    }  # fmt: skip


class Moved:
    """Another machine: its folders, its line numbers, whether it knows modules' names."""

    def __init__(self, rng: random.Random, app: str):
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        words = {
            "v": version,
            "w": version.replace(".", ""),
            "app": rng.choice([app, f"{app}-backend", "site"]),
            "user": rng.choice(["ann", "deploy", "ci", "bob"]),
            "stamp": rng.choice(["20240611-0912", "2025-01-30T11", "v2.14.3", "8c1f3e9"]),
        }
        place = rng.choice(PLACES)
        self.roots = [
            (PACKAGES, place[2].format(**words)),
            (STDLIB, place[1].format(**words)),
            (HERE, place[0].format(**words)),
        ]
        self.windows = place[0].startswith("C:")
        self.shift = rng.randrange(0, 40)
        self.modules = rng.random() < 0.5

    def text(self, text: str) -> str:
        for old, new in self.roots:
            text = text.replace(old, new)
        return text

    def file(self, file: str) -> str:
        for old, new in self.roots:
            if file.startswith(old):
                file = new + file[len(old) :]
                return file.replace("/", "\\") if self.windows else file
        return file

    def failure(self, one):
        frames = [
            {
                **frame,
                "file": self.file(frame["file"]),
                "line": frame["line"] + self.shift,
                "module": frame["module"] if self.modules else None,
            }
            for frame in one["frames"]
        ]
        moved = {**one, "message": self.text(one["message"]), "frames": frames}
        if "causes" in one:
            moved["causes"] = [self.failure(cause) for cause in one["causes"]]
        return moved


def plain(text: str) -> bool:
    """Whether no path of this machine is left."""
    return not re.search(re.escape(HERE) + "|" + re.escape(STDLIB), text)
