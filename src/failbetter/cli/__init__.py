"""The command line, `failbetter`. It sees of the library what a user sees: the public names.

`program` is the door; each group of commands has a module of its own.
"""

from failbetter.cli.program import main

__all__ = ["main"]
