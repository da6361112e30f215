"""Admin commands as pure functions: a view and a request in, a conditional commit out.

Rules of this file: no I/O. Every command is one commit, conditional on everything that the command looked at. So the
command either does what its message says or, after a concurrent change, nothing; the caller then asks again with the
newer view (:data:`TRIES` times). An impossible command raises a UsageError with the reason and the alternatives.

No command can leave the cluster stuck. Commands write wishes (``admin/``, ``prefer/``, ``tunable/``), which the plan
obeys where it can; :class:`WaitFor` only watches, for a bounded time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import msgspec

from locum import hosts
from locum.config.tunables import format_tunable, parse_tunable, tunable
from locum.errors import UsageError
from locum.rules import schema
from locum.rules.explain import Situation, names, why_not, why_unserved
from locum.rules.plan import NodeState, current_health, node_state, unready
from locum.rules.schema import SETTLED, AdminRecord, PreferRecord, TunableRecord
from locum.rules.view import Versioned, View
from locum.store.base import MAX_OPERATIONS, Commit, Condition, Delete, Operation, Put

#: Number of attempts of a caller when the commit is refused because of a concurrent change.
TRIES = 5
#: How long a command waits for its effect by default, and the upper limit, in seconds.
DEFAULT_WAIT, LONGEST_WAIT = 20.0, 600.0
#: Longest ban by an admin, in seconds; for an unlimited time, use ``stop``.
LONGEST_BAN = 30 * 86400.0

Command = Literal[
    "enable",
    "disable",
    "stop",
    "continue",
    "ban",
    "unban",
    "remove",
    "move",
    "auto",
    "tunable-set",
    "tunable-reset",
]


class AdminRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An administrator's command; ``docs/commands.md`` says which fields each command needs.

    An empty ``node`` means the node that answers. ``name`` and ``value`` are a tunable's. ``seconds`` is for ``ban``
    (None: RecoveryBanPeriod). ``wait``: how long to wait for the effect, in seconds.
    """

    command: Command
    node: str = ""
    address: str = ""
    name: str = ""
    value: str | int | float | None = None
    seconds: float | None = None
    wait: float = DEFAULT_WAIT


class WaitFor(msgspec.Struct, frozen=True):
    """The effect that a command waits for, at most ``seconds``.

    ``served``: ``node`` serves all of ``addresses``. ``moved``: ``node`` has given them up and their new nodes serve
    them.
    """

    kind: Literal["served", "moved"]
    node: str
    addresses: tuple[str, ...]
    seconds: float

    def missing(self, view: View) -> list[str]:
        """The addresses for which the effect has not happened yet; empty when done."""
        return [address for address in self.addresses if not self._done(view, address)]

    def hopeless(self, view: View) -> str | None:
        """Why waiting longer is useless; None while it is not."""
        if self.kind != "served":
            return None
        health = current_health(view, self.node)
        if health is None:
            return f"{self.node} has left the cluster"
        admin = view.admin.get(self.node)
        if admin is not None and (admin.record.disabled or admin.record.stopped or admin.record.banned_until):
            return f"{self.node} has been disabled, stopped or banned since"
        for address in self.missing(view):
            if address in health.occupied:
                return f"{self.node} does not take {address}: {health.occupied[address]}"
            if address in health.refused:
                return f"{self.node} could not take {address}: {health.refused[address]}"
            pinned = view.prefer.get(address)
            if pinned is None or pinned.record.node != self.node:
                return f"another command has since moved {address} elsewhere, or back"
        return None

    def pending(self, view: View, wall: float) -> str:
        """What is still missing, in words. ``wall`` is unix time in seconds."""
        now = Situation.of(view, wall)
        missing = self.missing(view)
        parts = [f"{address} ({why_unserved(now, address)})" for address in missing[:5]]
        if len(missing) > 5:
            parts.append(f"{len(missing) - 5} more")
        return f"still moving: {', '.join(parts)}"

    def _done(self, view: View, address: str) -> bool:
        claim = view.claims.get(address)
        holder = view.claim_holder(address)
        serving = claim is not None and claim.record.serving
        if self.kind == "served":
            return holder == self.node and serving
        if holder == self.node or (claim is not None and claim.record.node == self.node):
            return False
        if holder is not None:
            return serving
        # Without a holder, the move is complete only when the plan, as carried out, gives the address to no node.
        plan = view.plan.record if view.plan is not None else None
        if plan is None:
            return True
        return address not in plan.assignment and self.node not in unready(view, plan, SETTLED)


