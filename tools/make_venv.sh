#!/usr/bin/env bash
# Makes or updates the environment in $1 from the pinned, hashed requirements in $2.
# With a third argument "editable", failbetter itself is installed there too.
#
#   PYTHON=python3.13 tools/make_venv.sh .venv requirements/dev.txt editable
#
# An environment that exists is updated in place, so that whoever works in it meanwhile is not
# disturbed. Needs only Python and, on a Debian without its venv module, the right to install it.
set -euo pipefail

venv=$1
requirements=$2
editable=${3:-}
python=${PYTHON:-python3}

say() { printf '%s\n' "$*" >&2; }

command -v "$python" >/dev/null || {
    say "There is no '$python' here. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3"
    exit 1
}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    say "failbetter needs Python 3.11 or newer; '$python' is $("$python" -V 2>&1). Name another: make PYTHON=python3.12"
    exit 1
}

# Two makes at once (two terminals, an editor and a terminal) take turns.
mkdir -p "$venv"
if command -v flock >/dev/null; then
    exec 9>"$venv/.lock"
    flock 9
fi

create() { "$python" -m venv "$venv"; }

install_venv_module() {
    # Debian splits ensurepip out of Python into a package of the same version.
    local package
    package="python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    apt-get update -qq || say "apt-get update failed; trying with the lists that are there."
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$package" >&2
}

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            say "This Python has no venv module; installing Debian's package of it."
            install_venv_module
        else
            say "This Python has no venv module. On Debian or Ubuntu: sudo apt-get install python3-venv"
            exit 1
        fi
    fi
    create
fi

pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet)
"${pip[@]}" install --require-hashes --only-binary :all: -r "$requirements"
if [ "$editable" = editable ]; then
    # The build backend is among the requirements, so nothing unpinned is fetched to build with.
    "${pip[@]}" install --no-deps --no-build-isolation --editable .
fi
