"""Locum as a unit of systemd on machines of their own, and beside the programs that share its kernel there.

Stop, power-off, a boot without a network, crash, upgrade; journald, the firewall and the network's managers.

Orders are judged on one clock: packets at the bridge, and marks that units send when they stop.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from locum.clock import boottime
from locum_lab.vm.lab import VmLab
from locum_lab.vm.machine import Machine
from locum_lab.vm.watching import Watching
from tests.vm.conftest import CALM, MakeVmLab
from tests.vm.healing import healthy
from tests.vm.hearing import Hearing, marking
from tests.vm.places import all_on

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

#: A program for a guest: fills the standard error of a process, up to the last byte that can wait in it.
FILL = """
import ctypes, socket, sys
call = ctypes.CDLL(None, use_errno=True).syscall
pidfd_open, pidfd_getfd = 434, 438
error = socket.socket(fileno=call(pidfd_getfd, call(pidfd_open, int(sys.argv[1]), 0), 2, 0))
sent = 0
for size in (1024, 1):
    try:
        while True:
            sent += error.send(b"x" * (size - 1) + b"\\n", socket.MSG_DONTWAIT)
    except BlockingIOError:
        pass
print(sent)
"""

#: Shell commands that leave no byte of the disk free, and those that undo it.
FULL = """
n=0
for size in 1G 256M 64M 16M 4M 1M 256K 64K 16K 4K; do
    while fallocate -l $size /filler.$n 2>/dev/null; do n=$((n + 1)); done
done
df /
"""
NOT_FULL = "rm -f /filler.*"

#: The networks of a node with NetworkManager instead of systemd-networkd.
PRIVATE = """[connection]
id=private
type=ethernet
interface-name=eth0
[ipv4]
method=manual
address1={address}/24
[ipv6]
method=link-local
"""
PUBLIC = """[connection]
id=public
type=ethernet
interface-name=eth1
[ipv4]
method=disabled
[ipv6]
method=link-local
"""


@pytest.fixture(scope="module")
def marked(make_vm_lab: MakeVmLab) -> VmLab:
    """Two nodes without a client; n2 sends a mark when the unit has stopped."""
    cluster = make_vm_lab(settings=CALM + "RecoveryBanPeriod = 10\n")
    cluster.wait_served()
    n2 = cluster.machine("n2")
    n2.write("/etc/systemd/system/locum.service.d/mark.conf", STOPPED)
    n2.sh("systemctl daemon-reload")
    return cluster


@pytest.fixture
def lab(marked: VmLab) -> Iterator[VmLab]:
    """The cluster with every address served, before the test and after it."""
    with healthy(marked):
        yield marked


def _of_n2(lab: VmLab) -> set[str]:
    found = {address for address, node in lab.served().items() if node == "n2"}
    assert found
    return found


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
        assert all_on(lab, "n1")
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
    with healthy(lab):
        yield lab
    n2.sh("systemctl unmask --quiet systemd-networkd-wait-online")
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
        assert all_on(services, "n1")
        services.wait_for("n1 is heard", lambda: mine <= _spoken_before(watching, "n1", begun, float("inf")))
        for mark in ("site-stops", "ftp-stops", "locum-stopped"):
            assert mine <= _spoken_before(watching, "n1", begun, stops[mark]), mark
            assert stops["handed-over"] < stops[mark]

        services.power_on("n2")
        n2.set_carrier("eth0", up=False)
        n2.wait_booted()
        assert _shown(n2, "ActiveState") == "active"
        assert all_on(services, "n1")
        n2.set_carrier("eth0", up=True)
        services.wait_served()
        assert watching.end().violations == 0
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
        assert all_on(lab, "n1")
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


def _gate(machine: Machine) -> list[str]:
    """The gate's tables: "table FAMILY NAME" each."""
    return sorted(line for line in machine.sh("nft list tables").splitlines() if "locum" in line)


