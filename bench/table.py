"""The results as Markdown, readable as it is on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench import floors
from bench.results import Results
from bench.stats import Spread
from bench.systems.base import System


@dataclass(frozen=True)
class Column:
    """A heading and the metric below it, with the decimals to show."""

    heading: str
    metric: str
    decimals: int = 0


SECTIONS: Sequence[tuple[str, str, Sequence[Column]]] = (
    ("Enqueue", "Jobs a second.", (
        Column("one by one", "enqueue.one"),
        Column("in bulk", "enqueue.bulk"),
    )),
    ("Drain", "No-op jobs a second, from the first body's begin until the last ending was seen;"
     " *steady*: the rate at which bodies began, over the middle of the run.", (
        Column("one process", "drain.1"),
        Column("steady", "drain.1.steady"),
        Column("two processes", "drain.2"),
        Column("steady", "drain.2.steady"),
        Column("two workers", "drain.two-workers"),
        Column("steady", "drain.two-workers.steady"),
    )),
    ("Bodies of 1 ms of CPU", "Jobs a second.", (
        Column("one process", "scaling.1"),
        Column("two processes", "scaling.2"),
        Column("steady, one", "scaling.1.steady"),
        Column("steady, two", "scaling.2.steady"),
    )),
    ("Pick-up by an idle worker", "Milliseconds until the body begins, in another process: from"
     " the call of `enqueue`, so with its commit, and from its return.", (
        Column("p50", "latency.p50", 2),
        Column("p99", "latency.p99", 2),
        Column("after, p50", "latency.after.p50", 2),
        Column("after, p99", "latency.after.p99", 2),
    )),
    ("An idle worker", "MiB over all its processes (PSS: shared pages divided among their users;"
     " USS: without them), and the share of a core it uses while it waits.", (
        Column("PSS", "memory.pss", 1),
        Column("USS", "memory.uss", 1),
        Column("processes", "memory.processes"),
        Column("CPU %", "memory.cpu", 2),
    )),
    ("Growth", "Jobs a second on an empty ledger, and on one with {history:,} ended jobs.", (
        Column("one by one, empty", "growth.empty.one"),
        Column("full", "growth.full.one"),
        Column("in bulk, empty", "growth.empty.bulk"),
        Column("full", "growth.full.bulk"),
        Column("drain, empty", "growth.empty.drain"),
        Column("full", "growth.full.drain"),
    )),
    ("Retry", "Seconds for 50,000 failed jobs, while a worker is at work: grouped, previewed, made"
     " to wait again (raw: one update, and no worker), and both together, or all that it does."
     " RQ's is what `rq requeue --all` does; RQ and procrastinate have only a call for each job."
     " oban's is from a measured 10,000, pgqueuer's from 20,000. Huey, Dramatiq and django-tasks-db"
     " have no such thing. Then: seconds until a fresh job begins that is enqueued behind them,"
     " the latest of a few; milliseconds from a body's end until others can see that its job has"
     " ended, the longest before and during the retry; MiB that the retrying process took at most,"
     " and for 5,000 jobs.", (
        Column("grouped", "retry.grouped", 2),
        Column("previewed", "retry.previewed", 2),
        Column("pending again", "retry.pending", 2),
        Column("seconds", "retry.seconds", 2),
        Column("fresh job", "retry.fresh", 2),
        Column("ending, before", "retry.delay.before", 1),
        Column("ending, during", "retry.delay.during", 1),
        Column("MiB", "retry.peak", 1),
        Column("MiB for 5,000", "retry.peak.part", 1),
    )),
)  # fmt: skip


def show(spread: Spread | None, decimals: int) -> str:
    """`median (low to high)`, or a dash."""
    if spread is None:
        return "-"
    values = [f"{v:,.{decimals}f}" for v in (spread.median, spread.low, spread.high)]
    return f"{values[0]} ({values[1]} to {values[2]})" if spread.rounds > 1 else values[0]


def grid(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table with aligned columns."""
    widths = [max(len(cell) for cell in column) for column in zip(headings, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"

    return [line(headings), "|" + "|".join("-" * (w + 2) for w in widths) + "|", *map(line, rows)]


def sides(systems: Sequence[System]) -> list[tuple[str, list[System]]]:
    """Those on PostgreSQL apart from the others: they have more in common, and their own floors."""
    parted: dict[str, list[System]] = {"on SQLite or Redis": [], "on PostgreSQL": []}
    for system in systems:
        name = "on PostgreSQL" if system.store == "postgres" else "on SQLite or Redis"
        parted[name].append(system)
    return list(parted.items())


def section(title: str, text: str, columns: Sequence[Column], systems: Sequence[System],
            results: Results) -> list[str]:  # fmt: skip
    """One kind of measurement over all systems; empty when nothing of it was measured."""
    lines = []
    for side, members in sides(systems):
        shown = [c for c in columns if any(results.spread(c.metric, s.key) for s in members)]
        rows = []
        for system in members:
            spreads = [results.spread(c.metric, system.key) for c in shown]
            if any(spreads):
                cells = (show(s, c.decimals) for s, c in zip(spreads, shown, strict=True))
                rows.append([system.title, *cells])
        if rows:
            lines += [*grid([side, *(c.heading for c in shown)], rows), ""]
    return [f"## {title}", "", text, "", *lines] if lines else []


def reached(systems: Sequence[System], results: Results, history: int) -> list[str]:
    """The speeds to reach, beside what was measured."""
    lines = ["## Speeds to reach", "", "Ratios are taken within each round. \"Raw\" is plain"
             " `sqlite3` or `psycopg` on the same tables and indexes, doing the same changes of"
             " rows in batches of 500. *In noise*: others used the machine in most of the rounds,"
             " so the figure proves nothing.", ""]  # fmt: skip
    peers = floors.peers(systems)
    wanted = (floors.ON_SQLITE, floors.ON_POSTGRES)
    for (side, members), side_floors in zip(sides(systems), wanted, strict=True):
        if not members:
            continue
        rows = []
        for floor in side_floors:
            spread, title = floor.measured(results, peers), floor.title.format(history=history)
            if spread is None:
                rows.append([title, floor.wanted(), "not measured in this run", ""])
            else:
                answer = "yes" if floor.reached(spread) else "**no**"
                if floor.bound is None:
                    answer = "-"
                if not floor.calm(results, peers):
                    answer += ", in noise"
                rows.append([title, floor.wanted(), show(spread, 2), answer])
        lines += [*grid([side, "floor", "median (low to high)", "reached"], rows), ""]
    return lines


def document(systems: Sequence[System], results: Results, facts: Sequence[str],
             history: int) -> str:  # fmt: skip
    """Everything."""
    lines = reached(systems, results, history)
    for title, text, columns in SECTIONS:
        lines += section(title, text.format(history=history), columns, systems, results)
    if results.skipped or results.errors:
        lines += ["## Not measured", ""]
        lines += [f"- {name}: {why}" for name, why in results.skipped.items()]
        lines += [f"- {system}, {m}: {why}" for (system, m), why in results.errors.items()]
        lines.append("")
    lines += ["## The machine and the run", "", *(f"- {fact}" for fact in facts), ""]
    return "\n".join(lines)


def preface(command: str) -> str:
    """How the document came about."""
    return f"""# Benchmarks

Made by `make bench ARGS=--write` (this time: `{command}`); do not edit it by hand. failbetter is
measured side by side with other systems, each in its newest release, installed in an environment
of its own, with sensible settings, and its workers started as a user would start them. Rounds go
round robin over the systems. Figures are medians, in parentheses the least and the greatest of
all rounds. One run on one machine says how systems compare there and then, not how fast they are
on yours.

"""
