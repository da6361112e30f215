#!/bin/sh
# All checks, in order: style, types, the simulation if there is one, then the tests (those of units first, then those
# of the lab) in one run of pytest, whose closing line ends the output. Goes on after a failure; fails if anything did.
set -u

cd "$(dirname "$0")/.."
summary=
failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 1' HUP INT TERM

check() { # NAME COMMAND...
    name=$1
    shift
    printf '== %s\n' "$name"
    if "$@"; then verdict='ok    '; else verdict=FAILED failed=1; fi
    summary="$summary  $verdict  $name
"
}

# Tests of real services, of etcd clusters and of long abuse: make test-all runs them, too.
later="nfs services torture hostile bad_input etcd store_etcd"

tests() {
    ignored=
    if [ "${ALL:-}" = "" ]; then
        for subject in $later; do ignored="$ignored --ignore-glob=tests/lab/test_$subject*"; done
    fi
    # The status goes through a file: a pipeline has that of tee.
    # shellcheck disable=SC2086
    { tools/inside.sh .venv/bin/python -m pytest $ignored tests/unit tests/lab 2>&1; echo $? >"$log.status"; } | tee "$log"
    status=$(cat "$log.status")
    rm -f "$log.status"
    if [ "$status" != 1 ] || grep '^FAILED\|^ERROR' "$log" | grep -qv '^FAILED tests/lab/' ||
        grep -q '^FAILED tests/lab/.*::test_i[0-9]' "$log"; then
        return "$status"
    fi
    # Tests of the lab are about time, and machines are shared. What fails there is repeated once, alone and for all to
    # see, unless it is about an invariant: that must never fail.
    printf '\n== repeating what failed in the lab\n'
    grep '^FAILED' "$log"
    { tools/inside.sh .venv/bin/python -m pytest --last-failed --last-failed-no-failures none tests/lab 2>&1
      echo $? >"$log.status"; } | tee "$log"
    status=$(cat "$log.status")
    rm -f "$log.status"
    return "$status"
}

check 'ruff check' .venv/bin/ruff check --quiet .
check 'ruff format' .venv/bin/ruff format --check --quiet .
check 'mypy' .venv/bin/mypy
# Only a checkout that has a simulation has this target.
if grep -q '^sim:' Makefile; then check 'simulation' make --no-print-directory sim; fi
check 'tests' tests

printf '\n%s' "$summary"
tail -n 1 "$log"
exit $failed
