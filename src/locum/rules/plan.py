"""The states of nodes, the addresses that each may serve, and the plan that follows: pure functions of the view.

Rules of this file: a node's *state* is for people (``locum status``); its *eligibility* is for the allocation. Both are
derived here only, so that the display and the decisions agree.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping

from locum.config.tunables import Tunables
from locum.rules.allocation import allocate
from locum.rules.schema import DIRTY, HealthRecord, PlanRecord
from locum.rules.view import View

#: Events that precede every release; a plan waits for them only when some node's scripts handle one.
PREPARE_EVENTS = ("startrecovery", "startipreallocate")


class NodeState(enum.StrEnum):
    """A node's state, most serious first: the first that applies is shown."""

    DISCONNECTED = "DISCONNECTED"
    BANNED = "BANNED"
    STOPPED = "STOPPED"
    DISABLED = "DISABLED"
    UNHEALTHY = "UNHEALTHY"
    PARTIALLYONLINE = "PARTIALLYONLINE"
    OK = "OK"


def current_health(view: View, node: str) -> HealthRecord | None:
    """The health report of the present incarnation of ``node``; None before its first."""
    member = view.members.get(node)
    health = view.health.get(node)
    if member is None or health is None or health.record.incarnation != member.record.incarnation:
        return None
    return health.record


def node_state(view: View, node: str, wall: float) -> NodeState:
    """The state of ``node``; ``wall`` is unix time in seconds (bans end by it)."""
    if node not in view.members:
        return NodeState.DISCONNECTED
    admin = view.admin.get(node)
    if admin is not None:
        if admin.record.banned_until > wall:
            return NodeState.BANNED
        if admin.record.stopped:
            return NodeState.STOPPED
        if admin.record.disabled:
            return NodeState.DISABLED
    health = current_health(view, node)
    if health is None or not health.healthy or health.settling or health.unable:
        return NodeState.UNHEALTHY
    return NodeState.PARTIALLYONLINE if health.down or health.unsteady else NodeState.OK


def inactive(view: View, node: str, wall: float) -> bool:
    """Whether ``node`` takes no part in plans: not a member, stopped or banned."""
    return node_state(view, node, wall) in (NodeState.DISCONNECTED, NodeState.BANNED, NodeState.STOPPED)


def participants(view: View, wall: float) -> dict[str, str]:
    """Name → incarnation of the nodes that follow plans: members that have started and are not inactive."""
    found = {}
    for node in sorted(view.members):
        health = current_health(view, node)
        if health is not None and health.started and not inactive(view, node, wall):
            found[node] = view.members[node].record.incarnation
    return found


def unready(view: View, plan: PlanRecord, phase: str) -> list[str]:
    """The participants of ``plan`` that are still members and have not reached ``phase``, sorted."""
    missing = []
    for node, incarnation in sorted(plan.participants.items()):
        if view.alive(node, incarnation):
            said = view.phases.get(node)
            mine = said is not None and said.record.incarnation == incarnation
            if said is None or not mine or not said.record.reached(plan.epoch, phase):
                missing.append(node)
    return missing


def hostable(view: View, tunables: Tunables, wall: float) -> dict[str, frozenset[str]]:
    """Node → the addresses that it can serve now.

    A node must be a participant that has passed a monitor (I6), is healthy and not disabled, and has link. When no
    node at all is healthy, those that were healthy before keep serving, unless NoIPHostOnAllDisabled forbids it: a
    doubtful service is better than none (CTDB does the same by default). An admin's ``disable`` is always obeyed.

    A node that could not take an address gets no others either, for as long as it refuses that one: if the cause
    affects all its takes, trying its even share one by one would interrupt each of them. It does get addresses that are
    not served and that no other node could be given: there is no service to interrupt.

    A link or health that returned recently is unsteady. It serves addresses that nothing steady can serve, and those
    it serves already, and gets no others, so that an address does not follow a flapping link.

    A node that may not claim anything yet (:mod:`locum.rules.history`) gets no address that another node serves or
    could serve at once; it keeps unserved addresses that the plan already gives it.
    """
    willing: dict[str, HealthRecord] = {}
    for node in participants(view, wall):
        health = current_health(view, node)
        admin = view.admin.get(node)
        if health is None or not health.earned or health.leaving or (admin is not None and admin.record.disabled):
            continue
        if health.unable:
            continue
        willing[node] = health
    if any(health.healthy for health in willing.values()):
        willing = {node: health for node, health in willing.items() if health.healthy}
    elif tunables.no_ip_host_on_all_disabled:
        return {}
    possible = _steady_first(view, willing)
    possible |= _of_the_waiting(view, willing, possible)
    elsewhere = frozenset().union(*(possible[node] for node, health in willing.items() if not health.refused))
    return {
        node: frozenset(
            a for a in possible[node] if _server(view, a) == node or not (_server(view, a) or a in elsewhere)
        )
        if health.refused
        else possible[node]
        for node, health in willing.items()
    }


def _of_the_waiting(
    view: View, willing: Mapping[str, HealthRecord], possible: Mapping[str, frozenset[str]]
) -> dict[str, frozenset[str]]:
    """Node → its share of its ``possible`` addresses, for nodes that may not claim anything yet."""
    waiting = {node for node, health in willing.items() if health.waits}
    ready = frozenset[str]().union(*(possible[node] for node in willing.keys() - waiting))
    planned = view.plan.record.assignment if view.plan is not None else {}
    return {
        node: frozenset(
            a
            for a in possible[node]
            if _server(view, a) == node or (not _server(view, a) and (planned.get(a) == node or a not in ready))
        )
        for node in waiting
    }


