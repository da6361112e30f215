"""The reasons of all states, in words for people: pure functions of the view.

Rules of this file: it decides nothing. It puts the criteria of :mod:`locum.rules.plan` into words. ``locum status`` and
refusals (:mod:`locum.rules.admin`) share it, so that both give the same reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import msgspec

from locum.config.tunables import Tunables
from locum.rules.plan import NodeState, current_health, hostable, node_state, unready
from locum.rules.schema import PREPARED, RECOVERED, SETTLED, HealthRecord, HostedAddress, PlanRecord
from locum.rules.view import View

#: Why a healthy node serves less than its share.
WAITS = "takes over nothing for the length of a hold after its start or an outage of the store"


class Situation(msgspec.Struct, frozen=True):
    """A view and its consequences at one time, worked out once.

    ``able``: node → the addresses that it can serve now. ``hosted``: node → address → its configuration there.
    ``hosts``: every configured public address → the nodes that are configured for it, sorted. ``unable``: node → why it
    can serve no address, to follow its name. ``wall`` is unix time in seconds.
    """

    view: View
    tunables: Tunables
    wall: float
    able: Mapping[str, frozenset[str]]
    hosted: Mapping[str, Mapping[str, HostedAddress]]
    hosts: Mapping[str, Sequence[str]]
    unable: Mapping[str, str]

    @classmethod
    def of(cls, view: View, wall: float, tunables: Tunables | None = None) -> Self:
        """The situation that ``view`` shows at ``wall``; the tunables are the view's unless given."""
        if tunables is None:
            values = {name: versioned.record.value for name, versioned in view.tunables.items()}
            tunables = Tunables.from_values(values)
        hosted = {node: {h.address: h for h in view.nodes[node].record.addresses} for node in sorted(view.nodes)}
        hosts: dict[str, list[str]] = {}
        for node, addresses in hosted.items():
            for address in addresses:
                hosts.setdefault(address, []).append(node)
        unable = {node: why for node in hosted if (why := _why_unable(view, node, wall)) is not None}
        return cls(view, tunables, wall, hostable(view, tunables, wall), hosted, hosts, unable)

    def capable(self, address: str) -> list[str]:
        """The nodes that can serve ``address`` now, sorted."""
        return [node for node in self.hosts.get(address, ()) if address in self.able.get(node, ())]


def names(items: Iterable[str], limit: int = 12) -> str:
    """``n1, n2 and n3``; of more than ``limit`` only the first, and the number of the others."""
    listed = list(items)
    if len(listed) > limit:
        return f"{', '.join(listed[:limit])} and {len(listed) - limit} others"
    if len(listed) < 2:
        return "".join(listed)
    return f"{', '.join(listed[:-1])} and {listed[-1]}"


def node_reason(view: View, node: str, wall: float) -> str:
    """Why ``node`` is in its state; empty when it is OK without a remark. ``wall`` is unix time."""
    state = node_state(view, node, wall)
    if state is NodeState.DISCONNECTED:
        return "its daemon is not running, or does not reach the store"
    admin = view.admin.get(node)
    if state is NodeState.BANNED and admin is not None:
        return admin.record.ban_reason or "banned by an admin"
    if state is NodeState.STOPPED:
        return "stopped by an admin"
    health = current_health(view, node)
    if health is None:
        return "it has joined and has not reported its health yet"
    if health.leaving:
        return "it is stopping"
    if health.unable or health.settling:
        return health.unable or (health.reason if not health.healthy else health.settling)
    if state is NodeState.PARTIALLYONLINE:
        return no_link(health)
    if health.refused and state is NodeState.OK:
        return f"could not take {names(sorted(health.refused), 3)}"
    if not health.healthy:
        return health.reason
    return WAITS if health.waits else ""


def no_link(health: HealthRecord) -> str:
    """Which interfaces of a node have no link, or an unsteady one."""
    parts = [f"no link on {names(health.down)}"] if health.down else []
    if health.unsteady:
        parts.append(f"the link of {names(health.unsteady)} has come back and must last before it counts")
    return "; ".join(parts)


def _why_unable(view: View, node: str, wall: float) -> str | None:
    """Why ``node`` can serve no address, to follow its name; None when it depends on the address or on other nodes."""
    state = node_state(view, node, wall)
    if state in (NodeState.DISCONNECTED, NodeState.BANNED, NodeState.STOPPED, NodeState.DISABLED):
        return f"is {state}"
    health = current_health(view, node)
    if health is None or health.leaving:
        return "has not started yet" if health is None else "is stopping"
    if health.unable:
        return f"cannot serve ({health.unable})"
    if health.earned:
        return None
    return f"has not started yet ({health.reason})" if health.reason else "has not started yet"


def _failure(health: HealthRecord, address: str) -> str:
    """The failure of the node's last attempt to take ``address``, to follow its name; "" when it may try (again)."""
    if address in health.occupied:
        return f"does not take it ({health.occupied[address]})"
    if address in health.refused:
        return f"could not take it ({health.refused[address]})"
    return ""


