#!/usr/bin/env bash
# Pins the dependencies in pyproject.toml again, with hashes, for every supported Python, into
# requirements/*.txt. Arguments go to `uv pip compile`: --upgrade, or --upgrade-package NAME.
set -euo pipefail

uv=.lock-venv/bin/uv
# The header of the files must name neither a path of this machine nor an index.
export UV_CUSTOM_COMPILE_COMMAND="make lock"
common=(--quiet --universal --python-version 3.11 --generate-hashes "$@")

"$uv" pip compile "${common[@]}" --all-extras --group dev pyproject.toml -o requirements/dev.txt >/dev/null
"$uv" pip compile "${common[@]}" --group lock -o requirements/lock.txt >/dev/null

if grep -nE '^ *(-i|-f|--index-url|--extra-index-url|--find-links|--trusted-host)|://|file:' requirements/*.txt; then
    echo "The lock names an index or a file of this machine (above); it must not." >&2
    exit 1
fi
