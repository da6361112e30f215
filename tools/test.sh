#!/bin/sh
# All checks, in order: style, types, the tests of units (several at once), those of the lab (two labs at a time: they wait
# more than they work; those that are marked "alone" one after the other), and with ALL those in virtual machines. The
# simulation and its tests keep time of their own, so they run beside the lab and get the processor time that the lab leaves.
# Goes on after a failure; fails if anything did. The last line counts all tests.
set -u

cd "$(dirname "$0")/.."
work=${WORK:-}

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

if [ "${1:-}" = --beside-the-lab ]; then
    # Linux shares processors between sessions before it looks at the processes in them (sched(7), "The autogroup
    # feature"): the nice value of a process alone would leave half of a processor to each side.
    echo 19 2>/dev/null >"/proc/$$/autogroup" || true
    renice -n 19 -p $$ >/dev/null
    check 'simulation' make --no-print-directory sim
    check 'tests of the simulation' tests simulation -n 2 --dist worksteal -o cache_dir=.pytest_cache/simulation tests/sim
    exit 0
fi

work=$(mktemp -d)
beside=
clean() {
    [ "$beside" = "" ] || kill -- "-$beside" 2>/dev/null
    rm -rf "$work"
}
trap clean EXIT
trap 'exit 1' HUP INT TERM

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

# Wait for what runs beside the lab, and show what it wrote.
end_of_the_others() {
    wait "$beside" || printf '  FAILED  checks beside the lab\n' >>"$work/summary"
    beside=
    printf '\n'
    cat "$work/beside"
}

# The sum of what the closing lines of the runs of pytest say. What passed when it was repeated has passed.
count() {
    for log in units simulation lab alone repeated machines; do
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
check 'tests of units' tests units -n 4 --dist worksteal tests/unit
# A session of its own is a group of processes that can be ended at once.
WORK=$work setsid tools/test.sh --beside-the-lab >"$work/beside" 2>&1 &
beside=$!
check 'tests in the lab' lab
end_of_the_others
if [ "${ALL:-}" != "" ]; then
    # Real machines: Debian in QEMU, with systemd and the kernel's own services.
    if tools/packages.sh tools/debian-packages-vm.txt; then
        # Without root or /dev/net/tun they fail: nothing was tested.
        LOCUM_TEST_VM=1
        export LOCUM_TEST_VM
        check 'tests in virtual machines' tests machines -n 2 --dist loadscope --no-loadscope-reorder tests/vm
    else
        printf '  NOT RUN  tests in virtual machines: QEMU cannot be installed here\n' >>"$work/summary"
    fi
fi

printf '\n%s' "$(cat "$work/summary")"
printf '\n'
if [ -e "$work/repeated" ]; then printf '  repeated: %s\n' "$(tail -n 1 "$work/repeated" | tr -d '=')"; fi
count
! grep -q '^  FAILED' "$work/summary"
