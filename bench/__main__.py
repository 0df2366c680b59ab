"""The command: `python -m bench`, from the repository's root."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from bench import history, lineup, machine, table
from bench.measures.base import Measure, Turn
from bench.measures.drain import Drain, Scaling
from bench.measures.enqueue import Enqueue
from bench.measures.growth import Growth
from bench.measures.latency import Latency
from bench.measures.memory import Memory
from bench.measures.retry import Retry
from bench.quiet import DISTURBED, Watch
from bench.results import Results
from bench.session import ROOT
from bench.systems.base import System

DOCUMENT = ROOT / "docs" / "benchmarks.md"
MEASURES = ("enqueue", "drain", "scaling", "latency", "memory", "growth", "retry")
QUICK = 0.25


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options; usage errors exit with 2."""

    def several(known: Sequence[str]) -> type[list[str]]:
        def convert(text: str) -> list[str]:
            names = [name.strip() for name in text.split(",") if name.strip()]
            if unknown := set(names) - set(known):
                raise argparse.ArgumentTypeError(
                    f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}"
                )
            return names

        return convert  # type: ignore[return-value]

    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a quarter of the jobs, 2 rounds")
    parser.add_argument("--rounds", type=int, help="rounds; 5 unless --quick")
    parser.add_argument("--only", type=several(MEASURES), default=list(MEASURES), metavar="A,B",
                        help=f"measures: {', '.join(MEASURES)}")  # fmt: skip
    parser.add_argument("--systems", type=several(lineup.KEYS), default=list(lineup.KEYS),
                        metavar="A,B", help=f"systems: {', '.join(lineup.KEYS)}")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--write", action="store_true",
                        help=f"write the table to {DOCUMENT.relative_to(ROOT)}")  # fmt: skip
    parser.add_argument("--dir", type=Path, default=ROOT / "bench" / ".work", metavar="DIR",
                        help="where databases are made, on the disk to be measured")  # fmt: skip
    parser.add_argument("--patience", type=float, default=10.0, metavar="SECONDS",
                        help="wait so long for a quiet machine before each turn")  # fmt: skip
    options = parser.parse_args(argv)
    options.rounds = options.rounds or (2 if options.quick else 5)
    if options.rounds < 1:
        parser.error("--rounds must be 1 or more")
    return options


def measures(names: Sequence[str], specimen: Path, work: Path, past: int) -> list[Measure]:
    """The measures asked for, in a fixed order."""
    known: list[Measure] = [Enqueue(), Drain(), Scaling(), Latency(), Memory(),
                            Growth(specimen, work, past), Retry()]  # fmt: skip
    return [measure for measure in known if measure.name in names]


class Run:
    """All rounds: for each measure every system in turn, starting with another one each round."""

    def __init__(
        self, options: argparse.Namespace, found: lineup.Lineup, results: Results, work: Path
    ) -> None:
        self._options = options
        self._found = found
        self._results = results
        self._work = work
        self._watch = Watch(options.patience, found.cpu_seconds)
        self._begin = time.monotonic()
        self.past = history.JOBS // 4 if options.quick else history.JOBS
        self.pieces = self.disturbed = 0

    def go(self) -> None:
        """Run everything that was asked for."""
        chosen = measures(self._options.only, self._found.specimen, self._work, self.past)
        for number in range(self._options.rounds):
            for measure in chosen:
                systems = [s for s in self._found.systems if measure.name in s.measures]
                shift = number % max(1, len(systems))
                for system in systems[shift:] + systems[:shift]:
                    if (system.key, measure.name) not in self._results.errors:
                        self._turn(measure, system, number)
            # A run takes long: what there is after each round is kept.
            save(self._options.json, self._results, self._found.facts)

    def _turn(self, measure: Measure, system: System, number: int) -> None:
        """Measure once."""
        counts = system.counts.scaled(QUICK if self._options.quick else 1.0)
        turn = Turn(system, counts, number, self._work, self._results, self._watch)
        self._say(f"round {number + 1}/{self._options.rounds}  {measure.name:8}  {system.key}")
        try:
            measure.run(turn)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            self._results.errors[system.key, measure.name] = why
            self._say(why)
        for others in turn.others:
            self.pieces += 1
            if others >= DISTURBED:
                self.disturbed += 1
                self._say(f"others used {others:.0%} of the machine")

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._begin:6.0f} s  {text}", file=sys.stderr, flush=True)


def spoken(argv: Sequence[str]) -> str:
    """The command as a reader would repeat it: without where its samples were kept."""
    words = list(argv)
    for place, word in enumerate(argv):
        if word == "--json":
            words = [*argv[:place], *argv[place + 2 :]]
    return shlex.join(["python", "-m", "bench", *words])


def save(path: Path | None, results: Results, facts: Sequence[str]) -> None:
    """Write every sample to a file, if one was asked for."""
    if path is None:
        return
    errors = [[*key, why] for key, why in results.errors.items()]
    document = {
        "facts": list(facts),
        "samples": list(results.rows()),
        "errors": errors,
        "skipped": results.skipped,
    }
    path.write_text(json.dumps(document, indent=1))


def main(argv: Sequence[str]) -> int:
    """Run; 0, or 1 when failbetter or the raw limit could not be measured."""
    options = parse(argv)
    # So that workers and folders are cleaned up when the run is told to stop.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    options.dir.mkdir(parents=True, exist_ok=True)
    results = Results()
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.dir)))
        facts = machine.facts(work)
        found = lineup.Assembly(options.systems, work, results, stack).go()
        began = time.monotonic()
        this = Run(options, found, results, work)
        this.go()
        minutes = (time.monotonic() - began) / 60
    facts += found.facts
    facts.append(f"{this.pieces} measurements, in {this.disturbed} of which others used more than"
                 f" {DISTURBED:.0%} of the machine, however often they were repeated")  # fmt: skip
    command = spoken(argv)
    facts.append(f"`{command}`, {options.rounds} rounds, {minutes:.0f} minutes,"
                 f" {datetime.now(UTC):%Y-%m-%d}")  # fmt: skip
    text = table.document(found.systems, results, facts, this.past)
    print(text)
    save(options.json, results, facts)
    if options.write:
        DOCUMENT.parent.mkdir(exist_ok=True)
        DOCUMENT.write_text(table.preface(command) + text)
    ours = [key for key, _ in results.errors if key.startswith(("failbetter", "raw"))]
    return 1 if ours else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
