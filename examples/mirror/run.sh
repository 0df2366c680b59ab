#!/bin/sh
# Starts the whole example: makes repositories where there are none; then, as a container would,
# recovers what the last run left unfinished, and serves. Arguments go to uvicorn, such as
# `--port 9000`. MIRROR_HOME says where everything is kept; else it is `data`, beside this file.
set -eu

here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
if [ -d "$here/../../.venv" ]; then PATH=$here/../../.venv/bin:$PATH; fi
export PATH FAILBETTER_APP=tasks:app PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"

if [ ! -d "${MIRROR_HOME:-$here/data}/sources" ]; then python "$here/make_repositories.py"; fi
exec "$here/../deploy/entrypoint.sh" uvicorn web:site "$@"