def _steady_first(view: View, willing: Mapping[str, HealthRecord]) -> dict[str, frozenset[str]]:
    """Node → the addresses that it could serve: steadily, or already, or because no other node could steadily."""
    possible = {node: _possible(view, node, health, health.down) for node, health in willing.items()}
    shaky = {node for node, health in willing.items() if health.settling or health.unsteady}
    if not shaky:
        return possible
    steady = dict(possible)
    for node in shaky:
        health = willing[node]
        kept = frozenset(a for a in possible[node] if view.claim_holder(a) == node)
        steadily = frozenset[str]() if health.settling else _possible(view, node, health, health.down + health.unsteady)
        steady[node] = steadily | kept
    covered = frozenset[str]().union(*steady.values())
    return {node: steady[node] | (possible[node] - covered) for node in willing}


def _possible(view: View, node: str, health: HealthRecord, useless: Collection[str]) -> frozenset[str]:
    """The addresses that ``node`` can host on an interface that is not ``useless``, except those that it has recently
    failed to take or has found on another machine."""
    record = view.nodes.get(node)
    down = set(useless)
    return frozenset(
        hosted.address
        for hosted in (record.record.addresses if record is not None else ())
        if hosted.address not in health.refused
        and hosted.address not in health.occupied
        and not down.issuperset(hosted.interfaces)
    )


def _server(view: View, address: str) -> str | None:
    """The node that has taken ``address`` completely, according to its claim."""
    claim = view.claims.get(address)
    return view.claim_holder(address) if claim is not None and claim.record.serving else None


def configured(view: View) -> dict[str, int]:
    """Every public address that some node is configured for → its prefix length, in the order of the addresses."""
    found: dict[str, int] = {}
    for name in sorted(view.nodes):
        for hosted in view.nodes[name].record.addresses:
            found.setdefault(hosted.address, hosted.bits)
    return dict(sorted(found.items()))


def next_plan(view: View, tunables: Tunables, wall: float, epoch_floor: int = 0) -> PlanRecord | None:
    """The plan that should follow the present one, or None when the present one is right.

    ``epoch_floor``: the highest epoch known from a plan that can no longer be read.
    """
    old = view.plan.record if view.plan is not None else PlanRecord(0, {}, {}, "none")
    live = participants(view, wall)
    able = hostable(view, tunables, wall)
    present = old.assignment
    if view.plan is None:
        # The plan was deleted or is unreadable: the claims show which node serves each address.
        present = {a: holder for a in view.claims if (holder := view.claim_holder(a)) is not None}
    current = {a: n for a, n in present.items() if a in able.get(n, ())}
    if tunables.no_ip_takeover:
        # No node takes a new address; addresses that a node can no longer serve are still released.
        assignment = current
    else:
        preferred = {a: p.record.node for a, p in view.prefer.items()}
        assignment = allocate(configured(view), able, current, preferred, failback=not tunables.no_ip_failback)
    dirty = [n for n in live if _dirty(view, n, old.epoch)]
    readable = "plan" not in view.corrupt
    if assignment == old.assignment and live == old.participants and not dirty and view.plan is not None and readable:
        return None
    if not live and not old.participants and readable:
        return None
    if view.plan is None:
        # The plan was deleted or is unreadable. The epoch of a plan never exceeds the revision that wrote it (unless it
        # was forged; then its participants' phases show the epoch), so counting continues from the store's revision.
        epoch_floor = max([epoch_floor, view.revision, *(phase.record.epoch for phase in view.phases.values())])
    prepare = any(set(PREPARE_EVENTS) & set(h.handles) for n in live if (h := current_health(view, n)) is not None)
    return PlanRecord(
        epoch=max(old.epoch, epoch_floor) + 1,
        assignment=assignment,
        participants=live,
        cause=_cause(view, old, (assignment, live), dirty, wall),
        prepare=prepare,
    )


def _dirty(view: View, node: str, epoch: int) -> bool:
    phase = view.phases.get(node)
    return phase is not None and phase.record.epoch == epoch and phase.record.phase == DIRTY


def _cause(
    view: View, old: PlanRecord, new: tuple[Mapping[str, str], Mapping[str, str]], dirty: list[str], wall: float
) -> str:
    """One line for people: why the plan of ``new`` (assignment, participants) became necessary."""
    assignment, live = new
    reasons = [f"{n} joined" for n in live if old.participants.get(n) != live[n]]
    reasons += [f"{n} left ({node_state(view, n, wall)})" for n in old.participants if n not in live]
    losers: dict[str, None] = {}
    for address, node in old.assignment.items():
        if assignment.get(address) != node and node in live:
            losers[node] = None
    for node in losers:
        health = current_health(view, node)
        state = node_state(view, node, wall)
        if health is not None and health.leaving:
            reasons.append(f"{node} is stopping")
        elif state != NodeState.OK:
            ill = (health.unable or health.reason) if health is not None and state == NodeState.UNHEALTHY else ""
            why = f" ({ill})" if ill else ""
            reasons.append(f"{node} is {state}{why}")
        elif health is not None and not set(health.occupied).isdisjoint(old.assignment):
            reasons.append(f"{node} found {', '.join(sorted(health.occupied))} on another machine")
        elif health is not None and health.refused:
            reasons.append(f"{node} could not take {', '.join(sorted(health.refused))}")
    moved = [a for a, n in assignment.items() if old.assignment.get(a) != n and a in view.prefer]
    reasons += [
        f"{a} moved to {assignment[a]} by an admin" for a in moved if view.prefer[a].record.node == assignment[a]
    ]
    reasons += [view.phases[n].record.why or f"addresses of {n} changed" for n in dirty]
    return "; ".join(reasons) or "addresses rebalanced"