class AdminChange(msgspec.Struct, frozen=True):
    """The commit of a command, and its messages.

    Without ``operations`` the state is already as requested and no commit is needed. ``message`` is true once the
    commit was accepted (and ``wait`` is over); ``warnings`` are shown to the admin.
    """

    conditions: tuple[Condition, ...]
    operations: tuple[Operation, ...]
    message: str
    warnings: tuple[str, ...] = ()
    wait: WaitFor | None = None

    def __post_init__(self) -> None:
        # Raises ValueError when a key is written without a condition on it.
        _ = self.commit

    @property
    def commit(self) -> Commit:
        """The commit."""
        return Commit(self.conditions, self.operations)


def parse_request(message: Mapping[str, object]) -> AdminRequest:
    """The request in a control message (its ``op`` is ignored). Raises UsageError for an invalid one."""
    fields = {name: value for name, value in message.items() if name != "op"}
    try:
        return msgspec.convert(fields, AdminRequest)
    except msgspec.ValidationError as error:
        raise UsageError(f"not an admin command: {error}") from None


def plan_command(view: View, request: AdminRequest, *, local: str, wall: float) -> AdminChange:
    """The change that ``request`` requires in ``view``.

    ``local``: the node that answers; ``wall``: unix time in seconds. Raises UsageError with the reason when the command
    cannot be carried out.
    """
    if not view.loaded:
        raise UsageError("this node has not read the store yet: try again, or see 'locum status'")
    if not 0 <= request.wait <= LONGEST_WAIT:
        raise UsageError(f"cannot wait {request.wait:g} s: from 0 to {LONGEST_WAIT:g} s are possible")
    return _COMMANDS[request.command](_Task(view, request, local, wall))


def default_tunables(view: View, values: Mapping[str, int | float]) -> AdminChange | None:
    """The commit that sets those tunables of a configuration that are not set yet; None when all are set.

    It sets at most as many as a commit can hold; call again after it.
    """
    absent = [name for name in sorted(values) if view.revision_of(f"tunable/{name}") == 0][:MAX_OPERATIONS]
    if not absent:
        return None
    return AdminChange(
        conditions=tuple(Condition(f"tunable/{name}", 0) for name in absent),
        operations=tuple(Put(f"tunable/{name}", schema.encode(TunableRecord(float(values[name])))) for name in absent),
        message=f"tunables set from the configuration: {names(absent)}",
    )


class _Task:
    """One request in its view, and the look-ups that several commands share."""

    def __init__(self, view: View, request: AdminRequest, local: str, wall: float) -> None:
        self.view = view
        self.request = request
        self.local = local
        self.wall = wall

    @property
    def known(self) -> set[str]:
        """Every node that the store knows, including those with an unreadable record."""
        corrupt = {key.partition("/")[2] for key in self.view.corrupt if key.startswith("node/")}
        return {*self.view.nodes, *self.view.members, *corrupt}

    def node(self) -> str:
        """The node that the request is about."""
        name = self.request.node or self.local
        if name in self.known:
            return name
        # ``ctdb -n`` takes numbers, so a number is accepted unless a node has it as its name.
        owner = self.view.numbers.get(name)
        if owner is not None and owner.record.node in self.known:
            return owner.record.node
        raise UsageError(f"unknown node {name!r}: the nodes are {names(sorted(self.known)) or 'not known yet'}")

    def address(self) -> str:
        """The public address that the request is about, in its canonical form."""
        text = self.request.address.partition("/")[0].strip()
        address = _canonical(text)
        if address is None:
            raise UsageError(f"{self.request.address!r} is not an IP address")
        return address

    def admin(self, node: str) -> AdminRecord:
        known = self.view.admin.get(node)
        return known.record if known is not None else AdminRecord()

    def state(self, node: str) -> NodeState:
        return node_state(self.view, node, self.wall)

    def situation(self, view: View | None = None) -> Situation:
        return Situation.of(view or self.view, self.wall)


