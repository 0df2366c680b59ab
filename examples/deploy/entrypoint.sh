#!/bin/sh
# The entrypoint of a container: first what the last one left unfinished, then the application.
#
#   ENTRYPOINT ["/entrypoint.sh"]
#   CMD ["uvicorn", "web:site", "--host", "0.0.0.0"]
#
# FAILBETTER_RECOVERY           warn (default): the application starts whatever recovery says;
#                               block: it starts only after a recovery that went well
# FAILBETTER_RECOVERY_TIMEOUT   how long recovery may take, 30 s
# FAILBETTER_APP, FAILBETTER_URL   as everywhere: which ledger
#
# A signal during recovery ends it cleanly, and this exits with 128 + its number. Otherwise the exit
# code is the application's or, when it was not started, that of the recovery.
set -u

say() { echo "entrypoint: $*" >&2; }

policy=${FAILBETTER_RECOVERY:-warn}
case $policy in
    warn | block) ;;
    *) say "FAILBETTER_RECOVERY is warn or block, not '$policy'"; exit 78 ;;
esac
if [ $# -eq 0 ]; then
    say "there is nothing to start; give the application's command"
    exit 2
fi

caught=
recovery=
# The shell has its background commands ignore SIGINT, so that each is passed on as SIGTERM.
pass_on() {
    caught=${caught:-$1}
    if [ -n "$recovery" ]; then kill -TERM "$recovery" 2>/dev/null; fi
}
trap 'pass_on 1' HUP
trap 'pass_on 2' INT
trap 'pass_on 3' QUIT
trap 'pass_on 15' TERM

failbetter recover --timeout "${FAILBETTER_RECOVERY_TIMEOUT:-30}" &
recovery=$!
# Of a signal that came before there was anybody to pass it on to.
if [ -n "$caught" ]; then kill -TERM "$recovery" 2>/dev/null; fi
wait "$recovery"
code=$?
# A signal ends the wait, not the recovery.
while [ -n "$caught" ] && kill -0 "$recovery" 2>/dev/null; do
    wait "$recovery"
done
if [ -n "$caught" ]; then
    say "stopped by signal $caught during recovery; the application was not started"
    exit $((128 + caught))
fi

if [ "$code" -ne 0 ]; then
    if [ "$policy" = block ]; then
        say "recovery ended with $code; the application is not started (FAILBETTER_RECOVERY=block)"
        exit "$code"
    fi
    say "recovery ended with $code; starting the application all the same"
fi

exec "$@"
