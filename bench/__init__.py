"""failbetter measured side by side with other systems and with plain `sqlite3` and `psycopg`.

Run it from the repository's root: `make bench`, or `.venv/bin/python -m bench --help`. What
cannot be had on a machine (a server; for oban, a `python3.12` or newer on the PATH) is left out,
and the table says so.

How a figure comes about: a *system* (`bench.systems`) knows how its store is prepared and how its
workers are started, as a user would start them; its *tasks* module, imported by its workers and
by a driver process in its own interpreter, knows how it enqueues. A *measure* (`bench.measures`)
drives any system through a `bench.session.Session` and records numbers in `bench.results`. The
run goes round robin over the systems, so that a machine that drifts drifts for all of them, and
ratios are taken within a round before their median is.
"""