def _canonical(text: str) -> str | None:
    try:
        return hosts.address(text)
    except ValueError:
        return None


# -- nodes ------------------------------------------------------------------------------------------------------


def _write_admin(
    task: _Task, node: str, new: AdminRecord, message: str, *, leaves: bool = False, warnings: Iterable[str] = ()
) -> AdminChange:
    """Put ``new`` at the node's admin key. ``leaves``: the node gives up its addresses; the command waits for it."""
    view = task.view
    notes = list(warnings)
    wait = None
    if leaves:
        held = tuple(sorted(a for a, claim in view.claims.items() if claim.record.node == node))
        notes += _losses(task, node, new)
        if held and task.state(node) is not NodeState.DISCONNECTED and task.request.wait > 0:
            wait = WaitFor("moved", node, held, task.request.wait)
    if task.state(node) is NodeState.DISCONNECTED:
        notes.append(f"{node} is DISCONNECTED: this takes effect when it joins")
    if not task.view.members:
        notes.append("no node is a member of the cluster")
    key = f"admin/{node}"
    if new == task.admin(node) and key not in view.corrupt:
        return AdminChange((), (), message, tuple(notes), wait)
    # The condition on the node key: a node that is removed concurrently must not get an admin record back.
    conditions = (view.condition(key), view.condition(f"node/{node}"))
    return AdminChange(conditions, (Put(key, schema.encode(new)),), message, tuple(notes), wait)


def _losses(task: _Task, node: str, new: AdminRecord) -> list[str]:
    """Warnings about service that is reduced or lost while the admin record of ``node`` is ``new``."""
    what_if = copy.copy(task.view)
    what_if.admin = {**task.view.admin, node: Versioned(new, 0)}
    before, after = task.situation(), task.situation(what_if)
    served = {address for able in after.able.values() for address in able}
    lost = sorted(before.able.get(node, frozenset()) - served)
    notes = [f"no other node can serve {names(lost)} at the moment"] if lost else []
    left = [name for name, able in sorted(after.able.items()) if able]
    if left and any(_healthy(task.view, name) for name in before.able) and not any(_healthy(what_if, n) for n in left):
        notes.append(f"no healthy node is left: {names(left)} will serve although UNHEALTHY")
    return notes


def _healthy(view: View, node: str) -> bool:
    health = current_health(view, node)
    return health is not None and health.healthy


def _but_still(task: _Task, node: str, new: AdminRecord) -> list[str]:
    """The remaining reasons that keep ``node`` from serving after the command."""
    notes = []
    if new.banned_until > task.wall:
        left = new.banned_until - task.wall
        notes.append(f"{node} is still banned for {left:.0f} s: 'locum node unban {node}' ends that")
    if new.stopped:
        notes.append(f"{node} is still stopped: 'locum node continue {node}' ends that")
    if new.disabled:
        notes.append(f"{node} is still disabled: 'locum node enable {node}' ends that")
    if not notes and task.state(node) is not NodeState.DISCONNECTED:
        health = current_health(task.view, node)
        if health is not None and health.started and not health.healthy and health.earned:
            notes.append(f"{node} is UNHEALTHY and serves nothing until its monitor passes ({health.reason})")
    return notes


def _enable(task: _Task) -> AdminChange:
    node = task.node()
    old = task.admin(node)
    new = msgspec.structs.replace(old, disabled=False)
    message = f"{node} is enabled" if old.disabled else f"{node} was not disabled: nothing to do"
    return _write_admin(task, node, new, message, warnings=_but_still(task, node, new))


