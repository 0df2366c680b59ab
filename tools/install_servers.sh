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

has_mariadb() {
    PATH="$PATH:/usr/sbin:/usr/libexec:/usr/local/sbin" command -v mariadbd >/dev/null &&
        command -v mariadb-install-db >/dev/null
}

has_redis() { command -v redis-server >/dev/null || command -v valkey-server >/dev/null; }

has_rabbitmq() {
    compgen -G '/usr/lib/rabbitmq/lib/*/sbin/rabbitmq-server' >/dev/null ||
        PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v rabbitmq-server >/dev/null
}

missing=()
if ! has_postgres; then missing+=(postgresql); fi
if ! has_redis; then missing+=(redis-server); fi
if ! has_rabbitmq; then missing+=(rabbitmq-server); fi
if ! has_mariadb; then missing+=(mariadb-server); fi
if [ "${#missing[@]}" = 0 ]; then exit 0; fi

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    say "Missing here: ${missing[*]}. On Debian or Ubuntu: sudo $0; elsewhere install your system's packages of them."
    exit 1
fi

# Debian's package of PostgreSQL would otherwise make a cluster and start it.
settings=/etc/postgresql-common/createcluster.conf
if ! grep -qs '^ *create_main_cluster' "$settings"; then
    mkdir -p "$(dirname "$settings")"
    echo 'create_main_cluster = false' >>"$settings"
fi

# And those of the others would start their servers: this says no to whatever asks, for the time being.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi

say "Installing for the tests: ${missing[*]}."
apt-get update -qq || say "apt-get update failed; trying with the lists that are there."
DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1 apt-get install -y -qq --no-install-recommends \
    "${missing[@]}" >&2
has_postgres
has_redis
has_rabbitmq
has_mariadb
