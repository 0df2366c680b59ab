#!/bin/sh
# After new code is in place: has the workers load it, if any file that matters to them changed.
#
#   post-deploy.sh [OLD [NEW]]     in the repository that was deployed
#
# As .git/hooks/post-merge it runs after each `git pull`. OLD is the last revision that all workers
# could load, as noted in .git/failbetter-deployed; at first, where the pull began. So a deploy of
# many commits counts as one, and what a failed one has changed counts at the next.
#
# FAILBETTER_RESTART_PATHS   which files matter: patterns with spaces between them, *.py
# FAILBETTER_RESTART_WAIT    how long to wait until all workers have loaded the code, 60 s
# FAILBETTER_URL             which ledger, or FAILBETTER_APP
#
# Exit 0: all workers run the new code, or nothing changed. 1: a worker could not load it and goes on
# with the old. 75: some are not done yet, but have been asked. Others: as `failbetter restart`.
set -uf

say() { echo "post-deploy: $*" >&2; }

new=$(git rev-parse --verify --end-of-options "${2:-HEAD}^{commit}") || exit 66
note=$(git rev-parse --git-path failbetter-deployed)
old=${1:-$(cat "$note" 2>/dev/null || echo ORIG_HEAD)}
wait=${FAILBETTER_RESTART_WAIT:-60}

set --
for pattern in ${FAILBETTER_RESTART_PATHS:-*.py}; do
    set -- "$@" --path "$pattern"
done

failbetter restart --if-changed "$old..$new" "$@" --wait "$wait"
code=$?
if [ "$code" -eq 66 ]; then
    say "what changed is not known, so that all workers are restarted"
    failbetter restart --wait "$wait"
    code=$?
fi
case $code in
    0) echo "$new" > "$note" ;;
    1) say "a worker could not load the new code and goes on with the old; mend it and deploy again" ;;
    75) say "not all workers are done after $wait s; they have been asked, and go on by themselves" ;;
    *) say "restarting the workers ended with $code" ;;
esac
exit "$code"