def _disable(task: _Task) -> AdminChange:
    old = task.admin(task.node())
    return _take_out(task, msgspec.structs.replace(old, disabled=True), old, "disabled")


def _stop(task: _Task) -> AdminChange:
    old = task.admin(task.node())
    return _take_out(task, msgspec.structs.replace(old, stopped=True), old, "stopped")


def _take_out(task: _Task, new: AdminRecord, old: AdminRecord, state: str) -> AdminChange:
    node = task.node()
    message = f"{node} was {state} already" if new == old else f"{node} is {state}"
    return _write_admin(task, node, new, message, leaves=True)


def _continue(task: _Task) -> AdminChange:
    node = task.node()
    old = task.admin(node)
    new = msgspec.structs.replace(old, stopped=False)
    if not old.stopped:
        return _write_admin(task, node, new, f"{node} was not stopped: nothing to do")
    message = f"{node} continues; it serves again once its monitor has passed"
    return _write_admin(task, node, new, message, warnings=_but_still(task, node, new))


def _ban(task: _Task) -> AdminChange:
    node = task.node()
    seconds = task.request.seconds
    if seconds is None:
        seconds = task.situation().tunables.recovery_ban_period
    if not 0 < seconds <= LONGEST_BAN:
        raise UsageError(
            f"cannot ban for {seconds:g} s: a ban lasts more than 0 and at most {LONGEST_BAN:.0f} s; "
            f"'locum node stop {node}' lasts until 'locum node continue'"
        )
    new = msgspec.structs.replace(
        task.admin(node), banned_until=task.wall + seconds, ban_reason=f"banned by an admin for {seconds:g} s"
    )
    return _write_admin(task, node, new, f"{node} is banned for {seconds:g} s", leaves=True)


def _unban(task: _Task) -> AdminChange:
    node = task.node()
    old = task.admin(node)
    new = msgspec.structs.replace(old, banned_until=0.0, ban_reason="")
    if old.banned_until <= task.wall:
        return _write_admin(task, node, new, f"{node} was not banned: nothing to do")
    message = f"{node} is no longer banned; it serves again once its monitor has passed"
    return _write_admin(task, node, new, message, warnings=_but_still(task, node, new))


def _remove(task: _Task) -> AdminChange:
    if not task.request.node:
        raise UsageError("no node given: give the name of the node to remove")
    node = task.node()
    view = task.view
    state = task.state(node)
    if state is not NodeState.DISCONNECTED:
        raise UsageError(f"{node} is {state}: stop its daemon first; only a DISCONNECTED node can be removed")
    held = sorted(address for address, claim in view.claims.items() if claim.record.node == node)
    if held:
        raise UsageError(
            f"{node} has not given up {names(held)} yet: the leader frees them once its hold is over; try again"
        )
    keys = [f"node/{node}", f"admin/{node}", *(f"{kind}/{node}" for kind in ("beat", "health", "phase"))]
    keys += [f"number/{number}" for number, owner in sorted(view.numbers.items()) if owner.record.node == node]
    pinned = [f"prefer/{address}" for address, prefer in sorted(view.prefer.items()) if prefer.record.node == node]
    gone = [key for key in [*keys, *pinned] if view.revision_of(key)]
    message = f"{node} is removed; it is known again when its daemon joins"
    room = MAX_OPERATIONS - 1
    if len(gone) > room:
        gone = pinned[:room]
        message = (
            f"forgot {len(gone)} of the {len(pinned)} addresses that an admin moved to {node}: repeat for the rest"
        )
    conditions = (Condition(f"member/{node}", 0), *(view.condition(key) for key in gone))
    return AdminChange(conditions, tuple(Delete(key) for key in gone), message)


# -- addresses --------------------------------------------------------------------------------------------------


