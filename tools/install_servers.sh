#!/usr/bin/env bash
# Installs the database servers that tests start for themselves (tests/servers), where missing.
#
#   tools/install_servers.sh
#
# Does nothing when they are there. Otherwise it needs root on a Debian or Ubuntu; anywhere else it
# says what to install by hand. No server is started and no cluster made: tests make their own.
set -euo pipefail

say() { printf '%s\n' "$*" >&2; }

has_postgres() {
    local folder
    for folder in /usr/lib/postgresql/*/bin "$(pg_config --bindir 2>/dev/null || true)"; do
        if [ -x "$folder/postgres" ]; then return 0; fi
    done
    command -v postgres >/dev/null
}

if has_postgres; then exit 0; fi

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    say "There is no PostgreSQL server here. On Debian or Ubuntu: sudo $0; elsewhere install your system's package of it."
    exit 1
fi

# Debian's package would otherwise make a cluster and start it.
settings=/etc/postgresql-common/createcluster.conf
if ! grep -qs '^ *create_main_cluster' "$settings"; then
    mkdir -p "$(dirname "$settings")"
    echo 'create_main_cluster = false' >>"$settings"
fi

say "Installing PostgreSQL for the tests."
apt-get update -qq || say "apt-get update failed; trying with the lists that are there."
DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1 apt-get install -y -qq --no-install-recommends \
    postgresql >&2
has_postgres
