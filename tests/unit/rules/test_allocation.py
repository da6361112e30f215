"""The allocation against all assignments there are (small cases), and its behaviour in cases that people know."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from ipaddress import ip_interface
from typing import NamedTuple, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locum.rules.allocation import allocate

Assignment = Mapping[str, str]
V = TypeVar("V")


class Case(NamedTuple):
    """One call of the function."""

    addresses: dict[str, int]
    hosts: dict[str, set[str]]
    current: dict[str, str]
    preferred: dict[str, str]
    failback: bool

    def allocate(self) -> dict[str, str]:
        return allocate(self.addresses, self.hosts, self.current, self.preferred, failback=self.failback)

    def able(self, address: str) -> list[str]:
        return [node for node in self.hosts if address in self.hosts[node]]

    def allowed(self, address: str) -> list[str]:
        """The nodes that the address may be on, after an admin's preference and NoIPFailback."""
        able = self.able(address)
        for wanted in (self.preferred.get(address), None if self.failback else self.current.get(address)):
            if wanted in able:
                return [wanted]
        return able

    def cost(self, assignment: Assignment) -> tuple[int, int, int, int]:
        """The goals, in their order; less is better."""
        load = Counter(assignment.values())
        spread = Counter((ip_interface(f"{a}/{self.addresses[a]}").network, node) for a, node in assignment.items())
        leaves = [
            a for a, node in assignment.items() if self.current.get(a) in self.able(a) and self.current[a] != node
        ]
        return (
            -len(assignment),
            sum(count * count for count in load.values()),
            sum(count * count for count in spread.values()),
            len(leaves),
        )

    def all_assignments(self) -> Iterator[Assignment]:
        served = [address for address in self.addresses if self.able(address)]
        for choice in itertools.product(*(self.allowed(address) for address in served)):
            yield dict(zip(served, choice, strict=True))


NODES = ["n1", "n2", "n3", "n4"]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    nodes = NODES[: draw(st.integers(0, 4))]
    count = draw(st.integers(0, 7 if len(nodes) < 4 else 6))
    addresses = {}
    for number in range(1, count + 1):
        network = draw(st.sampled_from(["10.0.1.", "10.0.2.", "fd00::"]))
        addresses[f"{network}{number}"] = 64 if ":" in network else 24
    hosts = {node: {a for a in addresses if draw(st.integers(0, 3)) > 0} for node in nodes}
    somewhere = st.sampled_from([*nodes, "gone"])
    current = {a: draw(somewhere) for a in addresses if draw(st.booleans())}
    preferred = {a: draw(somewhere) for a in addresses if draw(st.integers(0, 4)) == 0}
    return Case(addresses, hosts, current, preferred, draw(st.booleans()))


@settings(max_examples=400, deadline=None)
@given(cases())
def test_no_assignment_is_better(case: Case) -> None:
    found = case.allocate()
    for address, node in found.items():
        assert node in case.allowed(address)
    assert case.cost(found) == min(case.cost(other) for other in case.all_assignments())


def least_cost(case: Case) -> int:
    """The cost of an optimal assignment as :func:`one_number` counts it, by successive shortest paths.

    A textbook minimum-cost flow over one vertex per address, with none of the shortcuts of the code under test, for
    cases that are too large to try all assignments.
    """
    arcs: list[list[object]] = []
    out: dict[object, list[int]] = {}

    def arc(source: object, target: object, cost: int) -> None:
        for ends in ((source, target, 1, cost), (target, source, 0, -cost)):
            out.setdefault(ends[0], []).append(len(arcs))
            arcs.append(list(ends))

    served = [address for address in case.addresses if case.able(address)]
    networks = {address: ip_interface(f"{address}/{case.addresses[address]}").network for address in served}
    for address in served:
        arc("source", address, 0)
        for node in case.allowed(address):
            stays = case.current.get(address) in (node, None) or case.current[address] not in case.able(address)
            arc(address, (networks[address], node), 0 if stays else MOVE)
    for node in case.hosts:
        for network in set(networks.values()):
            for number in range(len(served)):
                arc((network, node), node, SPREAD * (2 * number + 1))
        for number in range(len(served)):
            arc(node, "sink", LOAD * (2 * number + 1))
    total = 0
    for _ in served:
        distance: dict[object, int] = {"source": 0}
        by: dict[object, int] = {}
        queue: list[object] = ["source"]
        for vertex in queue:
            for number in out[vertex]:
                _, target, capacity, cost = arcs[number]
                value = distance[vertex] + cost  # type: ignore[operator]
                if capacity and value < distance.get(target, value + 1):
                    distance[target], by[target] = value, number
                    queue.append(target)
        total += distance["sink"]
        vertex = "sink"
        while vertex != "source":
            number = by[vertex]
            arcs[number][2], arcs[number ^ 1][2] = 0, 1
            vertex = arcs[number][0]
    return total


#: More than all lower goals of a case with up to 14 addresses together can make.
MOVE, SPREAD, LOAD = 1, 100, 100 * 1000


