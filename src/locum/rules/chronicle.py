"""What happens in the cluster, for people: moves of addresses, states of nodes, refusals, leaders.

Every node derives the same occurrences from the changes that its watch shows. The leader writes them down
(:mod:`locum.node.historian`); a new leader continues with what it has seen itself, so the death of a leader loses
nothing.

Rules of this file: it reads the view after each change, and nothing in the rules depends on it.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from locum.rules.context import Context
from locum.rules.explain import no_link
from locum.rules.hold import FailureDetector
from locum.rules.occurrences import Moves, Occurrence, key_of
from locum.rules.plan import NodeState, current_health, node_state
from locum.rules.schema import HealthRecord

#: Moves that take longer are written down before they have ended, and again afterwards, in seconds.
UNFINISHED = 5.0
#: Texts that others wrote, such as a script's reason, are cut to this number of characters.
_LONGEST = 500
#: New refusals in one change for more reasons than this become one occurrence.
_REASONS = 4
#: How many occurrences a node remembers that the leader may not have written down.
_REMEMBERED = 256


class _Reconfiguration:
    """The moves under one plan, while they happen. ``began``: CLOCK_BOOTTIME seconds."""

    def __init__(self, key: str, at: float, epoch: int, cause: str, began: float) -> None:
        self.key, self.at, self.epoch, self.cause, self.began = key, at, epoch, cause, began
        #: Address → source, target, milliseconds without a server.
        self.moved: dict[str, tuple[str, str, int]] = {}
        #: Addresses that are not yet where the plan wants them.
        self.pending: set[str] = set()
        #: Whether it was told before its end.
        self.told = False

    def occurrence(self) -> Occurrence:
        """What has happened so far."""
        groups: dict[tuple[str, str], list[tuple[str, int]]] = {}
        for address, (source, target, unserved) in sorted(self.moved.items()):
            groups.setdefault((source, target), []).append((address, unserved))
        moves = tuple(
            Moves(source, target, tuple(address for address, _ in group), tuple(lasted for _, lasted in group))
            for (source, target), group in sorted(groups.items())
        )
        return Occurrence(
            self.key, "moves", self.at, cause=self.cause, epoch=self.epoch, moves=moves, open=bool(self.pending)
        )


class Chronicle:
    """The occurrences in one node's view; :meth:`take` returns them as they come."""

    def __init__(self, context: Context, detector: FailureDetector) -> None:
        self._context = context
        self._detector = detector
        # What the view showed before. Without it, nothing that is seen has happened just now.
        self._current = False
        # Address → the node that has served it last, and since when (CLOCK_BOOTTIME) none does.
        self._server: dict[str, str] = {}
        self._unserved: dict[str, float] = {}
        # Those of the unserved addresses of which it was told that they went to no node.
        self._gone: set[str] = set()
        # Node and address → the reason of the refusal that was told last, until that node serves the address.
        self._refused: dict[tuple[str, str], str] = {}
        self._epoch = -1
        self._states: dict[str, NodeState] = {}
        self._health: dict[str, HealthRecord] = {}
        self._leader = ""
        self._present: _Reconfiguration | None = None
        self._new: list[Occurrence] = []
        self._remembered: dict[str, Occurrence] = {}

    # -- inputs --------------------------------------------------------------------------------------------------------

    def keys_changed(self, keys: Collection[str], revision: int) -> None:
        """One commit, at ``revision``, has changed the view at ``keys``.

        Comes before the failure detector forgets the members among them.
        """
        if not self._current or not self._context.view.loaded:
            self._current = False
            return
        nodes, addresses = set(), []
        for key in sorted(keys):
            kind, _, name = key.partition("/")
            if kind == "claim":
                addresses.append(name)
            elif kind in ("member", "admin", "health"):
                nodes.add(name)
                if kind == "member" and name not in self._context.view.members:
                    self._ended(name)
            elif kind == "plan":
                self._planned()
            elif kind == "leader":
                self._led(revision)
        for name in sorted(nodes):
            self._judged(name, revision)
        for address in addresses:
            self._claimed(address, revision)

    def begin_anew(self) -> None:
        """The whole view was read. What it shows may have happened at any time."""
        view = self._context.view
        self._current = view.loaded
        served = {address: self._serving(address) for address in view.claims}
        self._server = {address: node for address, node in served.items() if node}
        self._unserved = {}
        self._gone.clear()
        self._epoch = view.plan.record.epoch if view.plan is not None else -1
        self._states = {node: node_state(view, node, self._context.wall) for node in view.nodes}
        found = {node: current_health(view, node) for node in view.members}
        self._health = {node: health for node, health in found.items() if health is not None}
        self._refused = {
            (node, address): reason
            for node, health in self._health.items()
            for address, reason in {**health.refused, **health.occupied}.items()
        }
        self._leader = self._leading()
        self._present = None

    def forget(self) -> None:
        """The store may have another history: keys of before have no place in it."""
        self._current = False
        self._new.clear()
        self._remembered.clear()

    def time_passes(self) -> None:
        """Tell of moves that take long."""
        present = self._present
        if present is not None and not present.told and self._context.now >= present.began + UNFINISHED:
            present.told = True
            self._tell(present.occurrence())

    # -- outputs -------------------------------------------------------------------------------------------------------

    def take(self) -> list[Occurrence]:
        """What is new since the last call; an open one comes again when it has ended."""
        new, self._new = self._new, []
        return new

    def remembered(self) -> list[Occurrence]:
        """The latest ones, for a new leader: it does not know which of them the old one has written down."""
        return list(self._remembered.values())

    # -- what the view shows -------------------------------------------------------------------------------------------

    def _planned(self) -> None:
        view, context = self._context.view, self._context
        # An unreadable plan has the revision of the new key and the contents of the old one.
        if view.plan is None or view.plan.record.epoch == self._epoch:
            return
        self._epoch = view.plan.record.epoch
        self._end_present()
        plan = view.plan.record
        present = _Reconfiguration(
            key_of(view.plan.revision, "moves"), context.wall, plan.epoch, plan.cause, context.now
        )
        for address, node in plan.assignment.items():
            if self._serving(address) != node:
                present.pending.add(address)
        for address, node in self._server.items():
            if address not in plan.assignment:
                if address not in self._unserved:
                    present.pending.add(address)
                elif address not in self._gone:
                    self._gone.add(address)
                    present.moved[address] = (node, "", -1)
        self._present = present
        self._end_if_done()

    def _claimed(self, address: str, revision: int) -> None:
        context, before, server = self._context, self._server.get(address, ""), self._serving(address)
        if not server:
            if before:
                self._unserved.setdefault(address, context.now)
                self._freed(address, before)
            return
        since = self._unserved.pop(address, None)
        self._gone.discard(address)
        self._refused.pop((server, address), None)
        self._server[address] = server
        if server != before or since is not None:
            if self._present is None:
                self._present = self._without_a_plan(address, revision)
            lasted = -1 if since is None else max(0, round((context.now - since) * 1000))
            # Twice under one plan: where it was first, and where it is now.
            source = self._present.moved.get(address, (before,))[0]
            self._present.moved[address] = (source, server, lasted)
        if self._present is not None:
            self._present.pending.discard(address)
            self._end_if_done()

    def _freed(self, address: str, server: str) -> None:
        """``server`` does not serve the address any more, and no other node does."""
        present, plan = self._present, self._context.view.plan
        if address in self._gone:
            return
        if present is not None and plan is not None and address not in plan.record.assignment:
            self._gone.add(address)
            present.moved[address] = (server, "", -1)
            present.pending.discard(address)
            self._end_if_done()

    def _ended(self, node: str) -> None:
        """A membership has ended: what it still had is unserved since its last beat, whenever its claims are freed."""
        now, last = self._context.now, self._detector.last_sign(node)
        for address, server in self._server.items():
            if server == node:
                self._unserved.setdefault(address, now if last is None else min(now, last))

    def _without_a_plan(self, address: str, revision: int) -> _Reconfiguration:
        """The plan has not changed: the address was lost, or could not be taken before."""
        context, plan = self._context, self._context.view.plan
        key = key_of(revision, "moves", address)
        epoch = plan.record.epoch if plan is not None else 0
        return _Reconfiguration(key, context.wall, epoch, "served again under the same plan", context.now)

    def _end_if_done(self) -> None:
        if self._present is not None and not self._present.pending:
            self._end_present()

    def _end_present(self) -> None:
        """The moves have ended, or another plan replaces what is left of them."""
        if self._present is not None:
            replaced = bool(self._present.pending)
            self._present.pending.clear()
            self._tell(msgspec.structs.replace(self._present.occurrence(), replaced=replaced))
            self._present = None

    def _judged(self, node: str, revision: int) -> None:
        """A node's membership, health or admin record has changed."""
        view, context = self._context.view, self._context
        health, known = current_health(view, node), self._health.get(node)
        state, was = node_state(view, node, context.wall), self._states.get(node, NodeState.DISCONNECTED)
        if state != was:
            self._states[node] = state
            cause = self._why(node, state, health, known)
            key = key_of(revision, "state", node)
            self._tell(Occurrence(key, "state", context.wall, node, cause, was=was.value, state=state.value))
        if health is not None:
            self._health[node] = health
            reasons: dict[str, list[str]] = {}
            for address, reason in {**health.refused, **health.occupied}.items():
                if self._refused.get((node, address)) != reason:
                    self._refused[node, address] = reason
                    reasons.setdefault(reason, []).append(address)
            if len(reasons) > _REASONS:
                # Each names its address, perhaps.
                first = next(iter(reasons))
                reasons = {f"{first} (and other reasons)": [a for refused in reasons.values() for a in refused]}
            for number, (reason, refused) in enumerate(reasons.items()):
                key = key_of(revision, "refused", node, str(number))
                self._tell(Occurrence(key, "refused", context.wall, node, reason, addresses=tuple(sorted(refused))))

    def _why(self, node: str, state: NodeState, health: HealthRecord | None, known: HealthRecord | None) -> str:
        admin = self._context.view.admin.get(node)
        match state:
            case NodeState.DISCONNECTED:
                return "it was stopped" if known is not None and known.leaving else "it gave no sign for its hold"
            case NodeState.BANNED:
                return admin.record.ban_reason if admin is not None else ""
            case NodeState.STOPPED | NodeState.DISABLED:
                return "by an administrator"
            case NodeState.PARTIALLYONLINE if health is not None:
                return no_link(health)
            case NodeState.UNHEALTHY:
                if health is None or not health.started:
                    return "its services start"
                return health.unable or health.reason or health.settling or "no monitor has passed yet"
        return ""

    def _led(self, revision: int) -> None:
        leader = self._leading()
        if leader and leader != self._leader:
            self._leader = leader
            self._tell(Occurrence(key_of(revision, "leader"), "leader", self._context.wall, leader))

    def _leading(self) -> str:
        leader = self._context.view.leader
        return leader.record.node if leader is not None else self._leader

    def _serving(self, address: str) -> str:
        """The node that serves the address completely, or ""."""
        view = self._context.view
        claim = view.claims.get(address)
        return (view.claim_holder(address) or "") if claim is not None and claim.record.serving else ""

    def _tell(self, occurrence: Occurrence) -> None:
        if len(occurrence.cause) > _LONGEST:
            occurrence = msgspec.structs.replace(occurrence, cause=occurrence.cause[:_LONGEST] + " …")
        self._new.append(occurrence)
        self._remembered.pop(occurrence.key, None)
        self._remembered[occurrence.key] = occurrence
        while len(self._remembered) > _REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
