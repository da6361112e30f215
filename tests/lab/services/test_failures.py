"""Services that fail, hang, lose their files or their scripts: what the cluster notices, how soon, and by what."""

from __future__ import annotations

import os
import signal
import socket
import time
import urllib.request

import pytest

from locum_lab import file_web, namespaces, processes, transfers
from locum_lab.lab import Lab
from locum_lab.transfers import CLIENTS
from tests.lab.clusters import (
    address_report,
    addresses_of,
    install_recorder,
    locum,
    node_report,
    tell,
    wait_moved,
    wait_state,
)
from tests.lab.conftest import MakeLab

pytestmark = [pytest.mark.lab, pytest.mark.long]

SERVICES = ("vsftpd", "nginx", "samba", "generic")
WITH_NFS = ("nfs", *SERVICES)
SCRIPTS = {
    "vsftpd": "40.vsftpd",
    "nginx": "41.nginx",
    "samba": "50.samba",
    "nfs": "60.nfs",
    "generic": "70.service",
}

#: Whatever is noticed with this was not noticed by polling. Services fail more often than damping likes.
NO_POLL = "[tunables]\nMonitorInterval = 3600\nNoIPFailback = 1\nHealthyDelay = 0"
#: How soon the end of a listening socket should be noticed, and the limit for a busy machine. The poll comes far later.
AIM, LIMIT = 0.5, 60.0


def kill(lab: Lab, node: str, service: str) -> float:
    """Kill every process of one service of a node at one instant; the time of it."""
    assert processes.kill_all(lambda: server(lab, node, service)), f"{service} does not run on {node}"
    return time.monotonic()


def server(lab: Lab, node: str, service: str) -> tuple[processes.Process, ...]:
    """Its processes. Of NFS the server alone: port mapper, message bus and rpc.statd are services of their own."""
    found = lab.service_processes(node, service)
    return tuple(p for p in found if service != "nfs" or processes.name_of(p.pid) == "ganesha.nfsd")


def running(lab: Lab, node: str, service: str) -> set[int]:
    return {process.pid for process in server(lab, node, service)}


def test_the_end_of_each_service_is_noticed_without_a_poll(make_lab: MakeLab) -> None:
    lab = make_lab(services=WITH_NFS, settings=NO_POLL)
    lab.wait_served()
    for service in WITH_NFS:
        # One that serves something: the scripts may take their time elsewhere.
        node, mine, _ = busiest(lab)
        before = running(lab, node, service)
        killed = kill(lab, node, service)
        wait_state(lab, node, "UNHEALTHY", limit=LIMIT)
        seconds = time.monotonic() - killed
        print(f"{service}: unhealthy {seconds:.3f} s after its sockets closed (aim: {AIM} s), {len(mine)} addresses")
        wait_moved(lab, mine, node)
        report = node_report(lab, node)
        assert report is not None
        assert SCRIPTS[service] in str(report), report
        # monitor has started it again; the next one finds it well.
        lab.wait_for(f"{service} to be back", lambda s=service, n=node, b=before: running(lab, n, s) - b)  # type: ignore[misc]
        lab.wait_for(f"{node} to be well", lambda n=node: well(lab, n))  # type: ignore[misc]
        lab.wait_served()


def well(lab: Lab, node: str) -> bool:
    """Have monitor run, and say whether the node is OK."""
    lab.check_services(node)
    report = node_report(lab, node)
    return report is not None and report.state == "OK"


def test_a_server_that_hangs_is_found_by_monitor(make_lab: MakeLab) -> None:
    settings = "[tunables]\nMonitorInterval = 0.5\nNoIPFailback = 1"
    lab = make_lab(services=SERVICES, settings=settings)
    lab.wait_served()
    for number, service in enumerate(SERVICES):
        node = lab.layout.node_names[number % lab.layout.nodes]
        stopped = processes.stop_all(lambda s=service, n=node: lab.service_processes(n, s))  # type: ignore[misc]
        assert stopped
        began = time.monotonic()
        report = wait_state(lab, node, "UNHEALTHY", limit=60)
        print(f"{service}: hung, noticed after {time.monotonic() - began:.2f} s: {report.reason}")
        for process in reversed(stopped):
            processes.send(process, signal.SIGCONT)
        wait_state(lab, node, "OK", limit=60)


def test_workers_that_outlive_their_master_go_on_serving_until_it_is_replaced(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=1, addresses=1, services=["nginx"], settings=NO_POLL)
    lab.wait_served()
    master = int((lab.node_directory("n1") / "runtime" / "services" / "41.nginx.pid").read_text().split()[0])
    workers = running(lab, "n1", "nginx") - {master}
    assert workers
    os.kill(master, signal.SIGKILL)
    url = f"http://{lab.layout.public_addresses[0].address}:{file_web.PORT}/"
    answer = namespaces.inside(lab.layout.client, lambda: urllib.request.urlopen(url, timeout=10).status)
    assert answer == 200, "the workers have the socket"
    lab.wait_for("monitor to be well again", lambda: well(lab, "n1"))
    now = running(lab, "n1", "nginx")
    assert now, "nginx was started again"
    assert not now & (workers | {master}), "nothing of the old one is left"


