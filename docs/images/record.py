"""Makes demo.svg: the last screen of a real demo, as a terminal shows it.

    .venv/bin/python docs/images/record.py

Needs tmux, which plays the terminal, and rich, which draws.
"""

from __future__ import annotations

import io
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH, HEIGHT = 96, 90
PATIENCE = 180.0
TITLE = "make demo"
TARGET = Path(__file__).with_name("demo.svg")

# Without rich's own web fonts: a picture in a document fetches nothing.
FORMAT = """<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font: {char_height}px monospace; line-height: {line_height}px }}
.{unique_id}-title {{ font: bold 18px sans-serif }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g>
</g>
</svg>
"""


def tmux(*words: str) -> str:
    """Run a command of a tmux server of our own."""
    command = ["tmux", "-L", "failbetter-record", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def last_screen() -> str:
    """What stands on the terminal when the demo has ended, with its colours."""
    demo = f"'{Path(sys.executable).with_name('failbetter')}' demo; tmux wait -S over; sleep 60"
    size = ("-x", str(WIDTH), "-y", str(HEIGHT))
    tmux("new-session", "-d", *size, "-e", "TERM=xterm-256color", "-e", "LANG=C.UTF-8", demo)
    try:
        subprocess.run(["tmux", "-L", "failbetter-record", "wait", "over"], timeout=PATIENCE)
        time.sleep(0.5)
        return tmux("capture-pane", "-e", "-p", "-t", ":0")
    finally:
        tmux("kill-server")


def draw(screen: str) -> str:
    """The screen as SVG."""
    console = Console(record=True, width=WIDTH, force_terminal=True, file=io.StringIO())
    for line in screen.rstrip().splitlines():
        console.print(Text.from_ansi(line), soft_wrap=True)
    return console.export_svg(title=TITLE, code_format=FORMAT, unique_id="demo")


if __name__ == "__main__":
    svg = draw(last_screen())
    TARGET.write_text("".join(f"{line.rstrip()}\n" for line in svg.splitlines()), "utf-8")
