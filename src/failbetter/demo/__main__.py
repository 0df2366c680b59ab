"""`python -m failbetter.demo`: the same as `failbetter demo`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from failbetter.demo.run import run_demo


def main() -> int:
    """Read the command line and run the demo."""
    parser = argparse.ArgumentParser(prog="python -m failbetter.demo", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="default: the standard library")
    parser.add_argument("--seed", type=int, default=1, help="decides files and faults")
    parser.add_argument("--json", action="store_true", help="print one JSON document only")
    parser.add_argument("--keep", type=Path, help="keep ledger, store and logs in this new folder")
    options = parser.parse_args()
    return run_demo(options.folder, seed=options.seed, json=options.json, keep=options.keep)


if __name__ == "__main__":
    sys.exit(main())
