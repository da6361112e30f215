"""The acts on a cluster, drawn from a seed: rounds of faults, and what must hold after each.

Pure: the same seed, round and shape give the same round. This file knows no lab and no time of day. :mod:`.kinds` has
the acts.

A round is a *storm* of acts; some end by themselves during the storm, some stand at its end. Usually some nodes are
*spared*: no act makes them unfit. If one of them can reach the store when the storm is over, it must serve everything
within a bound, while the other faults stand. Then everything is healed, and the whole cluster must come back.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

from locum_lab.torture.kinds import (
    ADMIN,
    EVENTS_BY_HAND,
    FLEETING,
    GOING_BACK,
    GROUPS,
    NO_AGENT,
    NOT_TOGETHER,
    NOT_WITH_FLUSH,
    ON_STORE,
    PASSING,
    SCRIPT_EVENTS,
    STANDING,
    TUNABLES,
    WAY_TO_ETCD,
    WHOLE_STORE,
    standing_on,
)

_SPARING = 0.8
_LONGEST_STORM = 6.0
#: Seconds after its hold by which the kernel has removed the addresses of a dead or frozen node: lifetimes are rounded
#: up to whole seconds, and end up to 1.25 s late (docs/enforcement.md). Then a flush of its rules is safe.
_GONE_AFTER_HOLD = 4.0
#: The probability of such a flush.
_LATE_FLUSH = 0.3


class Shape(msgspec.Struct, frozen=True):
    """The targets of acts: ``nodes``, public ``addresses``, the kind of ``store``, nodes with ``members`` of it.

    ``hold`` in seconds.
    """

    nodes: tuple[str, ...]
    addresses: tuple[str, ...]
    store: str
    members: tuple[str, ...] = ()
    hold: float = 2.0


class Act(msgspec.Struct, frozen=True):
    """``kind`` is applied to ``node`` (admin commands concern it), ``at`` seconds after the storm began.

    ``lasts``: seconds until it is undone; None when it stands until healing, 0 for passing acts. ``address``: the
    public address concerned. ``asked``: the node whose daemon gets the command. ``detail``: the event, a tunable and
    its value, the seconds of a ban.
    """

    at: float
    kind: str
    node: str
    lasts: float | None = 0.0
    address: str = ""
    asked: str = ""
    detail: str = ""

    @property
    def until(self) -> float:
        """Its end, in seconds after the storm began."""
        return float("inf") if self.lasts is None else self.at + self.lasts

    def words(self) -> str:
        """For the log."""
        text = " ".join(filter(None, (f"{self.node}: {self.kind}", self.detail, self.address)))
        if self.asked:
            text += f" (asked of {self.asked})"
        if self.lasts is None:
            return f"{text}, standing"
        return f"{text} for {self.lasts:.1f} s" if self.lasts else text


class Round(msgspec.Struct, frozen=True):
    """``acts`` in order of time. ``fit``: nodes that must serve everything while the faults stand; none when no node is
    known to be able to. ``store_disturbed``: acts concerned the store, or paths to it.
    """

    number: int
    acts: tuple[Act, ...]
    fit: tuple[str, ...]
    store_disturbed: bool
    #: The store was wiped or restored.
    went_back: bool = False

    @property
    def length(self) -> float:
        """Seconds until the last act was applied or, if it does not stand, undone."""
        return max((act.at if act.lasts is None else act.until for act in self.acts), default=0.0)


def draw(seed: int, number: int, shape: Shape) -> Round:
    """Round ``number`` of the run with that seed."""
    dice = random.Random(f"{seed}/{number}")
    spared: set[str] = set()
    if dice.random() < _SPARING:
        spared = set(dice.sample(shape.nodes, dice.randint(1, max(1, len(shape.nodes) - 1))))
    weights = {**standing_on(shape.store), **FLEETING, **PASSING, **ON_STORE[shape.store]}
    acts: list[Act] = []
    at = 0.0
    for _ in range(dice.randint(1, 7)):
        # Some at the same moment, most one after the other.
        at += 0.0 if dice.random() < 0.3 else dice.uniform(0.05, _LONGEST_STORM / 4)
        act = _draw_act(dice, round(at, 3), weights, shape, spared, acts)
        if act is not None:
            acts.append(act)
    acts += _late_flushes(dice, shape, acts)
    acts.sort(key=lambda act: act.at)
    disturbing = {*WAY_TO_ETCD, *ON_STORE["etcd"], *GOING_BACK} if shape.store == "etcd" else WHOLE_STORE
    return Round(
        number=number,
        acts=tuple(acts),
        fit=tuple(node for node in shape.nodes if _is_fit(node, shape, acts)),
        store_disturbed=any(act.kind in disturbing for act in acts),
        went_back=any(act.kind in GOING_BACK for act in acts),
    )


def _draw_act(
    dice: random.Random, at: float, weights: dict[str, int], shape: Shape, spared: set[str], before: Sequence[Act]
) -> Act | None:
    """One more act, or None when the drawn one conflicts with earlier ones."""
    (kind,) = dice.choices(list(weights), list(weights.values()))
    # Everything is drawn for every kind, so that an additional kind changes little else.
    touched = [node for node in shape.nodes if node not in spared]
    anyone, victim = dice.choice(shape.nodes), dice.choice(touched or shape.nodes)
    address = dice.choice(shape.addresses) if shape.addresses else ""
    lasts = None if dice.random() < 0.5 else round(dice.uniform(0.1, 5.0), 2)
    detail = _draw_detail(dice, kind)
    if kind in PASSING:
        concerned = address if kind in ("remove-address", "foreign-address", "move", "auto") else ""
        act = Act(at, kind, anyone, 0.0, concerned, detail=detail)
    elif kind in STANDING or kind in FLEETING:
        if not touched:
            return None
        if kind in FLEETING and lasts is None:
            lasts = round(dice.uniform(0.1, 5.0), 2)
        act = Act(at, kind, victim, lasts, detail=detail)
    elif kind in GOING_BACK:
        act = Act(at, kind, shape.nodes[0])
    else:
        act = Act(at, kind, dice.choice(shape.members) if shape.members else shape.nodes[0], lasts)
    if kind in ADMIN:
        healthy = [node for node in shape.nodes if not any(_stands(other, node, at) for other in before)]
        if not healthy:
            return None
        act = msgspec.structs.replace(act, asked=act.node if kind == "event" else dice.choice(healthy))
    return None if any(_clash(act, other) for other in before) else act


def _draw_detail(dice: random.Random, kind: str) -> str:
    script, by_hand = dice.choice(SCRIPT_EVENTS), dice.choice(EVENTS_BY_HAND)
    name = dice.choice(list(TUNABLES))
    value = dice.choice(TUNABLES[name])
    match kind:
        case "hang-script" | "fail-script":
            return script
        case "event":
            return by_hand
        case "tunable":
            return f"{name}={value:g}"
        case "ban":
            return str(dice.choice((3, 10, 60)))
    return ""


def _late_flushes(dice: random.Random, shape: Shape, acts: Sequence[Act]) -> list[Act]:
    """Flushes on nodes where all of Locum's processes are dead or frozen, after their addresses have left."""
    flushes = []
    for act in acts:
        if act.kind in NO_AGENT and act.lasts is None and dice.random() < _LATE_FLUSH:
            flush = Act(round(act.at + shape.hold + _GONE_AFTER_HOLD, 3), "flush", act.node)
            if not any(_clash(flush, other) for other in acts if other is not act):
                flushes.append(flush)
    return flushes


def _stands(act: Act, node: str, at: float) -> bool:
    return act.node == node and act.kind in STANDING and act.at <= at <= act.until + 1.0


def _clash(one: Act, other: Act) -> bool:
    if one.kind in WHOLE_STORE and other.kind in WHOLE_STORE:
        return True
    if one.node != other.node:
        return False
    kinds = {one.kind, other.kind}
    if "flush" in kinds and kinds & NOT_WITH_FLUSH:
        return True
    if kinds == NOT_TOGETHER:
        return True
    alike = one.kind == other.kind or any(kinds <= group for group in GROUPS)
    return alike and one.at <= other.until and other.at <= one.until


def _is_fit(node: str, shape: Shape, acts: Sequence[Act]) -> bool:
    """Whether the node must be able to serve once the storm is over."""
    if any(act.node == node and (act.kind in STANDING or act.kind in FLEETING) for act in acts):
        return False
    standing = [act for act in acts if act.lasts is None]
    if any(act.kind in WHOLE_STORE for act in standing):
        return False
    if shape.store != "etcd":
        return True
    lost = {act.node for act in standing if act.kind in WAY_TO_ETCD or act.kind in ON_STORE["etcd"]}
    return 2 * len([member for member in shape.members if member not in lost]) > len(shape.members)
