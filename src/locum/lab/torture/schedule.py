"""What is done to the cluster, drawn from a seed: rounds of faults, and what must hold after each.

Pure: the same seed, round and shape give the same round. It knows no lab and no time of day.

A round is a *storm* of acts, some of which end by themselves while it lasts and some of which stand at its end. Usually
some nodes are *spared*: nothing that could make them unfit is done to them. If one of them can reach the store when the
storm is over, it must serve everything within a bound, while the other faults stand. Then all is healed, and the whole
cluster must come back.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

#: Acts that make a node unfit for as long as they last, with their weight.
STANDING: dict[str, int] = {
    "cut": 4,
    "cut-private": 4,
    "link": 3,
    "kill-all": 3,
    "freeze": 5,
    "freeze-agent": 3,
    "service": 3,
    "terminate": 2,
    "disable": 2,
    "stop": 2,
}
#: Acts that are over at once and that a fit node must take without losing its fitness.
PASSING: dict[str, int] = {
    "kill-agent": 3,
    "remove-address": 2,
    "foreign-address": 3,
    "flush": 2,
    "move": 2,
    "reload": 1,
}
#: Acts on the store: on a node's etcd member, or on the embedded store of all nodes.
ON_STORE: dict[str, dict[str, int]] = {
    "etcd": {"kill-etcd": 3, "freeze-etcd": 3},
    "embedded-file": {"kill-store": 2, "freeze-store": 2},
    "embedded": {},
}
#: Acts that somebody asks a daemon for.
ADMIN = frozenset({"disable", "stop", "move", "reload"})

# A node whose firewall is flushed while all of ours is frozen there, or which has a stranger's address just then,
# speaks until somebody puts the rules back: docs/safety.md says that such double faults are not covered.
_NOT_WITH_FLUSH = frozenset({"freeze", "freeze-agent", "kill-all", "kill-agent", "foreign-address", "terminate"})
#: On one node, no two of a group at one time: undoing one would undo the other.
_GROUPS = ({"cut", "cut-private"}, {"kill-all", "terminate", "freeze", "freeze-agent"}, {"kill-etcd", "freeze-etcd"})

_SPARING = 0.8
_LONGEST_STORM = 6.0


class Shape(msgspec.Struct, frozen=True):
    """What there is to break: ``nodes``, public ``addresses``, the kind of ``store``, nodes with ``members`` of it."""

    nodes: tuple[str, ...]
    addresses: tuple[str, ...]
    store: str
    members: tuple[str, ...] = ()


class Act(msgspec.Struct, frozen=True):
    """``kind`` is done to ``node`` (for admin commands: is about it), ``at`` seconds after the storm began.

    ``lasts``: seconds until it is undone; None when it stands until everything is healed, 0 for passing acts.
    ``address``: the public address concerned. ``asked``: the node whose daemon gets the command.
    """

    at: float
    kind: str
    node: str
    lasts: float | None = 0.0
    address: str = ""
    asked: str = ""

    @property
    def until(self) -> float:
        """When it is over, in seconds after the storm began."""
        return float("inf") if self.lasts is None else self.at + self.lasts

    def words(self) -> str:
        """For the log."""
        text = f"{self.node}: {self.kind}"
        if self.address:
            text += f" {self.address}"
        if self.asked:
            text += f" (asked of {self.asked})"
        if self.lasts is None:
            return f"{text}, standing"
        return f"{text} for {self.lasts:.1f} s" if self.lasts else text


class Round(msgspec.Struct, frozen=True):
    """``acts`` in order of time. ``fit``: nodes that must serve everything while the standing faults stand; none when
    nobody is known to be able to. ``store_disturbed``: the store, or ways to it, were among what was broken.
    """

    number: int
    acts: tuple[Act, ...]
    fit: tuple[str, ...]
    store_disturbed: bool

    @property
    def length(self) -> float:
        """Seconds until the last act was done or, if it does not stand, undone."""
        return max((act.at if act.lasts is None else act.until for act in self.acts), default=0.0)


def draw(seed: int, number: int, shape: Shape) -> Round:
    """Round ``number`` of the run with that seed."""
    dice = random.Random(f"{seed}/{number}")
    spared: set[str] = set()
    if dice.random() < _SPARING:
        spared = set(dice.sample(shape.nodes, dice.randint(1, max(1, len(shape.nodes) - 1))))
    weights = {**STANDING, **PASSING, **ON_STORE[shape.store]}
    acts: list[Act] = []
    at = 0.0
    for _ in range(dice.randint(1, 7)):
        # Some at the same moment, most one after the other.
        at += 0.0 if dice.random() < 0.3 else dice.uniform(0.05, _LONGEST_STORM / 4)
        act = _draw_act(dice, at, weights, shape, spared, acts)
        if act is not None:
            acts.append(act)
    acts.sort(key=lambda act: act.at)
    disturbing = {"cut", "cut-private", *ON_STORE[shape.store]} if shape.store == "etcd" else ON_STORE[shape.store]
    return Round(
        number=number,
        acts=tuple(acts),
        fit=tuple(node for node in shape.nodes if _is_fit(node, shape, acts)),
        store_disturbed=any(act.kind in disturbing for act in acts),
    )


def _draw_act(
    dice: random.Random, at: float, weights: dict[str, int], shape: Shape, spared: set[str], before: Sequence[Act]
) -> Act | None:
    """One more act, or None when what the dice say does not go together with what is there already."""
    (kind,) = dice.choices(list(weights), list(weights.values()))
    # Everything is drawn whatever the kind is, so that one kind more or less changes little else.
    touched = [node for node in shape.nodes if node not in spared]
    anyone, victim = dice.choice(shape.nodes), dice.choice(touched or shape.nodes)
    address = dice.choice(shape.addresses) if shape.addresses else ""
    lasts = None if dice.random() < 0.5 else round(dice.uniform(0.1, 5.0), 2)
    if kind in PASSING:
        act = Act(at, kind, anyone, 0.0, address if kind in ("remove-address", "foreign-address", "move") else "")
    elif kind in STANDING:
        if not touched:
            return None
        act = Act(at, kind, victim, lasts)
    else:
        act = Act(at, kind, dice.choice(shape.members) if shape.members else shape.nodes[0], lasts)
    if kind in ADMIN:
        healthy = [node for node in shape.nodes if not any(_stands(other, node, at) for other in before)]
        if not healthy:
            return None
        act = msgspec.structs.replace(act, asked=dice.choice(healthy))
    return None if any(_clash(act, other) for other in before) else act


def _stands(act: Act, node: str, at: float) -> bool:
    return act.node == node and act.kind in STANDING and act.at <= at <= act.until + 1.0


def _clash(one: Act, other: Act) -> bool:
    whole_store = {"kill-store", "freeze-store"}
    if one.kind in whole_store and other.kind in whole_store:
        return True
    if one.node != other.node:
        return False
    kinds = {one.kind, other.kind}
    beside = kinds - {"flush"}
    if "flush" in kinds and (not beside or beside & _NOT_WITH_FLUSH):
        return True
    alike = one.kind == other.kind or any(kinds <= group for group in _GROUPS)
    return alike and one.at <= other.until and other.at <= one.until


def _is_fit(node: str, shape: Shape, acts: Sequence[Act]) -> bool:
    """Whether the node must be able to serve once the storm is over."""
    if any(act.node == node and act.kind in STANDING for act in acts):
        return False
    standing = [act for act in acts if act.lasts is None]
    if any(act.kind in ("kill-store", "freeze-store") for act in standing):
        return False
    if shape.store != "etcd":
        return True
    lost = {act.node for act in standing if act.kind in ("cut", "cut-private", "kill-etcd", "freeze-etcd")}
    return 2 * len([member for member in shape.members if member not in lost]) > len(shape.members)
