"""Writes the table of what each engine delivers into docs/engines.md, from what they declare.

python tools/capabilities.py            # write it
python tools/capabilities.py --check    # exit 1 if the page says something else
"""

from __future__ import annotations

import sys
from pathlib import Path

import failbetter
from failbetter.engine import Capabilities

PAGE = Path(__file__).parents[1] / "docs" / "engines.md"
BEGIN, END = "<!-- capabilities -->\n", "<!-- end -->\n"

OWN = Capabilities(
    queues=True,
    priorities=True,
    delays=True,
    knows_what_it_holds=True,
    timeouts="always",
    cause_of_crashes=True,
    charges_crashes=True,
    cancels_running=True,
)
"""Of failbetter's own workers, which need no engine."""

ENGINES = {
    "failbetter's own": OWN,
    "RQ": failbetter.RQ.capabilities,
    "Celery": failbetter.Celery.capabilities,
}
FEATURES = {
    "queues": "a worker serves the queues that it is told to",
    "priorities": "of one queue, the higher priority begins first",
    "delays": "what waits for its time begins without a maintainer",
    "knows_what_it_holds": "it knows which ids are on their way: only lost ones are sent again",
    "timeouts": "a body that runs longer than its `timeout` is ended, whatever it does",
    "cause_of_crashes": "a crash is told with its signal or exit code",
    "charges_crashes": "a body that kills its process is told from the loss of its worker",
    "cancels_running": "a running body can be cancelled",
}


def table() -> str:
    """The table and its notes, as Markdown."""
    notes: list[str] = []
    lines = [f"| | {' | '.join(ENGINES)} |", f"|---{'|---' * len(ENGINES)}|"]
    for field, feature in FEATURES.items():
        cells = []
        for name, found in ENGINES.items():
            value = getattr(found, field)
            text = {True: "yes", False: "no", "always": "yes", "none": "no"}.get(value, str(value))
            limit = found.limits.get(field)
            if limit is not None:
                notes.append(f"{len(notes) + 1}. {name}: {limit}.")
                text += f" ({len(notes)})"
            cells.append(text)
        lines.append(f"| {feature} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *notes, ""])


def main(argv: list[str]) -> int:
    """Write the table, or compare it."""
    text = PAGE.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    made = f"{before}{BEGIN}\n{table()}\n{END}{after}"
    if "--check" in argv:
        return int(made != text)
    PAGE.write_text(made, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
