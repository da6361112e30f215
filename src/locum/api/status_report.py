"""The reports of ``locum status``, ``locum ip`` and ``locum tunable``: pure functions of the view.

No I/O and no decisions. States come from :mod:`locum.rules.plan`, reasons from :mod:`locum.rules.explain`, so that the
report shows the basis of the decisions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import msgspec

from locum.api.model import (
    AddressReport,
    AddressState,
    DaemonState,
    NodeReport,
    Progress,
    StatusReport,
    TunableReport,
)
from locum.config.tunables import TUNABLES, Tunables
from locum.rules import explain
from locum.rules.explain import Situation
from locum.rules.plan import configured, current_health, node_state
from locum.rules.view import View

__all__ = ["DaemonState", "differs", "leader_of", "status_report", "tunable_reports"]


def status_report(
    view: View, name: str, wall: float, tunables: Tunables, daemon: DaemonState | None = None
) -> StatusReport:
    """The cluster as node ``name`` sees it in ``view`` at ``wall`` (unix time in seconds).

    ``tunables`` are those in force, ``daemon`` is the node's own state.
    """
    now = Situation.of(view, wall, tunables)
    # The store has answered that the membership is lost; the watch may not have shown it yet.
    silent = daemon is not None and daemon.stage in ("member", "lost") and daemon.hold_left <= 0
    old = why_old(view, daemon)
    plan = view.plan.record if view.plan is not None else None
    progress, waiting_for = explain.progress(view)
    return StatusReport(
        node=name,
        leader=leader_of(view),
        epoch=plan.epoch if plan is not None else 0,
        cause=plan.cause if plan is not None else "",
        progress=cast(Progress, progress),
        waiting_for=waiting_for,
        nodes=_nodes(now, name),
        addresses=_addresses(now, name if silent else None),
        warnings=(*old, *_obstacle(daemon), *_warnings(now)),
        stale=bool(old),
        age=daemon.age if daemon is not None else None,
        revision=view.revision,
        daemon=daemon,
    )


def differs(old: StatusReport, new: StatusReport) -> bool:
    """Whether a watcher that has ``old`` should receive ``new``: beats and the passing of time do not count."""
    return old != msgspec.structs.replace(new, revision=old.revision, daemon=old.daemon, age=old.age)


def why_old(view: View, daemon: DaemonState | None) -> tuple[str, ...]:
    """Why the node's knowledge of the cluster may be outdated, in words; empty when it is current."""
    if daemon is None:
        return () if view.loaded else ("this node has not read the store yet: this report is incomplete",)
    problem = daemon.store_problem
    because = f" ({problem})" if problem else ""
    found = []
    if not view.loaded:
        found.append(f"this node has not read the store yet{because}: this report is incomplete")
    elif problem:
        found.append(f"the store does not answer this node{because}: this report may be outdated")
    elif daemon.stage == "member" and daemon.age is not None and daemon.age > daemon.hold > 0:
        found.append("changes in the store reach this node late: this report is outdated")
    if daemon.stage == "member" and daemon.hold_left <= 0:
        found.append("this node's hold has ended: it answers for no address until the store accepts a beat")
    if daemon.stage == "lost":
        found.append("this node's membership is over: it answers for no address, releases its addresses and joins anew")
    return tuple(found)


def tunable_reports(view: View, tunables: Tunables) -> tuple[TunableReport, ...]:
    """Every tunable; ``tunables`` are the values in force."""
    values = tunables.values()
    return tuple(
        TunableReport(
            name=row.name,
            value=values[row.name],
            default=row.default,
            set=row.name in view.tunables,
            unit=row.unit,
            meaning=row.meaning,
            expected=row.expected,
        )
        for row in TUNABLES.values()
    )


def leader_of(view: View) -> str | None:
    """The node that leads, if the one in the store is still a member."""
    leader = view.leader
    if leader is None or not view.alive(leader.record.node, leader.record.incarnation):
        return None
    return leader.record.node


def _nodes(now: Situation, local: str) -> tuple[NodeReport, ...]:
    view = now.view
    served: dict[str, list[str]] = {}
    for address in view.claims:
        holder = view.claim_holder(address)
        if holder is not None:
            served.setdefault(holder, []).append(address)
    leader = leader_of(view)
    known = {*view.nodes, *view.members}
    reports = [_node(now, name, tuple(sorted(served.get(name, ()))), local, leader) for name in known]
    return tuple(sorted(reports, key=lambda n: (n.number is None, n.number, n.name)))


