"""The conditions at rest, after everything was healed: every servable address is served, and no work is left.

This file examines the truth and returns the first unmet condition as a sentence.
"""

from __future__ import annotations

from collections.abc import Iterator

from locum.config.tunables import Tunables
from locum.errors import StoreCorrupt
from locum.rules import schema
from locum.rules.plan import next_plan
from locum.rules.schema import (
    RECOVERED,
    AdminRecord,
    ClaimRecord,
    HealthRecord,
    MemberRecord,
    PhaseRecord,
    PlanRecord,
)
from locum.rules.view import View
from locum_sim.machine import Machine
from locum_sim.world import World


def unrest(world: World) -> str | None:
    """The first unmet condition, None at rest."""
    return next(_complaints(world), None)


def _complaints(world: World) -> Iterator[str]:
    active = {}
    if world.store.restoring:
        yield "the store is being restored"
        return
    if world.commands_under_way:
        yield "a command of an administrator is under way"
    for machine in world.machines.values():
        if machine.name in world.retired:
            if machine.guard is not None or machine.kernel.addresses or f"member/{machine.name}" in _members(world):
                yield f"{machine.name} has left and is still there"
            continue
        problem = _not_a_member(world, machine)
        if problem is not None:
            yield f"{machine.name} {problem}"
            return
        if _banned(world, machine.name):
            yield f"{machine.name} is banned"
        if not _inactive(world, machine):
            active[machine.name] = machine
            yield from _health(world, machine.name)
    known = {f"member/{name}" for name in world.machines if name not in world.retired}
    for key in _members(world):
        if key not in known:
            yield f"{key} is still in the store"
    yield from _addresses(world, active)
    yield from _plan(world, active)


def _members(world: World) -> list[str]:
    return [entry.key for entry in world.store.core.snapshot("member/").entries]


def _not_a_member(world: World, machine: Machine) -> str | None:
    agent = machine.agent
    if agent is None or machine.agent_stopped or machine.guard is None:
        return "has no running agent"
    if machine.terminating:
        return "is leaving, to come back"
    if machine.child is not None and machine.child.since < world.healed_at:
        return "runs scripts that began in the trouble"
    status = agent.node.status()
    if not status.member:
        return f"is {status.stage.value}"
    if machine.link.settled_at > world.engine.now:
        return "has sent the store something in the trouble that is still in flight"
    if status.committing:
        return "has sent the store something and waits for the answer"
    if agent.node.view.revision < world.healed_revision:
        return "has not yet seen the store's state at the healing"
    if not machine.kernel.open():
        return "has no hold"
    if status.deadline - machine.clock.boot() < status.hold - 2 * status.interval:
        return "has not beaten lately"
    if world.store.core.get(f"beat/{machine.name}") is None:
        return "has lost its beat to another program, and will notice at its next beat"
    entry = world.store.core.get(f"member/{machine.name}")
    try:
        record = schema.decode(entry.key, entry.value) if entry is not None else None
    except StoreCorrupt:
        record = None
    if not isinstance(record, MemberRecord) or record.incarnation != status.incarnation:
        return "is not a member in the store"
    return None


def _health(world: World, name: str) -> Iterator[str]:
    entry = world.store.core.get(f"health/{name}")
    try:
        record = schema.decode(entry.key, entry.value) if entry is not None else None
    except StoreCorrupt:
        record = None
    if not isinstance(record, HealthRecord) or not (record.started and record.earned and record.healthy):
        yield f"{name} is not healthy: {record}"
    elif record.down or record.refused:
        yield f"{name} says that {record.down} are down and {record.refused} refused"
    elif record.unable or record.unsteady or record.settling:
        yield f"{name} is not steady yet: {record.unable} {record.unsteady} {record.settling}"
    elif record.waits:
        yield f"{name} may not claim anything yet"


def admin_of(world: World, name: str) -> AdminRecord:
    """The administrators' decisions about a node, from the store."""
    entry = world.store.core.get(f"admin/{name}")
    if entry is None:
        return AdminRecord()
    record = schema.decode(entry.key, entry.value)
    assert isinstance(record, AdminRecord)
    return record


def _banned(world: World, name: str) -> bool:
    return admin_of(world, name).banned_until > 0


def _inactive(world: World, machine: Machine) -> bool:
    return admin_of(world, machine.name).stopped