def one_number(cost: tuple[int, int, int, int]) -> int:
    return cost[1] * LOAD + cost[2] * SPREAD + cost[3] * MOVE


@pytest.mark.parametrize("seed", range(10))
def test_the_cost_is_that_of_a_textbook_flow(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(60):
        nodes = [f"n{number}" for number in range(rng.randint(2, 5))]
        addresses = {f"10.0.{rng.randrange(3)}.{number}": 24 for number in range(1, rng.randint(6, 14))}
        hosts = {node: {a for a in addresses if rng.random() < 0.7} for node in nodes}
        current = {address: rng.choice(nodes[: rng.randint(1, len(nodes))]) for address in addresses}
        preferred = {address: rng.choice(nodes) for address in addresses if rng.random() < 0.05}
        case = Case(addresses, hosts, current, preferred, failback=True)
        assert one_number(case.cost(case.allocate())) == least_cost(case)


@settings(max_examples=200, deadline=None)
@given(cases())
def test_its_own_result_is_stable(case: Case) -> None:
    found = case.allocate()
    assert case._replace(current=found).allocate() == found


@settings(max_examples=100, deadline=None)
@given(cases(), st.randoms(use_true_random=False))
def test_order_of_the_input_does_not_matter(case: Case, rng: random.Random) -> None:
    def shuffled(mapping: dict[str, V]) -> dict[str, V]:
        items = list(mapping.items())
        rng.shuffle(items)
        return dict(items)

    addresses, hosts, current, preferred, failback = case
    other = Case(shuffled(addresses), shuffled(hosts), shuffled(current), shuffled(preferred), failback)
    assert other.allocate() == case.allocate()


def everywhere(addresses: Mapping[str, int], nodes: int) -> dict[str, frozenset[str]]:
    return {f"n{number:02}": frozenset(addresses) for number in range(nodes)}


def pool(subnets: int, size: int) -> dict[str, int]:
    return {f"10.0.{subnet}.{host}": 24 for subnet in range(subnets) for host in range(1, size + 1)}


def counts(assignment: Assignment) -> list[int]:
    return sorted(Counter(assignment.values()).values())


def moved(before: Assignment, after: Assignment) -> set[str]:
    return {address for address in before if after.get(address) != before[address]}


def subnet_counts(assignment: Assignment, nodes: int) -> dict[str, list[int]]:
    """Subnet → how many of it each node serves, sorted."""
    by_subnet: dict[str, Counter[str]] = {}
    for address, node in assignment.items():
        by_subnet.setdefault(address.rpartition(".")[0], Counter())[node] += 1
    return {name: sorted([*c.values(), *[0] * (nodes - len(c))]) for name, c in by_subnet.items()}


def test_nothing_to_do() -> None:
    assert allocate({}, {}, {}, {}) == {}
    assert allocate({"10.0.0.1": 24}, {}, {"10.0.0.1": "n1"}, {"10.0.0.1": "n1"}) == {}
    assert allocate({"10.0.0.1": 24}, {"n1": set()}, {"10.0.0.1": "n1"}, {}) == {}
    assert allocate({}, {"n1": {"10.0.0.1"}}, {}, {}) == {}


def test_text_that_is_no_address_is_served_like_any_other() -> None:
    # A foreign value in the store must not take the allocation of everything else with it.
    addresses = {"10.0.0.1": 24, "nonsense": 24, "10.0.0.2": 99}
    found = allocate(addresses, everywhere(addresses, 3), {}, {})
    assert sorted(found) == sorted(addresses)
    assert counts(found) == [1, 1, 1]


@pytest.mark.parametrize(("subnets", "size", "nodes"), [(1, 10, 3), (4, 6, 5), (12, 2, 7), (30, 1, 4), (3, 33, 8)])
def test_even_counts_and_even_subnets(subnets: int, size: int, nodes: int) -> None:
    addresses = pool(subnets, size)
    found = allocate(addresses, everywhere(addresses, nodes), {}, {})
    assert max(counts(found)) - min(counts(found)) <= 1
    for spread in subnet_counts(found, nodes).values():
        assert max(spread) - min(spread) <= 1


@pytest.mark.parametrize(("subnets", "size", "nodes"), [(1, 10, 3), (1, 150, 3), (5, 20, 6)])
def test_a_dead_node_moves_only_its_own(subnets: int, size: int, nodes: int) -> None:
    addresses = pool(subnets, size)
    hosts = everywhere(addresses, nodes)
    before = allocate(addresses, hosts, {}, {})
    del hosts["n01"]
    after = allocate(addresses, hosts, before, {})
    assert moved(before, after) == {address for address, node in before.items() if node == "n01"}


def test_a_joining_node_takes_its_share_and_nothing_else_moves() -> None:
    addresses = pool(4, 25)
    before = allocate(addresses, everywhere(addresses, 4), {}, {})
    after = allocate(addresses, everywhere(addresses, 5), before, {})
    assert counts(after) == [20, 20, 20, 20, 20]
    assert {after[address] for address in moved(before, after)} == {"n04"}
    assert len(moved(before, after)) == 20


def test_without_failback_a_joining_node_gets_nothing() -> None:
    addresses = pool(1, 6)
    before = allocate(addresses, everywhere(addresses, 2), {}, {})
    assert allocate(addresses, everywhere(addresses, 3), before, {}, failback=False) == before


def test_without_failback_a_dead_node_s_addresses_are_placed_evenly() -> None:
    addresses = pool(1, 9)
    hosts = everywhere(addresses, 3)
    before = allocate(addresses, hosts, {}, {})
    del hosts["n00"]
    hosts["n03"] = frozenset(addresses)
    after = allocate(addresses, hosts, before, {}, failback=False)
    assert counts(after) == [3, 3, 3]
    assert {after[address] for address in moved(before, after)} == {"n03"}


def test_a_preference_beats_evenness_and_the_others_make_room() -> None:
    addresses = pool(1, 6)
    hosts = everywhere(addresses, 3)
    before = allocate(addresses, hosts, {}, {})
    preferred = {f"10.0.0.{host}": "n00" for host in (1, 2, 3)}
    after = allocate(addresses, hosts, before, preferred)
    assert {a for a, node in after.items() if node == "n00"} == set(preferred)
    assert counts(after) == [1, 2, 3]


def test_a_preference_moves_an_address_without_failback_too() -> None:
    addresses = pool(1, 2)
    current = dict.fromkeys(addresses, "n00")
    found = allocate(addresses, everywhere(addresses, 2), current, {"10.0.0.1": "n01"}, failback=False)
    assert found == {"10.0.0.1": "n01", "10.0.0.2": "n00"}


def test_a_preference_for_a_node_that_cannot_is_ignored_until_it_can() -> None:
    hosts: dict[str, set[str]] = {"n1": {"10.0.0.1"}, "n2": set()}
    assert allocate({"10.0.0.1": 24}, hosts, {}, {"10.0.0.1": "n2"}) == {"10.0.0.1": "n1"}
    hosts["n2"].add("10.0.0.1")
    assert allocate({"10.0.0.1": 24}, hosts, {"10.0.0.1": "n1"}, {"10.0.0.1": "n2"}) == {"10.0.0.1": "n2"}


def test_evenness_through_a_chain_of_nodes() -> None:
    # Each node shares an address with the next one only: the surplus of n0 reaches n3 by three moves.
    hosts = {
        "n0": {"10.0.0.1", "10.0.0.2"},
        "n1": {"10.0.0.2", "10.0.0.3"},
        "n2": {"10.0.0.3", "10.0.0.4"},
        "n3": {"10.0.0.4"},
    }
    current = {"10.0.0.1": "n0", "10.0.0.2": "n0", "10.0.0.3": "n1", "10.0.0.4": "n2"}
    found = allocate(dict.fromkeys(current, 24), hosts, current, {})
    assert found == {"10.0.0.1": "n0", "10.0.0.2": "n1", "10.0.0.3": "n2", "10.0.0.4": "n3"}


def test_subnets_are_evened_out_by_exchange() -> None:
    addresses = pool(2, 2)
    current = {a: "n00" if a.startswith("10.0.0.") else "n01" for a in addresses}
    found = allocate(addresses, everywhere(addresses, 2), current, {})
    assert subnet_counts(found, 2) == {"10.0.0": [1, 1], "10.0.1": [1, 1]}
    assert len(moved(current, found)) == 2


def test_addresses_away_from_their_node_go_home_when_that_costs_nothing() -> None:
    # Both families and different subnets: an exchange that evens nothing out must not happen.
    addresses = {"10.0.0.1": 24, "10.0.0.2": 24, "fd00::1": 64, "fd00::2": 64}
    current = {"10.0.0.1": "n01", "10.0.0.2": "n00", "fd00::1": "n01", "fd00::2": "n00"}
    assert allocate(addresses, everywhere(addresses, 2), current, {}) == current


@pytest.mark.parametrize("seed", range(6))
def test_large_mixed_clusters_stay_even_and_stable(seed: int) -> None:
    """No brute force is possible here: check what evenness means locally, and stability."""
    rng = random.Random(seed)
    addresses = pool(10, 20)
    groups = [frozenset(a for a in addresses if rng.random() < 0.6) for _ in range(3)]
    hosts = {f"n{number:02}": rng.choice(groups) for number in range(12)}
    before = allocate(addresses, hosts, {}, {})
    assert set(before) == {a for a in addresses if any(a in able for able in hosts.values())}
    load = Counter(before.values())
    for address, node in before.items():
        for other, able in hosts.items():
            assert address not in able or load[other] >= load[node] - 1
    assert allocate(addresses, hosts, before, {}) == before
    gone = hosts.pop("n05")
    after = allocate(addresses, hosts, before, {})
    back = allocate(addresses, {**hosts, "n05": gone}, after, {})
    assert sorted(Counter(back.values()).values()) == sorted(load.values())
