"""Locum as a unit of systemd on machines of their own: stop, restart, crash, power-off, firewall, late network.

Orders are judged on one clock: packets at the bridge, and marks that units of the guest send when they stop.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from locum.clock import boottime
from locum_lab.vm.lab import VmLab
from locum_lab.vm.machine import Machine
from locum_lab.vm.watching import Watching
from tests.vm.hearing import Hearing, marking

#: An ordinary service of the machine that a client reaches at a public address.
WEB = f"""\
[Unit]
Description=A web server
After=network.target
[Service]
ExecStart=/usr/bin/python3 -m http.server 8080
ExecStop={marking("web-stops")}
[Install]
WantedBy=multi-user.target
"""
STOPPED = f"[Service]\nExecStopPost={marking('locum-stopped')}\n"


@pytest.fixture(scope="module")
def marked(cluster: VmLab) -> VmLab:
    """The cluster; n2 sends a mark when the unit has stopped, and when its web server begins to stop."""
    n2 = cluster.machine("n2")
    n2.write("/etc/systemd/system/locum.service.d/mark.conf", STOPPED)
    n2.write("/etc/systemd/system/web.service", WEB)
    n2.sh("systemctl daemon-reload && systemctl enable --quiet --now web")
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
    return lab.served("n1") == {public.address: "n1" for public in lab.layout.public_addresses}


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


def test_i1_a_restarted_unit_leaves_in_order_and_gets_its_addresses_back(lab: VmLab) -> None:
    n2 = lab.machine("n2")
    with Watching(lab) as watching:
        mine, before = _of_n2(lab), _shown(n2, "MainPID")
        n2.sh("systemctl restart locum")
        assert _shown(n2, "MainPID") != before
        lab.wait_served()
        assert _of_n2(lab) == mine
        assert watching.end().violations == 0
        assert mine <= watching.spoken_by("n1")


def test_a_reload_moves_nothing(lab: VmLab) -> None:
    n2 = lab.machine("n2")
    with Watching(lab) as watching:
        mine, before = _of_n2(lab), _shown(n2, "MainPID")
        heard = dict(watching.holders())
        n2.sh("systemctl reload locum")
        lab.wait_for("the journal's line about it", lambda: "configuration" in n2.journal("locum", lines=20))
        assert _shown(n2, "MainPID") == before
        assert _of_n2(lab) == mine
        assert watching.end().violations == 0
        assert {a: n for a, n in watching.holders().items() if a in heard} == heard


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


def test_i1_the_power_button_moves_addresses_before_services_stop(lab: VmLab) -> None:
    n2 = lab.machine("n2")
    with Watching(lab) as watching, Hearing(lab, "n2") as hearing:
        mine, begun = _of_n2(lab), boottime()
        n2.power_button()
        stopped, web = hearing.wait_mark("locum-stopped"), hearing.wait_mark("web-stops")
        n2.wait_off()
        lab.wait_for("n1 serves every address", lambda: _all_on_n1(lab))
        lab.wait_for("n1 is heard", lambda: mine <= _spoken_before(watching, "n1", begun, float("inf")))
        assert mine <= _spoken_before(watching, "n1", begun, stopped)
        assert mine <= _spoken_before(watching, "n1", begun, web)
        assert watching.end().violations == 0


def test_i1_a_node_whose_private_network_comes_late_joins_when_it_is_there(lab: VmLab) -> None:
    n2 = lab.machine("n2")
    with Watching(lab) as watching:
        n2.set_carrier("eth0", up=False)
        n2.reboot()
        assert _all_on_n1(lab)
        assert n2.sh("cat /sys/class/net/eth0/carrier").strip() == "0"
        n2.set_carrier("eth0", up=True)
        n2.wait_booted()
        lab.wait_served()
        assert watching.end().violations == 0