def _node(now: Situation, name: str, addresses: tuple[str, ...], local: str, leader: str | None) -> NodeReport:
    view = now.view
    record = view.nodes[name].record if name in view.nodes else None
    admin = view.admin[name].record if name in view.admin else None
    member = view.members[name].record if name in view.members else None
    health = current_health(view, name)
    phase = view.phases[name].record if name in view.phases else None
    if phase is not None and (member is None or phase.incarnation != member.incarnation):
        phase = None
    banned = admin.banned_until if admin is not None and admin.banned_until > now.wall else None
    return NodeReport(
        name=name,
        number=record.number if record is not None else None,
        state=node_state(view, name, now.wall).value,
        addresses=addresses,
        reason=explain.node_reason(view, name, now.wall),
        private_address=record.private_address if record is not None else "",
        local=name == local,
        leader=name == leader,
        hosts=len(record.addresses) if record is not None else 0,
        disabled=admin is not None and admin.disabled,
        stopped=admin is not None and admin.stopped,
        banned_until=banned,
        incarnation=member.incarnation if member is not None else None,
        started=health is not None and health.started,
        healthy=health is not None and health.healthy,
        leaving=health is not None and health.leaving,
        down=health.down if health is not None else (),
        refused=health.refused if health is not None else {},
        phase=phase.phase if phase is not None else None,
        phase_epoch=phase.epoch if phase is not None else None,
        hold=member.hold if member is not None else None,
        version=(member.version or None) if member is not None else None,
        warning=health.warning if health is not None else "",
        waits=health is not None and health.waits,
    )


def _addresses(now: Situation, silent: str | None) -> tuple[AddressReport, ...]:
    """All addresses; ``silent`` is the answering node when its hold has ended, so that it answers for none."""
    view = now.view
    bits: dict[str, int] = configured(view)
    # Claims and assignments may outlive the configuration for a moment.
    assignment: Mapping[str, str] = view.plan.record.assignment if view.plan is not None else {}
    for address in {*view.claims, *assignment} - bits.keys():
        bits[address] = 128 if ":" in address else 32
    reports = [_address(now, address, length, assignment.get(address)) for address, length in bits.items()]
    if silent is not None:
        reports = [_silenced(report) if report.node == silent else report for report in reports]
    return tuple(sorted(reports, key=lambda report: address_key(report.address)))


def _silenced(report: AddressReport) -> AddressReport:
    reason = f"the hold of {report.node} has ended: it does not answer for it; meanwhile another node may"
    return msgspec.structs.replace(report, serving=False, state="unserved", reason=reason)


def _address(now: Situation, address: str, bits: int, assigned: str | None) -> AddressReport:
    view = now.view
    holder = view.claim_holder(address)
    claim = view.claims[address].record if address in view.claims else None
    serving = holder is not None and claim is not None and claim.serving
    preferred = view.prefer[address].record.node if address in view.prefer else None
    state: AddressState = "moving" if assigned is not None or holder is not None else "unserved"
    reason = ""
    if serving and holder == assigned:
        state = "served"
        if preferred is not None and preferred != holder and (refusal := explain.why_not(now, preferred, address)):
            reason = f"an admin moved it to {preferred}, which {refusal}"
    else:
        reason = explain.why_unserved(now, address)
    return AddressReport(
        address=address,
        bits=bits,
        interface=claim.interface if claim is not None and holder is not None else None,
        node=holder,
        serving=serving,
        state=state,
        assigned=assigned,
        preferred=preferred,
        reason=reason,
        hosts=tuple(now.hosts.get(address, ())),
    )


def address_key(address: str) -> tuple[bool, str]:
    """Sort addresses as numbers, IPv4 first, invalid addresses last."""
    import socket  # noqa: PLC0415  (quicker than ipaddress, and only needed here)

    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        packed = socket.inet_pton(family, address)
    except OSError:
        return True, "~" + address
    return len(packed) > 4, packed.hex()


def _obstacle(daemon: DaemonState | None) -> tuple[str, ...]:
    if daemon is None or not daemon.obstacle:
        return ()
    return (f"this node cannot join the cluster: {daemon.obstacle}",)


def _warnings(now: Situation) -> tuple[str, ...]:
    view = now.view
    found = []
    if view.loaded and view.members and leader_of(view) is None:
        found.append("there is no leader now: a member takes over within a hold")
    for name in sorted(view.members):
        health = current_health(view, name)
        if health is not None and health.warning:
            found.append(f"{name}: {health.warning}")
        found += [f"{name}: {warning}" for warning in (health.warnings if health is not None else ())]
    found += [view.corrupt[key] for key in sorted(view.corrupt)]
    found += _disagreements(view)
    if now.tunables.no_ip_takeover:
        found.append("the tunable NoIPTakeover is 1: addresses of a node that fails stay unserved")
    return tuple(found)


def _disagreements(view: View) -> list[str]:
    """Differences between the nodes' configurations."""
    lengths: dict[str, dict[int, list[str]]] = {}
    for name in sorted(view.nodes):
        for hosted in view.nodes[name].record.addresses:
            lengths.setdefault(hosted.address, {}).setdefault(hosted.bits, []).append(name)
    found = []
    for address, by_bits in sorted(lengths.items()):
        if len(by_bits) > 1:
            parts = "; ".join(f"/{bits} on {explain.names(nodes)}" for bits, nodes in sorted(by_bits.items()))
            found.append(f"{address} is configured with different prefix lengths: {parts}")
    versions: dict[str, list[str]] = {}
    for name in sorted(view.members):
        versions.setdefault(view.members[name].record.version, []).append(name)
    if len(versions) > 1:
        parts = "; ".join(f"{version or 'unknown'} on {explain.names(n)}" for version, n in sorted(versions.items()))
        found.append(f"the nodes run different versions: {parts}")
    return found
