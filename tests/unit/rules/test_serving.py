"""Scripts that hang when an address is taken: the other addresses wait for one time limit, not for one each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from locum.rules.effects import Effect, TakeAddress
from locum.rules.node import Node
from tests.unit.rules.rig import Cluster

#: Seconds after which a script that hangs is killed.
LIMIT = 30.0
STEP = 0.05
ADDRESSES = tuple(f"10.0.0.{number}" for number in range(1, 6))


class Slow(Cluster):
    """``hangs(node, address)``: whether a take of it there fails after the time limit."""

    def __init__(self, *names: str, hangs: Callable[[str, str], bool], **settings: Any) -> None:
        super().__init__(*names, addresses=ADDRESSES, step=STEP, **settings)
        self.hangs = hangs
        self.under_way: dict[str, tuple[float, int]] = {}
        self.takes: list[tuple[str, str]] = []

    def measure(self, seconds: float) -> dict[str, float]:
        """Let time pass; for how long each address was not served."""
        missing = dict.fromkeys(ADDRESSES, 0.0)
        end = self.now + seconds
        while self.now < end:
            self.pass_time()
            for address in set(ADDRESSES) - set(self.held()):
                missing[address] += STEP
        return missing

    def until_served(self, addresses: tuple[str, ...], limit: float) -> float:
        """Seconds until all of them are."""
        began = self.now
        while not set(addresses) <= set(self.held()):
            assert self.now - began < limit, f"{self.held()} after {limit} s; taken in vain: {self.takes}"
            self.pass_time()
        return self.now - began

    def _turn(self, name: str) -> None:
        end, request = self.under_way.get(name, (float("inf"), 0))
        if self.now >= end:
            del self.under_way[name]
            self.tell(name, "activity_done", request, False, "50.bad timed-out")
        super()._turn(name)

    def carry_out(self, name: str, node: Node, effect: Effect) -> None:
        if isinstance(effect, TakeAddress) and self.hangs(name, effect.address):
            self.takes.append((name, effect.address))
            self.under_way[name] = (self.now + LIMIT, effect.request)
        else:
            super().carry_out(name, node, effect)


def test_where_every_take_hangs_all_addresses_go_elsewhere_after_one_limit() -> None:
    cluster = Slow("n1", "n2", hangs=lambda node, _: node == "n1")
    seconds = cluster.until_served(ADDRESSES, 3 * LIMIT)
    assert seconds < LIMIT + 5, cluster.takes
    assert set(cluster.held().values()) == {"n2"}


def test_one_address_that_hangs_everywhere_keeps_no_other_from_being_served() -> None:
    cluster = Slow("n1", "n2", "n3", hangs=lambda _, address: address == ADDRESSES[0])
    seconds = cluster.until_served(ADDRESSES[1:], 5 * LIMIT)
    assert seconds < LIMIT + 10, cluster.takes


def test_one_address_that_hangs_keeps_no_other_of_a_single_node_from_being_served() -> None:
    cluster = Slow("n1", hangs=lambda _, address: address == ADDRESSES[0])
    seconds = cluster.until_served(ADDRESSES[1:], 20 * LIMIT)
    assert seconds < LIMIT + 10, cluster.takes


def test_what_another_node_serves_is_not_tried_again_and_again() -> None:
    cluster = Slow("n1", "n2", hangs=lambda node, _: node == "n1")
    cluster.until_served(ADDRESSES, 3 * LIMIT)
    missing = cluster.measure(600)
    assert sum(missing.values()) <= 600 * len(ADDRESSES) / 20, missing


def test_it_is_tried_soon_when_the_other_node_is_gone() -> None:
    bad = ["n1"]
    cluster = Slow("n1", "n2", hangs=lambda node, _: node in bad)
    cluster.until_served(ADDRESSES, 3 * LIMIT)
    bad.clear()
    del cluster.nodes["n2"]
    assert cluster.until_served(ADDRESSES, 3 * LIMIT) < 15
