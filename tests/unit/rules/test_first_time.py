"""The first time that a cluster takes an address: another machine may have it, or another cluster."""

from __future__ import annotations

from msgspec.structs import replace

from locum.rules.effects import Effect, LookForClusters, ProbeAddresses, TakeAddress
from locum.rules.lookout import OCCUPIED_PAUSE
from locum.rules.node import Node, Stage
from tests.unit.rules.test_serving import ADDRESSES, Slow


class Network(Slow):
    """A cluster whose nodes ask on the wire and look for other clusters.

    ``rival``: what a look for other clusters finds, None: the store does not answer that. ``shared``: the addresses
    that the rival has. ``waits``: why a look is not at its end, until it is "".
    """

    def __init__(self, *names: str, probe: bool = True, search: bool = False) -> None:
        super().__init__(*names, hangs=lambda *_: False, probe=probe, search=search)
        self.rival: str | None = ""
        self.waits = ""
        self.shared: frozenset[str] = frozenset(ADDRESSES)
        self.probes: list[tuple[str, ...]] = []
        self.order: list[tuple[str, str]] = []
        self.first: list[bool] = []

    def carry_out(self, name: str, node: Node, effect: Effect) -> None:
        now, wall = self.now, self.wall_of(name)
        match effect:
            case ProbeAddresses():
                asked = tuple(address for address, _ in effect.items)
                self.probes.append(asked)
                self.order += [("probe", address) for address in asked]
            case TakeAddress():
                self.order.append(("take", effect.address))
                self.first.append(effect.first)
            case LookForClusters() if self.waits:
                node.clusters_awaited(effect.request, self.waits, now, wall)
                node.clusters_seen(effect.request, None, frozenset(), now, wall)
                return
            case LookForClusters():
                shared = self.shared if self.rival else frozenset[str]()
                node.clusters_seen(effect.request, self.rival, shared, now, wall)
                return
        super().carry_out(name, node, effect)


def test_i1_every_address_is_asked_for_before_its_first_take_and_all_at_once() -> None:
    cluster = Network("n1")
    cluster.until_served(ADDRESSES, 10)
    assert cluster.probes == [ADDRESSES]
    assert cluster.order[: len(ADDRESSES)] == [("probe", address) for address in ADDRESSES]
    assert set(cluster.nodes["n1"].view.held) == set(ADDRESSES)


def test_a_failover_asks_nobody() -> None:
    cluster = Network("n1", "n2")
    cluster.until_served(ADDRESSES, 10)
    assert cluster.first == [True] * len(ADDRESSES)
    cluster.probes.clear()
    cluster.first.clear()
    del cluster.nodes["n2"]
    cluster.until_served(ADDRESSES, 10)
    assert set(cluster.held().values()) == {"n1"}
    assert cluster.probes == []
    assert cluster.first
    assert not any(cluster.first), "what was heard since the probe at the start was the other node"


def test_what_another_machine_has_is_not_taken_and_the_node_gets_the_others_all_the_same() -> None:
    cluster = Network("n1", "n2")
    cluster.heard = {ADDRESSES[0]: "hardware address 02:00:00:00:00:07 answers for it on eth0"}
    cluster.until_served(ADDRESSES[1:], 10)
    cluster.run(3)
    assert set(cluster.held()) == set(ADDRESSES[1:])
    assert set(cluster.held().values()) == {"n1", "n2"}, "it is no fault of either node"
    health = cluster.nodes["n1"].view.health["n1"].record
    assert "02:00:00:00:00:07" in health.occupied[ADDRESSES[0]]
    assert health.refused == {}
    assert ("take", ADDRESSES[0]) not in cluster.order


def test_it_is_tried_again_less_and_less_often_and_taken_when_the_machine_is_gone() -> None:
    cluster = Network("n1")
    cluster.heard = {ADDRESSES[0]: "somebody"}
    cluster.run(100)
    tries = [asked for asked in cluster.probes if ADDRESSES[0] in asked]
    assert 4 <= len(tries) <= 6, "after 0, 5, 15, 35 and 75 s"
    cluster.heard.clear()
    cluster.until_served(ADDRESSES, 200)


def test_nothing_is_asked_where_the_configuration_says_so() -> None:
    cluster = Network("n1", probe=False)
    cluster.heard = {ADDRESSES[0]: "a router that answers for everything"}
    cluster.until_served(ADDRESSES, 10)
    assert cluster.probes == []


def test_i1_a_node_that_sees_another_cluster_writes_nothing_and_joins_when_that_is_gone() -> None:
    cluster = Network("n1", search=True)
    node = cluster.nodes["n1"]
    cluster.rival = "cluster 'other' has 10.0.0.1"
    cluster.run(4)
    assert node.status().stage is Stage.JOINING
    assert node.parts.joining.obstacle == cluster.rival
    assert cluster.core.snapshot("").entries == ()
    cluster.rival = ""
    cluster.until_served(ADDRESSES, OCCUPIED_PAUSE + 10)
    assert node.parts.joining.obstacle == ""


