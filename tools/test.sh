#!/bin/sh
# All checks, in order: style, types, the simulation, the tests of units and of the simulation (several at once), those of
# the lab (two labs at a time: they wait more than they work; those that are marked "alone" one after the other), and with
# ALL those in virtual machines. Nothing runs beside the lab: its tests measure how late the machine is. Goes on after a
# failure; fails if anything did. The last line counts all tests.
set -u

cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

check() { # NAME COMMAND...
    name=$1
    shift
    printf '== %s\n' "$name"
    if "$@"; then verdict='ok    '; else verdict=FAILED; fi
    printf '  %s  %s\n' "$verdict" "$name" >>"$work/summary"
}

# Run pytest with its output also in a log. The status goes through a file: a pipeline has that of tee.
tests() { # LOG ARGUMENT...
    log=$work/$1
    shift
    { tools/inside.sh .venv/bin/python -m pytest "$@" 2>&1; echo $? >"$log.status"; } | tee "$log"
    return "$(cat "$log.status")"
}

lab() {
    # Tests of real services, of etcd clusters and of abuse: make test-all runs them, too.
    chosen='not long'
    [ "${ALL:-}" = "" ] || chosen='long or not long'
    status=0
    tests lab -n 2 --dist worksteal -m "not alone and ($chosen)" tests/lab || status=$?
    tests alone -m "alone and ($chosen)" tests/lab || { other=$?; [ "$status" -gt 1 ] || status=$other; }
    [ "$status" != 0 ] || return 0
    if [ "$status" != 1 ] || grep -q '^ERROR\|^FAILED tests/lab/.*::test_i[0-9]' "$work/lab" "$work/alone"; then
        return "$status"
    fi
    # Machines are shared. What fails in the lab is repeated once, alone and for all to see, unless it is about an
    # invariant: that must never fail.
    printf '\n== repeating what failed in the lab\n'
    grep -h '^FAILED' "$work/lab" "$work/alone"
    tests repeated --last-failed --last-failed-no-failures none tests/lab
}

# Real machines: Debian in QEMU, with systemd and the kernel's own services.
machines() {
    .venv/bin/python -m pytest tests/vm 2>&1 | tee "$work/machines"
    ! tail -n 1 "$work/machines" | grep -q 'failed\|error'
}

# The sum of what the closing lines of the runs of pytest say. What passed when it was repeated has passed.
count() {
    for log in units lab alone repeated machines; do
        if [ -e "$work/$log" ]; then tail -n 1 "$work/$log" | tr -d '=,' | sed "s/^/$log /"; fi
    done | awk '
        { for (i = 3; i <= NF; i++) {
              if ($i == "skipped") skipped += $(i - 1)
              if ($i == "passed") { passed += $(i - 1); if ($1 == "repeated") failed -= $(i - 1) }
              if ($i ~ /^(failed|errors?)$/ && $1 != "repeated") failed += $(i - 1) } }
        END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped }'
}

check 'ruff check' .venv/bin/ruff check --quiet .
check 'ruff format' .venv/bin/ruff format --check --quiet .
check 'mypy' .venv/bin/mypy
check 'mypy of the event scripts' .venv/bin/mypy --scripts-are-modules src/locum/scripts/*
check 'simulation' make --no-print-directory sim
check 'tests of units and simulation' tests units -n 4 --dist worksteal tests/sim tests/unit
check 'tests in the lab' lab
if [ "${ALL:-}" != "" ]; then
    if tools/packages.sh tools/debian-packages-vm.txt; then
        check 'tests in virtual machines' machines
    else
        printf '  NOT RUN  tests in virtual machines: QEMU cannot be installed here\n' >>"$work/summary"
    fi
fi

printf '\n%s' "$(cat "$work/summary")"
printf '\n'
if [ -e "$work/repeated" ]; then printf '  repeated: %s\n' "$(tail -n 1 "$work/repeated" | tr -d '=')"; fi
count
! grep -q '^  FAILED' "$work/summary"
