"""Locum as a unit of systemd on machines of their own, and beside the programs that share its kernel there.

Stop, power-off, a boot without a network, crash, hang; the firewall and systemd-networkd.

Orders are judged on one clock: packets at the bridge, and marks that units send when they stop.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from locum.clock import boottime
from locum_lab.vm.lab import VmLab
from locum_lab.vm.machine import Machine
from locum_lab.vm.watching import Watching
from tests.vm.conftest import MakeVmLab
from tests.vm.hearing import Hearing, marking

STOPPED = f"[Service]\nExecStopPost={marking('locum-stopped')}\n"

#: A service that an administrator has added and enabled; it marks the beginning of its stop.
SITE = f"""[Service]
ExecStart=/usr/bin/sleep infinity
ExecStop={marking("site-stops")}
[Install]
WantedBy=multi-user.target
"""
#: Drop-ins: vsftpd, which an event script starts, marks the beginning of its stop; the handover marks its own end.
FTP_STOPS = f"[Service]\nExecStop=\nExecStop={marking('ftp-stops')}\n"
HANDED_OVER = f"[Service]\nExecStop=-{marking('handed-over')}\n"


@pytest.fixture(scope="module")
def marked(make_vm_lab: MakeVmLab) -> VmLab:
    """Two nodes without a client; n2 sends a mark when the unit has stopped."""
    # Addresses return soon to a node that fails in every test.
    cluster = make_vm_lab(settings="[tunables]\nDampingWindow = 1\n")
    cluster.wait_served()
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


@pytest.fixture
def services(lab: VmLab) -> Iterator[VmLab]:
    """n2 has a service that systemd starts, and one that an event script starts."""
    n2 = lab.machine("n2")
    n2.write("/etc/systemd/system/site.service", SITE)
    n2.write("/etc/systemd/system/vsftpd.service.d/mark.conf", FTP_STOPS)
    n2.write("/etc/systemd/system/locum-handover.service.d/mark.conf", HANDED_OVER)
    scripts = "$(/opt/locum/bin/python -c 'import locum; print(locum.__path__[0])')/scripts"
    n2.sh(f"install -m 755 {scripts}/40.vsftpd /etc/locum/events")
    n2.sh("systemctl daemon-reload && systemctl enable --quiet --now site && systemctl restart locum")
    lab.wait_served()
    yield lab
    if not n2.powered:
        lab.power_on("n2")
        n2.wait_booted()
    n2.sh("rm /etc/locum/events/40.vsftpd /etc/systemd/system/vsftpd.service.d/mark.conf")
    n2.sh("systemctl disable --quiet --now site && systemctl daemon-reload && systemctl restart locum")


def test_i1_at_power_off_addresses_are_served_elsewhere_before_services_stop(services: VmLab) -> None:
    """Afterwards the node boots without its network, and joins when that comes."""
    n2 = services.machine("n2")
    assert n2.sh("systemctl is-active site vsftpd locum-handover").split() == ["active"] * 3
    n2.sh("systemctl mask --quiet systemd-networkd-wait-online")
    with Watching(services) as watching, Hearing(services, "n2") as hearing:
        mine, begun = _of_n2(services), boottime()
        n2.power_button()
        stops = {mark: hearing.wait_mark(mark) for mark in ("handed-over", "site-stops", "ftp-stops", "locum-stopped")}
        n2.wait_off()
        assert _all_on_n1(services)
        services.wait_for("n1 is heard", lambda: mine <= _spoken_before(watching, "n1", begun, float("inf")))
        for mark in ("site-stops", "ftp-stops", "locum-stopped"):
            assert mine <= _spoken_before(watching, "n1", begun, stops[mark]), mark
            assert stops["handed-over"] < stops[mark]

        services.power_on("n2")
        n2.wait_for("its monitor", n2.hardware.monitor.exists)
        n2.set_carrier("eth0", up=False)
        n2.wait_booted()
        assert _shown(n2, "ActiveState") == "active"
        assert _all_on_n1(services)
        n2.set_carrier("eth0", up=True)
        services.wait_served()
        assert watching.end().violations == 0
    n2.sh("systemctl unmask --quiet systemd-networkd-wait-online")
    # Neither the command of the handover nor the scripts, which stop a service as well, waited for a time limit.
    ended = n2.sh("journalctl --no-pager --boot -1 -u locum -u locum-handover -u vsftpd")
    assert "the addresses are handed over" in ended
    assert "timed out" not in ended
    assert "Failed with result" not in ended


def test_i1_a_service_can_be_stopped_and_started_while_locum_stops(services: VmLab) -> None:
    """The order of the shutdown does not make the event script of a service wait when Locum alone stops."""
    n2 = services.machine("n2")
    with Watching(services) as watching, Hearing(services, "n2") as hearing:
        mine, begun = _of_n2(services), boottime()
        n2.sh("systemctl stop locum")
        stops = hearing.wait_mark("ftp-stops")
        assert mine <= _spoken_before(watching, "n1", begun, stops)
        assert n2.run(["systemctl", "is-active", "vsftpd"]).stdout.strip() == "inactive"
        assert _shown(n2, "Result") == "success"
        assert watching.end().violations == 0
    ended = n2.sh("journalctl --no-pager -u locum -n 30")
    assert "shutdown: " not in ended


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


def test_i1_systemd_starts_a_guard_again_that_stands_still(lab: VmLab) -> None:
    """The watchdog: the guard itself cannot notice."""
    n2 = lab.machine("n2")
    with Watching(lab) as watching:
        before = _shown(n2, "MainPID")
        n2.sh(f"kill -STOP {before}")
        lab.wait_for("another main process", lambda: _shown(n2, "MainPID") not in ("0", before))
        lab.wait_served()
        assert watching.end().violations == 0
    assert "Watchdog timeout" in n2.journal("locum")


def test_i1_nodes_that_restart_one_after_the_other_lose_no_address(lab: VmLab) -> None:
    with Watching(lab) as watching:
        for name in lab.layout.node_names:
            machine = lab.machine(name)
            before = _shown(machine, "MainPID")
            machine.sh("systemctl restart locum")
            assert _shown(machine, "MainPID") not in ("0", before)
            lab.wait_served()
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


def test_i1_addresses_stay_when_networkd_reads_its_configuration_again(lab: VmLab) -> None:
    n2 = lab.machine("n2")
    with Watching(lab) as watching:
        mine = _of_n2(lab)
        n2.sh("networkctl reload")
        n2.sh("/lib/systemd/systemd-networkd-wait-online --timeout=120")
        lab.wait_for("the addresses", lambda: _configured(n2) == mine)
        lab.wait_served()
        assert _of_n2(lab) == mine
        assert watching.end().violations == 0


def _configured(machine: Machine) -> set[str]:
    """The global addresses of the public interface."""
    shown = machine.sh("ip -o address show dev eth1 scope global")
    return {line.split()[3].partition("/")[0] for line in shown.splitlines()}