@pytest.mark.parametrize("command", ["nft flush ruleset", "systemctl restart nftables", "systemctl reload nftables"])
def test_i1_the_gate_returns_when_the_firewall_is_loaded_again(lab: VmLab, command: str) -> None:
    n2 = lab.machine("n2")
    tables = _gate(n2)
    assert "table inet locum" in tables
    with Watching(lab) as watching:
        mine = _of_n2(lab)
        if "reload" in command:
            # Only a unit that runs is reloaded. To start it flushes the rules as well.
            n2.sh("systemctl start nftables")
            lab.wait_for("the gate's tables", lambda: _gate(n2) == tables)
        n2.sh(command)
        lab.wait_for("the gate's tables", lambda: _gate(n2) == tables)
        lab.wait_served()
        assert _of_n2(lab) == mine
        assert watching.end().violations == 0


@pytest.mark.parametrize(
    "command",
    [
        "networkctl reload",
        # Both make systemd-networkd configure the interface again: it removes addresses that it does not know.
        "networkctl reconfigure eth1",
        "systemctl restart systemd-networkd",
    ],
)
def test_i1_addresses_are_served_after_networkd_has_configured_the_interface_again(lab: VmLab, command: str) -> None:
    n2 = lab.machine("n2")
    with Watching(lab) as watching:
        mine = _of_n2(lab)
        n2.sh(command)
        n2.sh("/lib/systemd/systemd-networkd-wait-online --timeout=120")
        lab.wait_for("the addresses", lambda: _configured(n2) == mine)
        lab.wait_served()
        assert _of_n2(lab) == mine
        assert watching.end().violations == 0


def _configured(machine: Machine) -> set[str]:
    """The global addresses of the public interface."""
    shown = machine.sh("ip -o address show dev eth1 scope global")
    return {line.split()[3].partition("/")[0] for line in shown.splitlines()}


def test_i1_a_journal_that_reads_nothing_stops_no_node(lab: VmLab) -> None:
    """journald stands still, and Locum's standard error is full: lines are dropped, and nothing else waits."""
    n2 = lab.machine("n2")

    def move_all_and_back() -> None:
        for verb in ("disable", "enable"):
            n2.sh(f"locum node {verb} n1")
        lab.wait_served()

    with Watching(lab) as watching:
        # Which addresses come back depends on where they were: so they move once before.
        move_all_and_back()
        mine = _of_n2(lab)
        n2.sh("systemctl kill --signal=SIGSTOP systemd-journald")
        try:
            n2.write("/run/fill.py", FILL)
            assert int(n2.sh(f"python3 /run/fill.py {_shown(n2, 'MainPID')}")) > 0
            move_all_and_back()
            n2.sh(f"sleep {2 * lab.layout.hold:g}")
            assert set(lab.served().values()) == {"n1", "n2"}
            assert _of_n2(lab) == mine
        finally:
            n2.sh("systemctl kill --signal=SIGCONT systemd-journald")
        lab.wait_served()
        assert watching.end().violations == 0


def test_a_reload_takes_effect_without_a_restart(lab: VmLab) -> None:
    n2, path = lab.machine("n2"), "/etc/locum/public_addresses"
    before, pid = n2.read(path), _shown(n2, "MainPID")
    lines = before.splitlines(keepends=True)
    gone = next(line for line in lines if line.partition("/")[0] in _of_n2(lab))
    with Watching(lab) as watching:
        n2.write(path, before.replace(gone, ""))
        n2.sh("systemctl reload locum")
        lab.wait_for("n1 has the address", lambda: lab.served().get(gone.partition("/")[0]) == "n1")
        n2.write(path, before)
        n2.sh("systemctl reload locum")
        lab.wait_for("both have it in their configuration", lambda: _hosts(lab, gone) == {"n1", "n2"})
        lab.wait_served()
        assert watching.end().violations == 0
    assert _shown(n2, "MainPID") == pid


def _hosts(lab: VmLab, line: str) -> set[str]:
    report = lab.status()
    return {host for item in report.addresses if item.address == line.partition("/")[0] for host in item.hosts}


def test_i1_a_package_that_is_replaced_under_a_running_daemon(lab: VmLab) -> None:
    """An upgrade removes the package's files and writes others; the daemon runs on with what it has loaded."""
    n2 = lab.machine("n2")
    package = n2.sh("/opt/locum/bin/python -c 'import locum; print(locum.__path__[0])'").strip()
    with Watching(lab) as watching:
        mine = _of_n2(lab)
        agent = n2.sh("pgrep -x locum-agent").split()
        n2.sh(f"mv {package} {package}.old")
        n2.sh(f"sleep {lab.layout.hold:g}")
        n2.sh(f"cp -a {package}.old {package}.new && mv {package}.new {package} && rm -r {package}.old")
        n2.sh("locum event run monitor")
        lab.wait_served()
        assert _of_n2(lab) == mine
        assert n2.sh("pgrep -x locum-agent").split() == agent
        assert watching.end().violations == 0


