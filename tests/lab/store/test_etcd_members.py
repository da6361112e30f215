"""A lab on etcd: what the loss of members, of the quorum and of a host with its member costs."""

from __future__ import annotations

from pathlib import Path

import pytest

from locum.clock import boottime
from locum.errors import LocumError, UsageError
from locum_lab import faults, processes
from locum_lab.etcd_store import EtcdLabStore
from locum_lab.lab import Lab
from locum_lab.torture.verdict import silent
from locum_lab.watching import Watching
from tests.lab.conftest import MakeLab

pytestmark = [pytest.mark.lab, pytest.mark.long]

#: Processes on a machine with other work may be late by this much (seconds).
LATE = 5.0


def etcd_of(lab: Lab) -> EtcdLabStore:
    assert isinstance(lab.store, EtcdLabStore)
    return lab.store


def leader_of(lab: Lab) -> str:
    leader = lab.wait_for("a leader of etcd", etcd_of(lab).leader)
    assert leader is not None
    return leader


def followers_of(lab: Lab) -> list[str]:
    leader = leader_of(lab)
    return [node for node in etcd_of(lab).hosts if node != leader]


def wait_for_another_leader(lab: Lab, old: str) -> None:
    lab.wait_for("another leader of etcd", lambda: etcd_of(lab).leader() not in (None, old))


def wait_for_member(lab: Lab, node: str) -> None:
    def knows_leader() -> bool:
        try:
            return etcd_of(lab).status(node).leader != "0"
        except LocumError:
            return False

    lab.wait_for(f"the return of {node}'s member", knows_leader)


def watch_for(lab: Lab, seconds: float) -> None:
    """Let time pass: what would go wrong does so within it."""
    end = boottime() + seconds
    lab.wait_for("time to pass", lambda: boottime() > end, seconds + LATE)


def test_every_node_has_a_member_and_nothing_of_it_stays(make_lab: MakeLab) -> None:
    lab = make_lab(store="etcd")
    lab.wait_served()
    store = etcd_of(lab)
    assert store.hosts == lab.layout.node_names
    members = {store.status(node).member for node in store.hosts}
    leaders = {store.status(node).leader for node in store.hosts}
    assert len(members) == 3
    assert len(leaders) == 1
    assert leaders <= members
    for node in store.hosts:
        assert store.url(node).startswith(f"etcd://{lab.layout.private_address(node)}:2379,")
        assert store.url(node).count(":2379") == 3
    data = str(lab.directory)
    assert data in Path("/proc/self/mounts").read_text()
    running = lab.state.store_processes
    lab.down()
    assert not any(processes.alive(process) for process in running)
    assert data not in Path("/proc/self/mounts").read_text()
    assert not lab.directory.exists()


@pytest.mark.parametrize(("nodes", "members"), [(1, 1), (2, 1), (4, 3), (6, 5)])
def test_the_number_of_members_is_odd(nodes: int, members: int, make_lab: MakeLab) -> None:
    lab = make_lab(nodes=nodes, addresses=0, store="etcd", services=(), daemons=False)
    assert len(etcd_of(lab).hosts) == len(lab.state.store_processes) == members


@pytest.mark.parametrize("kind", ["kill-etcd", "freeze-etcd"])
def test_a_lost_member_costs_no_address(kind: str, make_lab: MakeLab) -> None:
    """Etcd's leader among them, at the default hold."""
    lab = make_lab(store="etcd")
    lab.wait_served()
    served, epoch = lab.served(), lab.status().epoch
    with Watching(lab) as watching:
        for victim in [leader_of(lab), *followers_of(lab), leader_of(lab)]:
            led = leader_of(lab) == victim
            lab.fault(victim, kind)
            if led:
                wait_for_another_leader(lab, victim)
            # Longer than a hold: what was renewed by nobody would be gone.
            watch_for(lab, lab.layout.hold + 1.0)
            assert lab.served() == served, f"{kind} of {victim}"
            lab.heal(victim)
            wait_for_member(lab, victim)
        last = watching.end()
    assert last.violations == 0
    assert lab.status().epoch == epoch, "addresses were planned anew"
    assert [attempt for attempt in watching.attempts if not attempt.ok] == []


@pytest.mark.parametrize("kind", ["kill-etcd", "freeze-etcd", "cut-private"])
def test_without_a_quorum_nodes_serve_until_their_holds_end_and_come_back_by_themselves(
    kind: str, make_lab: MakeLab
) -> None:
    lab = make_lab(store="etcd")
    lab.wait_served()
    hold = lab.layout.hold
    beat = min(hold / 5, 0.5)
    with Watching(lab) as watching:
        watch_for(lab, 0.5)
        victims = [leader_of(lab), followers_of(lab)[0]]
        began = boottime()
        for victim in victims:
            lab.fault(victim, kind)
        gone = boottime()
        nodes = lab.layout.node_names
        lab.wait_for("nodes to have released all", lambda: not any(lab.configured(node) for node in nodes))
        watch_for(lab, 1.0)
        watching.read()
        answered = [attempt.t for attempt in watching.attempts if attempt.ok]
        per_address = {
            address.address: max(a.t for a in watching.attempts if a.ok and a.address == address.address)
            for address in lab.layout.public_addresses
        }
        # Not a moment longer than the hold of a beat that was sent just before; and not without need shorter.
        assert max(answered) <= gone + hold
        assert min(per_address.values()) >= began + hold - 2 * beat - 0.3, per_address
        lab.heal()
        lab.wait_served()
        served = boottime()
        watch_for(lab, 1.0)
        last = watching.end()
    assert last.violations == 0
    assert silent([address.address for address in lab.layout.public_addresses], watching.attempts, served) == ()


def test_the_death_of_the_host_of_etcds_leader(make_lab: MakeLab) -> None:
    """Its addresses move; those of the others are served without a break."""
    lab = make_lab(store="etcd")
    lab.wait_served()
    victim = leader_of(lab)
    before = lab.served()
    mine = {address for address, node in before.items() if node == victim}
    others = set(before) - mine
    with Watching(lab) as watching:
        lab.fault(victim, "cut")
        lab.wait_for(
            "its addresses to be served elsewhere",
            lambda: all(lab.served().get(address) not in (None, victim) for address in mine),
        )
        last = watching.end()
    assert last.violations == 0
    failed = {attempt.address for attempt in watching.attempts if not attempt.ok}
    assert not failed & others
    assert {address: lab.served()[address] for address in others} == {a: before[a] for a in others}
    lab.heal()
    lab.wait_served()


def test_faults_of_another_store_are_refused(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=1, addresses=0, services=(), daemons=False)
    assert {"kill-etcd", "freeze-etcd", "kill-store", "freeze-store"} <= set(faults.FAULTS)
    with pytest.raises(UsageError, match="kill-store"):
        lab.fault("n1", "kill-etcd")
    assert lab.state.nodes["n1"].faults == ()