def why_not(now: Situation, node: str, address: str) -> str | None:
    """Why ``node`` cannot serve ``address`` now, to follow the node's name; None when it can."""
    if address in now.able.get(node, ()):
        return None
    hosted = now.hosted.get(node, {}).get(address)
    if hosted is None:
        return "is not configured for it"
    if node in now.unable:
        return now.unable[node]
    health = now.view.health[node].record
    if failure := _failure(health, address):
        return failure
    if set(health.down).issuperset(hosted.interfaces):
        return f"has no link on {names(hosted.interfaces)}"
    if health.settling:
        return f"is UNHEALTHY ({health.settling})"
    if set(health.down + health.unsteady).issuperset(hosted.interfaces):
        return f"waits for its link on {names(hosted.interfaces)} to last"
    if not health.healthy:
        return f"is UNHEALTHY ({health.reason})" if health.reason else "is UNHEALTHY"
    if health.refused:
        return f"could not take {names(sorted(health.refused), 3)} and gets no others meanwhile"
    if health.waits:
        return WAITS
    return "cannot serve it now"


def why_nobody(now: Situation, address: str) -> str:
    """Why no node can serve ``address``; nodes with the same reason are named together."""
    hosts = now.hosts.get(address, ())
    if not hosts:
        return "no node is configured for it"
    grouped: dict[str, list[str]] = {}
    for node in hosts:
        reason = why_not(now, node, address)
        if reason is not None:
            grouped.setdefault(reason, []).append(node)
    parts = [f"{names(nodes)} {_plural(reason) if len(nodes) > 1 else reason}" for reason, nodes in grouped.items()]
    return f"no node can serve it: {'; '.join(parts)}"


def _plural(predicate: str) -> str:
    verb, _, rest = predicate.partition(" ")
    return f"{({'is': 'are', 'has': 'have', 'does': 'do'}).get(verb, verb)} {rest}"


def why_unserved(now: Situation, address: str) -> str:
    """Why no node serves ``address``, or why another node than the planned one serves it.

    While one node tries, the failures of the others are still shown, because an admin needs to know their cause
    (such as another machine that has the address).
    """
    plan = now.view.plan.record if now.view.plan is not None else None
    assigned = plan.assignment.get(address) if plan is not None else None
    if plan is None or assigned is None:
        holder = now.view.claim_holder(address)
        reason = _why_unassigned(now, address)
        return reason if holder is None else f"{holder} is giving it up: {reason}"
    reason = _why_assigned(now, plan, assigned, address)
    tried = [node for node in now.hosts.get(address, ()) if node not in now.unable and f"{node}, which " not in reason]
    failures = ((node, _failure(now.view.health[node].record, address)) for node in tried)
    return "; ".join((reason, *(f"{node} {failure}" for node, failure in failures if failure)))


def _why_assigned(now: Situation, plan: PlanRecord, assigned: str, address: str) -> str:
    """Why the node to which ``plan`` gives ``address`` does not serve it yet."""
    view = now.view
    holder = view.claim_holder(address)
    claim = view.claims.get(address)
    if not view.alive(assigned, plan.participants.get(assigned, "")):
        return f"{assigned} is gone; the leader's next plan gives it to another node, if one can serve it"
    if holder == assigned:
        return f"{assigned} is taking it"
    waiting = unready(view, plan, PREPARED) if plan.prepare else []
    if waiting:
        return f"moves to {assigned} once {names(waiting)} finished startipreallocate"
    if holder is not None:
        return f"moves to {assigned} once {holder} has released it"
    if claim is not None:
        return f"{assigned} takes it once the hold of {claim.record.node}, which is gone, is certainly over"
    refusal = why_not(now, assigned, address)
    if refusal is not None:
        return f"was to be served by {assigned}, which {refusal}"
    return f"{assigned} is about to take it"


def _why_unassigned(now: Situation, address: str) -> str:
    capable = now.capable(address)
    if not capable:
        return why_nobody(now, address)
    if now.tunables.no_ip_takeover:
        return f"{names(capable)} could serve it, but the tunable NoIPTakeover is 1"
    leader = now.view.leader
    if leader is None or not now.view.alive(leader.record.node, leader.record.incarnation):
        return "there is no leader yet to assign it"
    return f"waits for the next plan of the leader, {leader.record.node}"


def progress(view: View) -> tuple[str, tuple[str, ...]]:
    """The progress of the present plan (one of :data:`locum.api.model.Progress`) and what it waits for, in words."""
    if view.plan is None:
        return "none", ("the first node to pass startup and monitor",) if view.members else ()
    plan = view.plan.record
    if plan.prepare and (waiting := unready(view, plan, PREPARED)):
        return "preparing", tuple(f"{node} to run startipreallocate" for node in waiting)
    if waiting := unready(view, plan, SETTLED):
        return "moving", tuple(_unsettled(view, plan, node) for node in waiting)
    if waiting := unready(view, plan, RECOVERED):
        return "recovering", tuple(f"{node} to run ipreallocated and recovered" for node in waiting)
    return "settled", ()


def _unsettled(view: View, plan: PlanRecord, node: str) -> str:
    """What ``node`` must still do before it is settled."""
    surplus = [a for a, c in sorted(view.claims.items()) if c.record.node == node and plan.assignment.get(a) != node]
    if surplus:
        return f"{node} to release {names(surplus, 3)}"
    missing = [
        address
        for address, wanted in sorted(plan.assignment.items())
        if wanted == node and not (view.claim_holder(address) == node and view.claims[address].record.serving)
    ]
    return f"{node} to take {names(missing, 3)}" if missing else f"{node} to settle"