@pytest.mark.parametrize("protocol", ["FTP", "SMB"])
def test_the_end_of_the_main_process_is_noticed_though_its_sessions_live_on(make_lab: MakeLab, protocol: str) -> None:
    service = CLIENTS[protocol].service
    lab = make_lab(services=CLIENTS[protocol].services, settings=NO_POLL)
    lab.wait_served()
    transfers.slow_down(lab)
    address, node = next(iter(lab.served().items()))
    with transfers.Transfer(lab, protocol, address) as transfer:
        transfer.wait_under_way()
        record = lab.node_directory(node) / "runtime" / "services" / f"{SCRIPTS[service]}*.pid"
        main = int(next(record.parent.glob(record.name)).read_text().split()[0])
        sessions = running(lab, node, service) - {main}
        assert sessions
        os.kill(main, signal.SIGKILL)
        killed = time.monotonic()
        wait_state(lab, node, "UNHEALTHY", limit=LIMIT)
        print(f"{service}: unhealthy {time.monotonic() - killed:.3f} s after its main process died")
        transfer.wait_end()
        assert transfer.intact(), transfer.output()
    lab.wait_for("nothing of the old one to be left", lambda: not running(lab, node, service) & (sessions | {main}))
    lab.wait_for(f"{node} to be well", lambda: well(lab, node))


def test_a_share_directory_that_disappears(make_lab: MakeLab) -> None:
    lab = make_lab(services=["samba"], settings="[tunables]\nMonitorInterval = 0.5\nNoIPFailback = 1")
    lab.wait_served()
    mine = addresses_of(lab, "n2")
    share = lab.shared_on("n2")
    share.unlink()
    report = wait_state(lab, "n2", "UNHEALTHY")
    assert str(share) in str(report), report
    wait_moved(lab, mine, "n2")
    share.symlink_to(lab.shared)
    wait_state(lab, "n2", "OK")


def test_startup_waits_for_the_share_directory(make_lab: MakeLab) -> None:
    lab = make_lab(services=["samba", "vsftpd"], settings="[tunables]\nMonitorInterval = 3600", daemons=False)
    share = lab.shared_on("n1")
    share.unlink()
    lab.start_daemons()
    wait_state(lab, "n2", "OK")
    wait_state(lab, "n3", "OK")
    lab.wait_for("all addresses on the others", lambda: set(lab.served().values()) == {"n2", "n3"})
    assert not running(lab, "n1", "vsftpd"), "it was started before its directory was there"
    assert not addresses_of(lab, "n1")
    share.symlink_to(lab.shared)
    wait_state(lab, "n1", "OK", limit=60)
    assert running(lab, "n1", "samba")


def test_a_stopped_node_stops_its_services(make_lab: MakeLab) -> None:
    lab = make_lab(services=SERVICES, settings=NO_POLL)
    lab.wait_served()
    mine = addresses_of(lab, "n1")
    lab.stop_daemon("n1")
    wait_moved(lab, mine, "n1")
    for service in SERVICES:
        lab.wait_for(f"the end of {service}", lambda s=service: not running(lab, "n1", s))  # type: ignore[misc]
    assert not namespaces.inhabitants([lab.layout.namespace("n1")])[lab.layout.namespace("n1")]
    lab.start_daemon("n1")
    lab.wait_served()
    for service in SERVICES:
        assert running(lab, "n1", service)


@pytest.mark.parametrize("event", ["monitor", "releaseip"])
def test_a_script_that_hangs_holds_up_addresses_no_longer_than_its_timeout(make_lab: MakeLab, event: str) -> None:
    limit = 4
    tunables = f"[tunables]\nMonitorInterval = 1\nMonitorTimeout = {limit}\nEventTimeout = {limit}"
    lab = make_lab(services=["vsftpd"], settings=tunables, daemons=False)
    install_recorder(lab)
    lab.start_daemons()
    lab.wait_served()
    address, node = next(iter(lab.served().items()))
    other = next(name for name in lab.layout.node_names if name != node)
    tell(lab, node, f"hang-{event}")
    began = time.monotonic()
    if event == "monitor":
        # The script of one service times out: the node is unhealthy, and says why.
        report = wait_state(lab, node, "UNHEALTHY", limit=60)
        assert "90.recorder" in str(report), report
    else:
        locum(lab, other, "ip", "move", address, other)
    wait_moved(lab, (address,), node, limit=60)
    seconds = time.monotonic() - began
    print(f"{event} hung: {address} was served elsewhere after {seconds:.2f} s, the time limit being {limit} s")
    moved = address_report(lab, address)
    assert moved is not None
    assert address not in lab.configured(node), "the daemon answers for addresses, not a script"
    tell(lab, node, f"hang-{event}", None)
    wait_state(lab, node, "OK", limit=60)


