"""Nodes on one store, driven in virtual time: the loop that every caller of the rules has, as small as it can be.

Each node's effects are carried out at once, and every activity succeeds, unless a test says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from locum.rules.effects import (
    CancelActivity,
    CommitWork,
    Effect,
    Exit,
    LookForClusters,
    Note,
    ProbeAddresses,
    ReadAnew,
    Restore,
    SendBeat,
)
from locum.rules.node import Identity, Node
from locum.rules.schema import HostedAddress
from locum.rules.view import View
from locum.store.base import CommitResult
from locum.store.keyvalue import KeyValue

#: Unix time at the rig's second 0.
EPOCH = 1.7e9


class Cluster:
    """Nodes on one store, whose clocks may show anything (``wall``: node → seconds added to unix time).

    ``frozen``: nodes that do nothing. ``cut``: nodes that the store does not answer and whose watch shows nothing.
    ``outcome``: (node, effect) → why an activity fails, "" when it succeeds, None when it has not ended; a test ends
    that one by :meth:`tell`. ``problem``: node → what the kernel says to a :class:`Restore` there. ``heard``: address →
    the other machine that a probe finds. ``seen``: every effect, and the node that asked for it.
    """

    def __init__(
        self,
        *names: str,
        addresses: Sequence[str] = ("10.0.0.1",),
        step: float = 0.05,
        wall: dict[str, float] | None = None,
        **settings: Any,
    ) -> None:
        self.core = KeyValue()
        self.now = 1000.0
        self.step = step
        self.wall = wall or {}
        self.hosted = tuple(HostedAddress(address, 24, ("eth0",)) for address in addresses)
        self.settings = settings
        self.links = dict.fromkeys(names, True)
        self.frozen: set[str] = set()
        self.cut: set[str] = set()
        self.outcome: Callable[[str, Effect], str | None] = lambda *_: ""
        self.problem: Callable[[str], str] = lambda _: ""
        self.heard: dict[str, str] = {}
        self.seen: list[tuple[str, Effect]] = []
        self.nodes: dict[str, Node] = {}
        for name in names:
            self.start(name)

    # -- nodes -----------------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """A new daemon, which knows nothing but the store."""
        identity = Identity(name, 2.0, 0.034, None, "", self.hosted, f"machine of {name}")
        identity = msgspec.structs.replace(identity, **self.settings)
        self.nodes[name] = node = Node(identity, View(), lambda: f"{name}-{self.core.revision}")
        self.links.setdefault(name, True)
        node.view.reset(self.core.snapshot(""))

    def wall_of(self, name: str) -> float:
        """What the clock of ``name`` shows."""
        return EPOCH + self.now + self.wall.get(name, 0.0)

    def held(self) -> dict[str, str]:
        """Address → the node that holds it."""
        found: dict[str, str] = {}
        for name, node in self.nodes.items():
            for address in node.status().held:
                assert address not in found, f"I1: {name} and {found[address]} hold {address}"
                found[address] = name
        return found

    @property
    def holder(self) -> str | None:
        """The node that holds the first address."""
        return self.held().get(self.hosted[0].address)

    @property
    def notes(self) -> list[str]:
        """What was said to admins."""
        return [f"{name}: {effect.text}" for name, effect in self.seen if isinstance(effect, Note)]

    def effects(self, kind: type[Effect]) -> list[tuple[str, Effect]]:
        """What was asked for of this kind."""
        return [(name, effect) for name, effect in self.seen if isinstance(effect, kind)]

    # -- time and inputs -------------------------------------------------------------------------------------

    def run(self, seconds: float, step: float | None = None) -> None:
        """Let time pass, in steps of ``step`` seconds."""
        end = self.now + seconds
        while self.now < end:
            self.pass_time(step)

    def pass_time(self, step: float | None = None) -> None:
        """Each node gets what has happened since its last turn; then time passes."""
        for name in list(self.nodes):
            if name not in self.frozen:
                self._turn(name)
        self.now += step or self.step

    def tell(self, name: str, method: str, *arguments: object) -> None:
        """An input for one node."""
        node = self.nodes[name]
        getattr(node, method)(*arguments, self.now, self.wall_of(name))
        self._carry_out(name, node)

    def _turn(self, name: str) -> None:
        node = self.nodes[name]
        self.tell(name, "links_changed", {"eth0": self.links[name]})
        reads = -1
        while name not in self.cut and reads != node.view.reads:
            # A read ends the watch; the next one begins where the read has ended.
            reads = node.view.reads
            for batch in self.core.history(node.view.revision, "", 10**6)[1]:
                self.tell(name, "store_changed", batch)
                if reads != node.view.reads:
                    break
        self.tell(name, "tick")

    # -- effects ---------------------------------------------------------------------------------------------

    def _carry_out(self, name: str, node: Node) -> None:
        while effects := node.take_effects():
            for effect in effects:
                self.seen.append((name, effect))
                self.carry_out(name, node, effect)

    def carry_out(self, name: str, node: Node, effect: Effect) -> None:
        """Carry out one effect, and give its answer."""
        now, wall = self.now, self.wall_of(name)
        match effect:
            case SendBeat():
                node.beat_done(effect.request, self.commit(name, effect), now, now, wall)
            case CommitWork():
                node.commit_done(effect.request, self.commit(name, effect), now, wall)
            case ReadAnew():
                if name not in self.cut:
                    node.store_read(self.core.snapshot(""), node.view.known, now, wall)
            case Restore():
                node.restored(effect.address, effect.interface, self.problem(name), now, wall)
            case ProbeAddresses():
                asked = [address for address, _ in effect.items]
                found = {address: self.heard[address] for address in asked if address in self.heard}
                node.probed(effect.request, found, now, wall)
            case LookForClusters():
                node.clusters_seen(effect.request, "", frozenset(), now, wall)
            case Exit():
                self.frozen.add(name)
            case CancelActivity():
                node.activity_done(effect.request, False, "cancelled", now, wall)
            case _ if hasattr(effect, "request"):
                reason = self.outcome(name, effect)
                if reason is not None:
                    node.activity_done(effect.request, not reason, reason, now, wall)

    def commit(self, name: str, effect: SendBeat | CommitWork) -> CommitResult | None:
        """What the store answers."""
        if name in self.cut:
            return None
        return self.core.commit(effect.commit.conditions, effect.commit.operations)