def _serves(world: World, machine: Machine, address: str) -> bool:
    return machine.kernel.speaks(address) and not world.checks.is_by_hand(machine, address)


def _addresses(world: World, active: dict[str, Machine]) -> Iterator[str]:
    claims: dict[str, ClaimRecord] = {}
    for entry in world.store.core.snapshot("claim/").entries:
        try:
            record = schema.decode(entry.key, entry.value)
        except StoreCorrupt:
            yield f"{entry.key} is still corrupt"
            continue
        assert isinstance(record, ClaimRecord)
        claims[entry.key.partition("/")[2]] = record
    able: dict[str, list[str]] = {}
    for name, machine in active.items():
        if not admin_of(world, name).disabled:
            for hosted in machine.identity.addresses:
                if any(machine.kernel.links[i] for i in hosted.interfaces):
                    able.setdefault(hosted.address, []).append(name)
    everywhere = {h.address for m in world.machines.values() for h in m.identity.addresses}
    for address in sorted(everywhere | set(claims)):
        servers = [m.name for m in world.machines.values() if _serves(world, m, address)]
        hosts = able.get(address, [])
        if hosts and len(servers) != 1:
            yield f"{address} is served by {servers or 'no node'}, could be by {hosts}"
        elif servers and servers[0] not in hosts:
            yield f"{address} is served by {servers}, should be by one of {hosts}"
        elif servers:
            claim = claims.get(address)
            agent = world.machines[servers[0]].agent
            known = agent.node.status().incarnation if agent is not None else ""
            if claim is None or claim.incarnation != known or not claim.serving:
                yield f"{address} is served by {servers}, its claim is {claim}"
        elif address in claims:
            yield f"{address} is not served, its claim is {claims[address]}"
    for machine in world.machines.values():
        for address in machine.kernel.addresses:
            if _serves(world, machine, address) and world.promises.untold(machine.name, address):
                yield f"scripts of {machine.name} do not know that {address} came back"
        if machine.agent is not None and machine.agent.node.status().last_retake:
            yield f"scripts of {machine.name} must be notified again of the addresses held"
        # I7: kernel, gate and the rules' own account agree.
        kernel, agent = machine.kernel, machine.agent
        held = set(agent.node.status().held) if agent is not None else set()
        # An address added by hand while the node is not configured for it does not concern the node.
        present = {a for a in kernel.addresses if a in machine.hosted or (machine.name, a) not in world.by_hand}
        if present != held or (agent is not None and set(kernel.held) != held):
            yield (
                f"{machine.name}: held {sorted(held)}, configured {sorted(kernel.addresses)}, "
                f"let through the gate {sorted(kernel.held)}"
            )


def _plan(world: World, active: dict[str, Machine]) -> Iterator[str]:
    entry = world.store.core.get("plan")
    if entry is None:
        if active:
            yield "there is no plan"
        return
    try:
        plan = schema.decode("plan", entry.value)
    except StoreCorrupt:
        yield "the plan is corrupt"
        return
    assert isinstance(plan, PlanRecord)
    expected = {name: m.agent.node.status().incarnation for name, m in active.items() if m.agent is not None}
    if plan.participants != expected:
        yield f"the plan's participants are {plan.participants}, should be {expected}"
    for address, name in plan.assignment.items():
        if not world.machines[name].kernel.speaks(address):
            yield f"{address} is to be served by {name} and is not"
    for name, machine in active.items():
        phase = world.store.core.get(f"phase/{name}")
        record: object = None
        if phase is not None:
            try:
                record = schema.decode(phase.key, phase.value)
            except StoreCorrupt:
                yield f"phase/{name} is corrupt"
        if not isinstance(record, PhaseRecord) or (record.epoch, record.phase) != (plan.epoch, RECOVERED):
            yield f"{name} is not recovered from plan {plan.epoch}: {record}"
        activity = machine.agent.node.status().activity if machine.agent is not None else None
        if activity not in (None, "monitor"):
            yield f"{name} runs {activity}"
    unclosed = world.checks.unclosed(sorted(active))
    if unclosed is not None:
        yield f"I3: {unclosed}"
    view = View()
    view.reset(world.store.core.snapshot())
    tunables = Tunables.from_values({name: found.record.value for name, found in view.tunables.items()})
    better = next_plan(view, tunables, world.wall())
    if better is not None:
        yield f"another plan is due: {better.cause}"