def test_a_planned_move_does_not_wait_for_a_monitor_that_hangs(make_lab: MakeLab) -> None:
    lab = make_lab(services=["vsftpd"], settings="[tunables]\nMonitorInterval = 1\nMonitorTimeout = 600", daemons=False)
    install_recorder(lab)
    lab.start_daemons()
    lab.wait_served()
    address, node = next(iter(lab.served().items()))
    other = next(name for name in lab.layout.node_names if name != node)
    tell(lab, node, "hang-monitor")
    log = lab.node_directory(node) / "events.log"
    lab.wait_for("monitor to hang", lambda: any(" - monitor" in line for line in log.read_text().splitlines()))
    began = time.monotonic()
    locum(lab, other, "ip", "move", address, other)
    wait_moved(lab, (address,), node, limit=60)
    print(f"moved after {time.monotonic() - began:.2f} s, while monitor hung")


#: A service of its own: takes address after address but where a file says to hang.
OTHER = """\
#!/bin/sh
[ "$1" = takeip ] || exit 0
if [ -e {directory}/hang-all ] || [ -e {directory}/hang-"$3" ]; then sleep 1000; fi
"""


def with_other_service(make_lab: MakeLab, limit: int) -> Lab:
    """FTP and a second service, 45.other, on all nodes; scripts have ``limit`` seconds."""
    settings = f"[tunables]\nMonitorInterval = 3600\nEventTimeout = {limit}\nNoIPFailback = 1"
    lab = make_lab(services=["vsftpd"], settings=settings, daemons=False)
    for node in lab.layout.node_names:
        lab.write_script(node, "45.other", OTHER.format(directory=lab.node_directory(node)))
    lab.start_daemons()
    lab.wait_served()
    return lab


def busiest(lab: Lab) -> tuple[str, tuple[str, ...], list[str]]:
    """The node that serves most addresses, these, and the other nodes."""
    node = max(lab.layout.node_names, key=lambda name: len(addresses_of(lab, name)))
    return node, addresses_of(lab, node), [name for name in lab.layout.node_names if name != node]


def ftp_greets(lab: Lab, address: str) -> bool:
    """Whether an FTP server answers at the address."""

    def greeting() -> bytes:
        with socket.create_connection((address, 21), timeout=10) as client:
            return client.recv(100)

    return namespaces.inside(lab.layout.client, greeting).startswith(b"220")


def test_a_service_that_cannot_take_one_address_holds_up_the_others_for_one_time_limit(make_lab: MakeLab) -> None:
    limit = 4
    lab = with_other_service(make_lab, limit)
    leaving, (hung, *others), (first, _) = busiest(lab)
    assert others
    for node in lab.layout.node_names:
        tell(lab, node, f"hang-{hung}")
    began = time.monotonic()
    locum(lab, first, "node", "stop", leaving, "--no-wait")
    wait_moved(lab, tuple(others), leaving, limit=60)
    print(f"the others were served elsewhere after {time.monotonic() - began:.2f} s; scripts may take {limit} s")
    assert all(ftp_greets(lab, address) for address in others)
    assert hung not in lab.served()
    for node in lab.layout.node_names:
        tell(lab, node, f"hang-{hung}", None)
    wait_moved(lab, (hung,), leaving, limit=60)


def test_a_node_where_every_take_hangs_holds_up_all_addresses_for_one_time_limit(make_lab: MakeLab) -> None:
    limit = 4
    lab = with_other_service(make_lab, limit)
    leaving, moving, (bad, good) = busiest(lab)
    assert len(moving) > 1
    tell(lab, bad, "hang-all")
    began = time.monotonic()
    locum(lab, bad, "node", "stop", leaving, "--no-wait")
    wait_moved(lab, moving, leaving, limit=60)
    print(f"all were served by {good} after {time.monotonic() - began:.2f} s; scripts may take {limit} s")
    assert all(lab.served()[address] == good for address in moving)


def test_a_failure_that_is_tolerated_once_is_looked_at_again_soon(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=2, addresses=2, services=["generic"], settings=NO_POLL, daemons=False)
    well = lab.directory / "well"
    well.touch()
    table = f'[scripts."71.other"]\nmanage = false\nfailures = 3\ncheck = "test -e {well}"\n'
    for node in lab.layout.node_names:
        script = (lab.node_directory(node) / "events" / "70.service").read_text()
        lab.write_script(node, "71.other", script)
        config = lab.node_directory(node) / "config.toml"
        config.write_text(f"{config.read_text()}\n{table}")
    lab.start_daemons()
    lab.wait_served()
    well.unlink()
    lab.check_services("n1")
    began = time.monotonic()
    report = wait_state(lab, "n1", "UNHEALTHY", limit=30)
    print(f"three failures in a row took {time.monotonic() - began:.2f} s, though monitor runs once an hour")
    assert "71.other" in report.reason
