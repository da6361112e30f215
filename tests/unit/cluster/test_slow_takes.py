"""Scripts that hang when an address is taken: the other addresses wait for one time limit, not for one each."""

from __future__ import annotations

from collections.abc import Callable

from locum.cluster.effects import CommitWork, Effect, ReadAnew, SendBeat, TakeAddress
from locum.cluster.node import Identity, Node
from locum.cluster.schema import HostedAddress
from locum.cluster.view import View
from locum.store.keyvalue import KeyValue

#: Seconds after which a script that hangs is killed.
LIMIT = 30.0
STEP = 0.05
ADDRESSES = tuple(f"10.0.0.{number}" for number in range(1, 6))


class Cluster:
    """Nodes on one store. ``hangs(node, address)``: whether a take of it there fails after the time limit."""

    def __init__(self, *names: str, hangs: Callable[[str, str], bool]) -> None:
        self.core = KeyValue()
        self.now = 1000.0
        self.hangs = hangs
        self.under_way: dict[str, tuple[float, int]] = {}
        self.takes: list[tuple[str, str]] = []
        hosted = tuple(HostedAddress(address, 24, ("eth0",)) for address in ADDRESSES)
        self.nodes = {name: Node(Identity(name, 2.0, 0.034, None, "", hosted), View(), self._name) for name in names}
        for node in self.nodes.values():
            node.view.reset(self.core.snapshot(""))

    def _name(self) -> str:
        return f"i{self.core.revision}"

    def served(self) -> dict[str, str]:
        """Address → the node that has taken it."""
        return {
            a: name for name, node in self.nodes.items() for a, local in node.parts.serving.local.items() if local.held
        }

    def run(self, seconds: float) -> dict[str, float]:
        """Let time pass; for how long each address was not served."""
        missing = dict.fromkeys(ADDRESSES, 0.0)
        end = self.now + seconds
        while self.now < end:
            self._step()
            for address in set(ADDRESSES) - set(self.served()):
                missing[address] += STEP
        return missing

    def until_served(self, addresses: tuple[str, ...], limit: float) -> float:
        """Seconds until all of them are."""
        began = self.now
        while not set(addresses) <= set(self.served()):
            assert self.now - began < limit, f"{self.served()} after {limit} s; taken in vain: {self.takes}"
            self._step()
        return self.now - began

    def _step(self) -> None:
        for name, node in self.nodes.items():
            self._one(name, node)
        self.now += STEP

    def _one(self, name: str, node: Node) -> None:
        wall = 1.7e9 + self.now
        node.links_changed({"eth0": True}, self.now, wall)
        _, batches = self.core.history(node.view.revision, "", 10**6)
        for batch in batches:
            if keys := node.view.apply(batch):
                node.view_changed(keys, self.now, wall)
        end, ticket = self.under_way.get(name, (float("inf"), 0))
        if self.now >= end:
            del self.under_way[name]
            node.activity_done(ticket, False, "50.bad timed-out", self.now, wall)
        node.tick(self.now, wall)
        for _ in range(50):
            for effect in node.take_effects():
                self._carry_out(name, node, effect)

    def _carry_out(self, name: str, node: Node, effect: Effect) -> None:
        wall = 1.7e9 + self.now
        match effect:
            case SendBeat() | CommitWork():
                result = self.core.commit(effect.commit.conditions, effect.commit.operations)
                if isinstance(effect, SendBeat):
                    node.beat_done(effect.ticket, result, self.now, self.now, wall)
                else:
                    node.commit_done(effect.ticket, result, self.now, wall)
            case ReadAnew():
                keys = node.view.reset(self.core.snapshot(""), node.view.known)
                node.view_changed(keys, self.now, wall)
            case TakeAddress() if self.hangs(name, effect.address):
                self.takes.append((name, effect.address))
                self.under_way[name] = (self.now + LIMIT, effect.ticket)
            case _ if hasattr(effect, "ticket"):
                node.activity_done(effect.ticket, True, "", self.now, wall)


def test_where_every_take_hangs_all_addresses_go_elsewhere_after_one_limit() -> None:
    cluster = Cluster("n1", "n2", hangs=lambda node, _: node == "n1")
    seconds = cluster.until_served(ADDRESSES, 3 * LIMIT)
    assert seconds < LIMIT + 5, cluster.takes
    assert set(cluster.served().values()) == {"n2"}


def test_one_address_that_hangs_everywhere_keeps_no_other_from_being_served() -> None:
    cluster = Cluster("n1", "n2", "n3", hangs=lambda _, address: address == ADDRESSES[0])
    seconds = cluster.until_served(ADDRESSES[1:], 5 * LIMIT)
    assert seconds < LIMIT + 10, cluster.takes


def test_one_address_that_hangs_keeps_no_other_of_a_single_node_from_being_served() -> None:
    cluster = Cluster("n1", hangs=lambda _, address: address == ADDRESSES[0])
    seconds = cluster.until_served(ADDRESSES[1:], 20 * LIMIT)
    assert seconds < LIMIT + 10, cluster.takes


def test_what_another_node_serves_is_not_tried_again_and_again() -> None:
    cluster = Cluster("n1", "n2", hangs=lambda node, _: node == "n1")
    cluster.until_served(ADDRESSES, 3 * LIMIT)
    missing = cluster.run(600)
    assert sum(missing.values()) <= 600 * len(ADDRESSES) / 20, missing


def test_it_is_tried_soon_when_the_other_node_is_gone() -> None:
    bad = ["n1"]
    cluster = Cluster("n1", "n2", hangs=lambda node, _: node in bad)
    cluster.until_served(ADDRESSES, 3 * LIMIT)
    bad.clear()
    del cluster.nodes["n2"]
    assert cluster.until_served(ADDRESSES, 3 * LIMIT) < 15
