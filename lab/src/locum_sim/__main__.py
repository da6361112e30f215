"""``python -m locum_sim``: run seeds, or one seed with its timeline. ``docs/simulation.md`` is the manual."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterable

from locum_sim.faults.draw import WEIGHTS
from locum_sim.many import outcomes
from locum_sim.run import Knobs, Outcome, run_seed
from locum_sim.seeds_report import Total
from locum_sim.shrink import shrink

#: Seconds of the timeline printed before a violation, unless the whole timeline is requested.
LAST_SECONDS = 5.0
#: Violations after which a run of many seeds gives up.
ENOUGH = 20


def main() -> int:
    """The command; exit status 1 when an invariant was violated."""
    options = _parser().parse_args()
    knobs = Knobs(
        only=tuple(options.only),
        without=tuple(options.without),
        nodes=options.nodes,
        addresses=options.addresses,
        hold=options.hold,
        rounds=options.rounds,
        trouble=options.trouble,
        calm=options.calm,
    )
    if options.shrink and options.seed is not None:
        return _shrink(options.seed, knobs)
    if options.seed is not None:
        return _one(options.seed, knobs, whole=options.whole)
    return _many(options, knobs)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m locum_sim", description=__doc__, epilog=f"Kinds of faults: {', '.join(sorted(WEIGHTS))}."
    )
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--seeds", type=int, metavar="N", help="run N seeds (default 100)")
    amount.add_argument("--minutes", type=float, metavar="M", help="run seeds for M minutes")
    amount.add_argument("--seed", type=int, metavar="S", help="run this seed alone and print its timeline")
    parser.add_argument("--first", type=int, default=0, metavar="S", help="the first seed (default 0)")
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="processes (default 1)")
    parser.add_argument("--whole", action="store_true", help="print all of a seed's timeline, not its end")
    parser.add_argument("--shrink", action="store_true", help="with --seed: look for the least that still fails")
    kinds = sorted(WEIGHTS)
    parser.add_argument("--only", action="append", default=[], choices=kinds, metavar="KIND", help="no other faults")
    parser.add_argument("--without", action="append", default=[], choices=kinds, metavar="KIND", help="no such faults")
    parser.add_argument("--nodes", type=int, help="number of nodes, instead of the seed's")
    parser.add_argument("--addresses", type=int, help="number of addresses, instead of the seed's")
    parser.add_argument("--hold", type=float, help="hold in seconds, instead of the seed's")
    parser.add_argument("--rounds", type=int, help="rounds of trouble and healing, instead of the seed's")
    parser.add_argument("--trouble", type=float, help="seconds of trouble in each round, instead of the seed's")
    parser.add_argument("--calm", type=float, help="mean seconds between two faults, instead of the seed's")
    return parser


def _one(seed: int, knobs: Knobs, *, whole: bool) -> int:
    outcome = run_seed(seed, knobs, traced=True)
    print(f"seed {seed}: {_shape_line(outcome)}")
    lines = outcome.timeline.splitlines()
    if not whole:
        lines = [line for line in lines if float(line.split(None, 1)[0]) >= outcome.seconds - LAST_SECONDS]
    print("\n".join(lines))
    print(f"{outcome.violation or 'no violation'}; {outcome.seconds:.1f} s simulated")
    return 0 if outcome.violation is None else 1


def _shape_line(outcome: Outcome) -> str:
    scenario = outcome.scenario
    return (
        f"{scenario.nodes} nodes, {len({h.address for hs in scenario.hosted for h in hs})} addresses, "
        f"hold {'/'.join(f'{h:g}' for h in dict.fromkeys(scenario.holds))} s, "
        f"network {scenario.network[0] * 1000:g}-{scenario.network[1] * 1000:g} ms"
    )


def _shrink(seed: int, knobs: Knobs) -> int:
    found = shrink(seed, knobs, print)
    if found is None:
        print(f"seed {seed} violates nothing")
        return 0
    print(f"python -m locum_sim --seed {seed} {found}")
    return 1


def _many(options: argparse.Namespace, knobs: Knobs) -> int:
    total, began, cpu = Total(), time.monotonic(), 0.0
    seeds: Iterable[int] = itertools.count(options.first)
    if options.minutes is None:
        seeds = range(options.first, options.first + (options.seeds or 100))
    end = began + options.minutes * 60 if options.minutes is not None else None
    for outcome, spent in outcomes(seeds, knobs, options.jobs):
        cpu += spent
        total.add(outcome)
        if outcome.violation is not None:
            print(f"seed {outcome.scenario.seed} at {outcome.seconds:.3f} s: {outcome.violation}", flush=True)
            if len(total.violations) >= ENOUGH:
                print("enough violations; giving up")
                break
        elif total.runs % 500 == 0:
            print(f"... {total.runs} runs, {total.seconds:,.0f} s simulated", flush=True)
        if end is not None and time.monotonic() >= end:
            break
    for line in total.lines(cpu, options.jobs):
        print(line)
    if total.violations:
        seed = total.violations[0][0]
        print(f"\nthe end of seed {seed}, the first that failed (python -m locum_sim --seed {seed} --whole for all):")
        _one(seed, knobs, whole=False)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
