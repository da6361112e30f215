"""Nodes whose machines have the members of etcd too, as on clusters without other servers: ``--store etcd``.

Loss of power, power-off, and a poor network between all of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from locum.clock import boottime
from locum_lab.vm.lab import VmLab
from locum_lab.vm.watching import Watching
from tests.vm.conftest import CALM, MakeVmLab
from tests.vm.healing import healthy
from tests.vm.hearing import Hearing, marking

#: A drop-in: etcd marks the beginning of its stop.
ETCD_STOPS = f"[Service]\nExecStop=-{marking('etcd-stops')}\n"

_POOR = "netem delay 80ms 40ms reorder 25% 50% loss 10%"


@pytest.fixture(scope="module")
def members(make_vm_lab: MakeVmLab) -> VmLab:
    """Three nodes, each with a member. The lab derives etcd's election time-out from the hold: with a short one,
    emulated members elect leaders all the time."""
    lab = make_vm_lab(nodes=3, addresses=6, hold=20.0, store_kind="etcd", settings=CALM)
    n3 = lab.machine("n3")
    n3.write("/etc/systemd/system/etcd.service.d/mark.conf", ETCD_STOPS)
    n3.sh("systemctl daemon-reload")
    lab.wait_served()
    return lab


@pytest.fixture
def lab(members: VmLab) -> Iterator[VmLab]:
    """The cluster with every address served, before the test and after it."""
    with healthy(members):
        yield members


def _of_n3(lab: VmLab) -> set[str]:
    found = {address for address, node in lab.served().items() if node == "n3"}
    assert found
    return found


def _others_serve_all(lab: VmLab) -> bool:
    served = lab.served()
    return len(served) == len(lab.layout.public_addresses) and "n3" not in served.values()


def test_i1_addresses_move_when_a_machine_with_a_member_loses_its_power(lab: VmLab) -> None:
    with Watching(lab) as watching:
        mine = _of_n3(lab)
        cut = lab.cut_power("n3")
        lab.wait_for("the others serve all", lambda: _others_serve_all(lab))
        lab.power_on("n3")
        lab.machine("n3").wait_booted()
        lab.wait_served()
        assert watching.end().violations == 0
        assert mine <= watching.spoken_by("n1", cut) | watching.spoken_by("n2", cut)
    machine = lab.machine("n1")
    told = machine.sh("ETCDCTL_API=3 etcdctl --endpoints http://10.78.0.1:2379 member list")
    assert told.count("started") == 3


def test_i1_at_power_off_the_addresses_are_handed_over_before_the_member_stops(lab: VmLab) -> None:
    n3 = lab.machine("n3")
    with Watching(lab) as watching, Hearing(lab, "n3") as hearing:
        mine, begun = _of_n3(lab), boottime()
        n3.power_button()
        stops = hearing.wait_mark("etcd-stops")
        n3.wait_off()
        assert _others_serve_all(lab)
        watching.read()
        spoken = {
            record.address
            for record in watching.records
            if record.event == "speaks" and record.node != "n3" and begun <= record.t < stops
        }
        assert mine <= spoken
        lab.power_on("n3")
        n3.wait_booted()
        lab.wait_served()
        assert watching.end().violations == 0


def _dropped(lab: VmLab, node: str) -> int:
    """How many frames the poor network has lost on their way out of a node."""
    (found,) = json.loads(lab.machine(node).sh("tc -s -j qdisc show dev eth0"))
    assert found["kind"] == "netem"
    return int(found["drops"])


@pytest.fixture
def poor(lab: VmLab) -> Iterator[VmLab]:
    """Loss, delay and reordering between all nodes, and so between each node and the other members of etcd."""
    for node in lab.layout.node_names:
        lab.machine(node).sh(f"tc qdisc add dev eth0 root {_POOR}")
    yield lab
    lab.uncut("n3", ["eth0"])
    for node in lab.layout.node_names:
        lab.machine(node).run(["tc", "qdisc", "delete", "dev", "eth0", "root"])


def test_i1_with_loss_delay_and_reordering_between_nodes_and_etcd(poor: VmLab) -> None:
    lab = poor
    with Watching(lab) as watching:
        lab.wait_served()
        address = min(_of_n3(lab))
        lab.machine("n1").sh(f"locum ip move {address} n1 --wait 300", timeout=400)
        lab.wait_for("the move", lambda: lab.served().get(address) == "n1")
        lab.cut("n3", ["eth0"])
        lab.wait_for("the others serve all", lambda: _others_serve_all(lab))
        lab.uncut("n3", ["eth0"])
        lab.wait_for("n3 is back", lambda: "n3" in lab.served().values())
        lab.machine("n1").sh(f"locum ip auto {address}", timeout=400)
        lab.wait_served()
        assert all(_dropped(lab, node) for node in lab.layout.node_names)
        assert watching.end().violations == 0