def test_i1_a_node_whose_disk_is_full_speaks_for_nothing_that_another_serves(lab: VmLab) -> None:
    """Neither the journal nor the state directory takes another byte."""
    n2 = lab.machine("n2")
    with Watching(lab) as watching:
        try:
            n2.sh(FULL)
            n2.sh("timeout 60 journalctl --sync || true")
            n2.sh(f"sleep {2 * lab.layout.hold:g}")
            assert _shown(n2, "ActiveState") == "active"
            lab.wait_for("every address", lambda: len(lab.served()) == len(lab.layout.public_addresses))
        finally:
            n2.sh(NOT_FULL)
        lab.wait_served()
        assert watching.end().violations == 0


@pytest.fixture
def network_manager(lab: VmLab) -> Iterator[VmLab]:
    """NetworkManager has n2's networks."""
    n2 = lab.machine("n2")
    connections = "/etc/NetworkManager/system-connections"
    n2.write(f"{connections}/private.nmconnection", PRIVATE.format(address=lab.layout.private_address("n2")), 0o600)
    n2.write(f"{connections}/public.nmconnection", PUBLIC, 0o600)
    n2.sh("systemctl stop systemd-networkd.socket systemd-networkd && systemctl start NetworkManager")
    lab.wait_served()
    yield lab
    # Its addresses have no route of their own, and systemd-networkd would leave them so.
    n2.sh("systemctl stop NetworkManager; ip address flush dev eth0")
    n2.sh("systemctl start systemd-networkd.socket systemd-networkd")
    n2.sh(f"rm {connections}/*")


def test_i1_addresses_are_served_after_networkmanager_has_configured_the_interface_again(
    network_manager: VmLab,
) -> None:
    lab, n2 = network_manager, network_manager.machine("n2")
    commands = (
        # Removes every address that NetworkManager does not know.
        "nmcli connection up public",
        "nmcli device reapply eth1",
        "nmcli general reload",
        "nmcli connection reload",
        "systemctl restart NetworkManager && nm-online --timeout=120",
    )
    with Watching(lab) as watching:
        mine = _of_n2(lab)
        for command in commands:
            n2.sh(command)
            lab.wait_for(f"the addresses after {command}", lambda: _configured(n2) == mine)
            lab.wait_served()
            assert _of_n2(lab) == mine
        assert watching.end().violations == 0


def test_i1_addresses_move_when_networkmanager_takes_the_interfaces_down_before_a_sleep(network_manager: VmLab) -> None:
    """It does so before systemd starts a unit, so the node cannot hand its addresses over: its hold ends."""
    lab, n2 = network_manager, network_manager.machine("n2")
    with Watching(lab) as watching:
        n2.agent.start(["systemctl", "suspend"])
        n2.wait_for("its sleep", n2.asleep)
        lab.wait_for("n1 serves all", lambda: all_on(lab, "n1"))
        n2.wake()
        n2.wait_for("an answer", n2.agent.answers)
        lab.wait_served()
        assert watching.end().violations == 0


def test_i1_a_firewalld_that_loads_its_rules_again_leaves_the_gate(lab: VmLab) -> None:
    n2 = lab.machine("n2")
    tables = _gate(n2)
    assert "table inet locum" in tables
    with Watching(lab) as watching:
        n2.sh("systemctl start firewalld")
        try:
            for command in ("firewall-cmd --reload", "firewall-cmd --complete-reload", "systemctl restart firewalld"):
                # Its client waits 25 s for an answer, and an emulated firewalld may take longer.
                n2.wait_for(command, lambda one=command: n2.run(["sh", "-c", one]).status == 0)  # type: ignore[misc]
                assert _gate(n2) == tables
                lab.wait_served()
        finally:
            n2.sh("systemctl stop firewalld")
        lab.wait_served()
        assert watching.end().violations == 0
