"""Locum as a unit of systemd on machines of their own: stop, shutdown, crash, firewall.

Orders are judged on one clock: packets at the bridge, and a mark that the unit sends when it has stopped.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from locum.clock import boottime
from locum_lab.vm.lab import VmLab
from locum_lab.vm.machine import Machine
from locum_lab.vm.watching import Watching
from tests.vm.hearing import Hearing, marking

STOPPED = f"[Service]\nExecStopPost={marking('locum-stopped')}\n"


@pytest.fixture(scope="module")
def marked(cluster: VmLab) -> VmLab:
    """The cluster; n2 sends a mark when the unit has stopped."""
    n2 = cluster.machine("n2")
    n2.write("/etc/systemd/system/locum.service.d/mark.conf", STOPPED)
    n2.sh("systemctl daemon-reload")
    return cluster


@pytest.fixture
def lab(marked: VmLab) -> Iterator[VmLab]:
    """The cluster with every address served, before the test and after it."""
    marked.wait_served()
    yield marked
    n2 = marked.machine("n2")
    if not n2.powered:
        marked.power_on("n2")
        n2.wait_booted()
    n2.sh("systemctl start locum")
    marked.wait_served()


def _of_n2(lab: VmLab) -> set[str]:
    found = {address for address, node in lab.served().items() if node == "n2"}
    assert found
    return found


def _all_on_n1(lab: VmLab) -> bool:
    return lab.served() == {public.address: "n1" for public in lab.layout.public_addresses}


def _shown(machine: Machine, unit_property: str) -> str:
    return machine.sh(f"systemctl show --value --property {unit_property} locum").strip()


def _spoken_before(watching: Watching, node: str, since: float, until: float) -> set[str]:
    """The addresses for which the node began to speak in this time."""
    watching.read()
    return {
        record.address
        for record in watching.records
        if record.event == "speaks" and record.node == node and since <= record.t < until
    }


def test_i1_a_stopped_unit_hands_its_addresses_over_before_it_has_stopped(lab: VmLab) -> None:
    n2 = lab.machine("n2")
    with Watching(lab) as watching, Hearing(lab, "n2") as hearing:
        mine, begun = _of_n2(lab), boottime()
        n2.sh("systemctl stop locum")
        stopped = hearing.wait_mark("locum-stopped")
        assert _all_on_n1(lab)
        lab.wait_for("n1 is heard", lambda: mine <= _spoken_before(watching, "n1", begun, float("inf")))
        assert mine <= _spoken_before(watching, "n1", begun, stopped)
        assert watching.end().violations == 0
    assert _shown(n2, "ActiveState") == "inactive"
    assert _shown(n2, "Result") == "success"


def test_i1_systemd_starts_a_killed_guard_again(lab: VmLab) -> None:
    n2 = lab.machine("n2")
    with Watching(lab) as watching:
        before, restarts = _shown(n2, "MainPID"), int(_shown(n2, "NRestarts"))
        n2.sh(f"kill -9 {before}")
        lab.wait_for("another main process", lambda: _shown(n2, "MainPID") not in ("0", before))
        assert int(_shown(n2, "NRestarts")) == restarts + 1
        lab.wait_served()
        assert watching.end().violations == 0


def test_i1_a_node_that_was_shut_down_stays_down(lab: VmLab) -> None:
    n2 = lab.machine("n2")
    with Watching(lab) as watching:
        restarts = _shown(n2, "NRestarts")
        n2.sh("locum shutdown")
        assert _all_on_n1(lab)
        lab.wait_for("the end of the unit", lambda: _shown(n2, "ActiveState") == "inactive")
        # Longer than RestartSec, on the guest's clock.
        n2.sh("sleep 5")
        assert _shown(n2, "ActiveState") == "inactive"
        assert _shown(n2, "NRestarts") == restarts
        assert watching.end().violations == 0


@pytest.mark.parametrize("command", ["nft flush ruleset", "systemctl restart nftables"])
def test_i1_the_gate_returns_when_the_firewall_is_loaded_again(lab: VmLab, command: str) -> None:
    n2 = lab.machine("n2")
    tables = sorted(line for line in n2.sh("nft list tables").splitlines() if "locum" in line)
    assert tables
    with Watching(lab) as watching:
        mine = _of_n2(lab)
        n2.sh(command)
        lab.wait_for(
            "the gate's tables",
            lambda: sorted(line for line in n2.sh("nft list tables").splitlines() if "locum" in line) == tables,
        )
        lab.wait_served()
        assert _of_n2(lab) == mine
        assert watching.end().violations == 0