def _known_address(task: _Task, now: Situation) -> str:
    address = task.address()
    if address not in now.hosts and address not in task.view.prefer:
        known = names(sorted(now.hosts), 8) or "none yet"
        raise UsageError(f"{address} is not a public address of this cluster; there are {known}")
    return address


def _move(task: _Task) -> AdminChange:
    if not task.request.node:
        raise UsageError("no node given: give the node that the address is to move to")
    now = task.situation()
    node, address = task.node(), _known_address(task, now)
    refusal = why_not(now, node, address)
    if refusal is not None:
        capable = now.capable(address)
        could = f"{names(capable)} could" if capable else "at the moment no node can"
        raise UsageError(f"{address} cannot move to {node}, which {refusal}; {could}")
    here = task.view.claim_holder(address) == node and task.view.claims[address].record.serving
    if now.tunables.no_ip_takeover and not here:
        raise UsageError(
            f"{address} cannot move while the tunable NoIPTakeover is 1: 'locum tunable set NoIPTakeover 0' allows it"
        )
    view, key = task.view, f"prefer/{address}"
    wait = WaitFor("served", node, (address,), task.request.wait) if task.request.wait > 0 and not here else None
    pinned = view.prefer.get(address)
    stays = f"and stays there whenever {node} can serve it ('locum ip auto {address}' ends that)"
    if pinned is not None and pinned.record.node == node and key not in view.corrupt:
        message = f"{address} is served by {node} {stays}"
        return AdminChange((), (), message, wait=wait)
    message = f"{address} was on {node} already, {stays}" if here else f"{address} is served by {node} {stays}"
    # The condition on the member key: an address must not be moved to a node that has just died.
    conditions = (view.condition(key), view.condition(f"member/{node}"), view.condition(f"admin/{node}"))
    return AdminChange(conditions, (Put(key, schema.encode(PreferRecord(node))),), message, wait=wait)


def _auto(task: _Task) -> AdminChange:
    now = task.situation()
    address = _known_address(task, now)
    key = f"prefer/{address}"
    if task.view.revision_of(key) == 0:
        return AdminChange((), (), f"{address} was not moved by an admin: nothing to do")
    message = f"{address} is placed by the cluster again"
    return AdminChange((task.view.condition(key),), (Delete(key),), message)


# -- tunables ---------------------------------------------------------------------------------------------------


def _tunable_set(task: _Task) -> AdminChange:
    row = tunable(task.request.name)
    given = task.request.value
    if given is None:
        raise UsageError(f"no value given for {row.name}: expected {row.expected}")
    text = given if isinstance(given, str) else format_tunable(given)
    value = float(parse_tunable(row.name, text))
    key = f"tunable/{row.name}"
    shown = f"{row.name} = {format_tunable(value)}{' ' + row.unit if row.unit else ''}"
    known = task.view.tunables.get(row.name)
    if known is not None and known.record.value == value and key not in task.view.corrupt:
        return AdminChange((), (), f"{shown} already")
    operation = Put(key, schema.encode(TunableRecord(value)))
    return AdminChange((task.view.condition(key),), (operation,), f"{shown}, on all nodes")


def _tunable_reset(task: _Task) -> AdminChange:
    row = tunable(task.request.name)
    key = f"tunable/{row.name}"
    shown = f"{row.name} = {format_tunable(row.default)}{' ' + row.unit if row.unit else ''}, its default"
    if task.view.revision_of(key) == 0:
        return AdminChange((), (), f"{shown}: it was not set")
    return AdminChange((task.view.condition(key),), (Delete(key),), f"{shown}, on all nodes")


_COMMANDS: Mapping[Command, Callable[[_Task], AdminChange]] = {
    "enable": _enable,
    "disable": _disable,
    "stop": _stop,
    "continue": _continue,
    "ban": _ban,
    "unban": _unban,
    "remove": _remove,
    "move": _move,
    "auto": _auto,
    "tunable-set": _tunable_set,
    "tunable-reset": _tunable_reset,
}