def test_i1_a_member_that_sees_another_cluster_after_joining_claims_nothing() -> None:
    """Both started at the same instant; the other was first."""
    cluster = Network("n1", search=True)
    node = cluster.nodes["n1"]
    while node.status().stage is not Stage.MEMBER:
        cluster.pass_time()
        if "n1" in node.view.members:
            cluster.rival = "cluster 'other' has 10.0.0.1"
    cluster.rival = "cluster 'other' has 10.0.0.1"
    node.parts.lookout.begin()
    cluster.run(10)
    assert cluster.held() == {}
    assert not node.view.claims
    assert set(node.view.health["n1"].record.occupied) == set(ADDRESSES)


def test_a_store_that_does_not_answer_a_look_is_asked_again() -> None:
    cluster = Network("n1", search=True)
    cluster.rival = None
    cluster.run(3)
    assert cluster.held() == {}
    cluster.rival = ""
    cluster.until_served(ADDRESSES, 10)


def test_a_node_that_waits_for_a_search_before_it_joins_says_for_what() -> None:
    cluster = Network("n1", search=True)
    node = cluster.nodes["n1"]
    cluster.waits = "cannot look for other clusters in the store: permission denied"
    cluster.run(3)
    assert node.status().stage is Stage.JOINING
    assert node.parts.joining.obstacle == cluster.waits
    cluster.waits = ""
    cluster.until_served(ADDRESSES, 10)
    assert node.parts.joining.obstacle == ""


def test_a_member_that_waits_for_a_search_says_for_what_and_others_get_its_addresses() -> None:
    cluster = Network("n1", search=True)
    node = cluster.nodes["n1"]
    while node.status().stage is not Stage.MEMBER:
        cluster.pass_time()
        if "n1" in node.view.members:
            cluster.waits = "waiting to see whether n7 of cluster 'other' beats"
    cluster.waits = "waiting to see whether n7 of cluster 'other' beats"
    node.parts.lookout.begin()
    cluster.run(3)
    assert cluster.held() == {}
    assert node.view.health["n1"].record.unable == cluster.waits
    cluster.waits = ""
    cluster.until_served(ADDRESSES, 10)
    assert node.view.health["n1"].record.unable == ""


def test_a_search_for_what_a_reload_brought_that_has_to_wait_is_a_warning() -> None:
    cluster = Network("n1", search=True)
    node = cluster.nodes["n1"]
    every = node.status().identity.addresses
    node.configure(replace(node.status().identity, addresses=every[1:]), cluster.now, 1.7e9 + cluster.now)
    cluster.until_served(ADDRESSES[1:], 10)
    cluster.waits = "the store does not answer"
    node.configure(replace(node.status().identity, addresses=every), cluster.now, 1.7e9 + cluster.now)
    cluster.run(3)
    assert set(cluster.held()) == set(ADDRESSES[1:])
    health = node.view.health["n1"].record
    assert (health.warnings, health.unable) == ((cluster.waits,), "")
    cluster.waits = ""
    cluster.until_served(ADDRESSES, 10)
    assert node.view.health["n1"].record.warnings == ()


def test_what_a_reload_brings_is_looked_for_and_the_rest_is_served_meanwhile() -> None:
    cluster = Network("n1", search=True)
    node = cluster.nodes["n1"]
    every = node.status().identity.addresses
    configured = [every[1:], every]

    def configure() -> None:

        node.configure(replace(node.status().identity, addresses=configured.pop(0)), cluster.now, 1.7e9 + cluster.now)

    configure()
    cluster.until_served(ADDRESSES[1:], 10)
    cluster.rival, cluster.shared = "cluster 'other' has it", frozenset({ADDRESSES[0]})
    configure()
    cluster.run(3)
    assert set(cluster.held()) == set(ADDRESSES[1:])
    assert node.view.health["n1"].record.occupied == {ADDRESSES[0]: "cluster 'other' has it"}
    cluster.rival = ""
    cluster.until_served(ADDRESSES, OCCUPIED_PAUSE + 10)


def test_the_cluster_forgets_an_address_that_no_node_is_configured_for() -> None:
    """Another machine may get it: the next first time is one again."""

    cluster = Network("n1")
    node = cluster.nodes["n1"]
    cluster.until_served(ADDRESSES, 10)
    every = node.status().identity.addresses
    node.configure(replace(node.status().identity, addresses=every[1:]), cluster.now, 1.7e9 + cluster.now)
    cluster.run(3)
    assert set(node.view.held) == set(ADDRESSES[1:])
    cluster.probes.clear()
    node.configure(replace(node.status().identity, addresses=every), cluster.now, 1.7e9 + cluster.now)
    cluster.until_served(ADDRESSES, 10)
    assert cluster.probes == [(ADDRESSES[0],)]
