"""Debian's etcd in the guests, a member on each of three nodes, as docs/stores.md says: a member dies with its node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from locum.clock import boottime
from locum_lab.etcd_store import CLIENT_PORT
from locum_lab.vm.lab import VmLab
from locum_lab.vm.watching import Watching
from tests.vm import healing
from tests.vm.conftest import CALM, MakeVmLab
from tests.vm.hearing import Hearing, marking
from tests.vm.places import without
from tests.vm.poor_network import poor

#: Emulated members need long time-outs (see :func:`locum_lab.etcd_store.pace`), and these a long hold.
_HOLD = 20.0


@pytest.fixture(scope="module")
def etcd_lab(make_vm_lab: MakeVmLab) -> VmLab:
    """Three nodes, each with a member; n2 tells when etcd and Locum end."""
    lab = make_vm_lab(nodes=3, hold=_HOLD, store_kind="etcd", settings=CALM)
    n2 = lab.machine("n2")
    for unit in ("etcd", "locum"):
        text = f"[Service]\nExecStopPost={marking(f'{unit}-stopped')}\n"
        n2.write(f"/etc/systemd/system/{unit}.service.d/mark.conf", text)
    n2.sh("systemctl daemon-reload")
    return lab


@pytest.fixture
def lab(etcd_lab: VmLab) -> Iterator[VmLab]:
    """Every address served, before the test and after it."""
    with healing.healthy(etcd_lab):
        yield etcd_lab


def _leader(lab: VmLab) -> str:
    """The node whose member leads."""
    for node in lab.layout.node_names:
        own = f"http://{lab.layout.private_address(node)}:{CLIENT_PORT}"
        machine = lab.machine(node)
        # endpoint, id, version, size, is leader, …
        status = machine.sh(f"ETCDCTL_API=3 etcdctl --command-timeout=60s --endpoints {own} endpoint status")
        if status.split(", ")[4] == "true":
            return node
    raise AssertionError("no member leads")


def test_i1_addresses_move_when_the_machine_of_the_leading_member_loses_its_power(lab: VmLab) -> None:
    with Watching(lab) as watching:
        leader = _leader(lab)
        lab.cut_power(leader)
        lab.wait_for("others serve every address", lambda: without(lab, leader))
        lab.power_on(leader)
        lab.machine(leader).wait_booted()
        lab.wait_served()
        assert watching.end().violations == 0


def test_i1_at_power_off_addresses_are_served_elsewhere_before_the_member_stops(lab: VmLab) -> None:
    n2 = lab.machine("n2")
    with Watching(lab) as watching, Hearing(lab, "n2") as hearing:
        mine, begun = {address for address, node in lab.served().items() if node == "n2"}, boottime()
        assert mine
        n2.power_button()
        locum, etcd = hearing.wait_mark("locum-stopped"), hearing.wait_mark("etcd-stopped")
        assert locum < etcd
        n2.wait_off()
        watching.read()
        others = [one for one in watching.records if one.event == "speaks" and one.node != "n2" and one.t >= begun]
        assert mine <= {one.address for one in others if one.t < locum}
        lab.power_on("n2")
        n2.wait_booted()
        lab.wait_served()
        assert watching.end().violations == 0


def test_i1_addresses_stay_and_move_while_the_network_between_the_members_is_poor(lab: VmLab) -> None:
    with Watching(lab) as watching, ExitStack() as stack:
        before, since = lab.wait_served().epoch, boottime()
        for node in lab.layout.node_names:
            stack.enter_context(poor(lab.machine(node), "loss 5% delay 40ms 30ms reorder 25%"))
        lab.wait_for("some holds later", lambda: boottime() > since + 2 * _HOLD)
        assert lab.wait_served().epoch == before
        lab.machine("n2").freeze()
        lab.wait_for("others serve every address", lambda: without(lab, "n2"))
        lab.machine("n2").thaw()
        lab.wait_served()
        assert watching.end().violations == 0
