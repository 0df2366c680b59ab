"""Runs real libraries until they fail, and keeps the failures as data.

    python tests/corpus/make.py shop >> tests/corpus/shop.jsonl

Run it with several Pythons and versions of the libraries (requests, httpx, SQLAlchemy, …), which
need not be failbetter's own; with `CORPUS_POSTGRES` set to a server's URL, and `redis-server` at
hand, those are asked too. Each line is a failure, with the label of its cause. Folders are
rewritten as of other machines.
"""

import importlib
import json
import os
import random
import sys
import warnings

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import capture


def main(app: str, seed: int) -> None:
    warnings.simplefilter("ignore")
    rng = random.Random(seed)
    cases = importlib.import_module(f"{app}_cases").CASES
    for label, task, ways in cases:
        for way in ways:
            made = failure(way, task, rng, app)
            line = json.dumps({"label": f"{app}/{label}", "failure": made}, sort_keys=True)
            if not capture.plain(line):
                raise SystemExit(f"{label}: a path of this machine is left: {line}")
            print(line, flush=True)


def failure(way, task, rng, app):
    try:
        way(rng)
    except Exception as error:
        return capture.Moved(rng, app).failure(capture.described(error, task))
    raise SystemExit(f"{task}: nothing failed")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1)
