"""Find the smallest trouble with which a seed still violates the same invariant.

Leaving out a kind of fault changes the rest of the history. So this searches for another run that fails alike; it does
not prove the cause.
"""

from __future__ import annotations

from collections.abc import Callable

from locum_sim.faults.draw import WEIGHTS
from locum_sim.run import Knobs, run_seed


def shrink(seed: int, knobs: Knobs, say: Callable[[str], None]) -> str | None:
    """The options with which ``seed`` still fails as with ``knobs``, or None when it does not fail."""
    first = run_seed(seed, knobs).violation
    if first is None:
        return None
    say(str(first))

    def fails(candidate: Knobs) -> bool:
        found = run_seed(seed, candidate).violation
        return found is not None and found.invariant == first.invariant

    for kind in WEIGHTS:
        if kind in knobs.without:
            continue
        candidate = knobs._replace(without=(*knobs.without, kind))
        if fails(candidate):
            knobs = candidate
            say(f"fails without {kind}")
    for nodes in (1, 2, 3, 4, 5):
        candidate = knobs._replace(nodes=nodes)
        if (knobs.nodes is None or nodes < knobs.nodes) and fails(candidate):
            knobs = candidate
            say(f"fails with {nodes} nodes")
            break
    for addresses in (1, 2, 4):
        candidate = knobs._replace(addresses=addresses)
        if (knobs.addresses is None or addresses < knobs.addresses) and fails(candidate):
            knobs = candidate
            say(f"fails with {addresses} addresses")
            break
    for rounds in (1, 2):
        candidate = knobs._replace(rounds=rounds)
        if (knobs.rounds is None or rounds < knobs.rounds) and fails(candidate):
            knobs = candidate
            say(f"fails with {rounds} rounds")
            break
    return _options(knobs)


def _options(knobs: Knobs) -> str:
    left = [kind for kind in WEIGHTS if kind not in knobs.without and (not knobs.only or kind in knobs.only)]
    # An empty list of kinds would mean all of them.
    words = [f"--without {kind}" for kind in knobs.without] if len(left) in (0, len(WEIGHTS)) else []
    words = words or [f"--only {kind}" for kind in left if len(left) < len(WEIGHTS)]
    for name in ("nodes", "addresses", "hold", "rounds", "trouble", "calm"):
        value = getattr(knobs, name)
        if value is not None:
            words.append(f"--{name} {value}")
    return " ".join(words)
