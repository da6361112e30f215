"""Files fetched by FTP, SMB and HTTP through real faults, by ordinary clients that retry by themselves."""

from __future__ import annotations

import ftplib
import json

import pytest

from locum_lab import namespaces, transfers
from locum_lab.lab import Lab
from locum_lab.service_table import measure
from locum_lab.transfers import CLIENTS, Transfer
from locum_lab.vsftpd import PORT as FTP_PORT
from tests.lab.clusters import addresses_of, locum, wait_moved
from tests.lab.conftest import MakeLab

pytestmark = [pytest.mark.lab, pytest.mark.long]

#: No test here waits for a poll: what is noticed is noticed by an event.
SLOW_POLL = "[tunables]\nMonitorInterval = 15\nNoIPFailback = 1"


@pytest.fixture
def cluster(make_lab: MakeLab, request: pytest.FixtureRequest) -> Lab:
    """A cluster with the services that the test's ``protocol`` needs."""
    protocol = getattr(request, "param", None) or request.node.callspec.params["protocol"]
    lab = make_lab(services=CLIENTS[protocol].services, settings=SLOW_POLL, hold=1.0)
    lab.wait_served()
    transfers.slow_down(lab)
    return lab


def connections(lab: Lab, node: str, address: str) -> list[str]:
    """The node's TCP sockets that belong to ``address``, whatever their state."""
    shown = lab.run(node, ["ss", "--no-header", "--tcp", "--numeric", "--all"]).stdout.splitlines()
    return [line for line in shown if line.split()[3].replace("::ffff:", "").rpartition(":")[0].strip("[]") == address]


@pytest.mark.parametrize("protocol", CLIENTS)
@pytest.mark.parametrize("fault", ["planned move", "cut host"])
def test_a_transfer_goes_on_at_another_node(cluster: Lab, protocol: str, fault: str) -> None:
    # With patience of its own, what makes the client go on is what it is told.
    seen = measure(cluster, protocol, fault, limit=300, client_timeout=120)
    print(seen)
    assert seen.intact, seen.problem
    assert not {"Connection timed out", "timed out", "NT_STATUS_IO_TIMEOUT"} & set(seen.errors), seen


@pytest.mark.parametrize("protocol", CLIENTS)
def test_after_a_move_no_connection_is_left_on_the_old_node(cluster: Lab, protocol: str) -> None:
    lab = cluster
    address = lab.layout.public_addresses[0].address
    holder = lab.served()[address]
    other = next(node for node in lab.layout.node_names if node != holder)
    with Transfer(lab, protocol, address) as transfer:
        transfer.wait_under_way()
        assert connections(lab, holder, address)
        locum(lab, other, "ip", "move", address, other)
        lab.wait_for("the old node to have no connection left", lambda: not connections(lab, holder, address))
        # Back again, while the client may still believe in the old connection: it must not come back to life.
        locum(lab, holder, "ip", "move", address, holder)
        transfer.wait_end()
        assert transfer.intact(), transfer.output()


@pytest.mark.parametrize("cluster", ["FTP"], indirect=True)
def test_an_ftp_client_in_python_resumes_where_it_was(cluster: Lab) -> None:
    lab = cluster
    content = bytes(range(256)) * 40_000
    (lab.shared / "resumed").write_bytes(content)
    address = lab.layout.public_addresses[1].address  # IPv6
    holder = lab.served()[address]
    other = next(node for node in lab.layout.node_names if node != holder)
    got = bytearray()
    interruptions = 0

    def fetch() -> None:
        """Fetch until it is complete; the first piece causes the move."""
        nonlocal interruptions
        while len(got) < len(content):
            try:
                with ftplib.FTP(timeout=5) as ftp:
                    ftp.connect(address, FTP_PORT)
                    ftp.login()
                    ftp.voidcmd("TYPE I")
                    data = ftp.transfercmd("RETR resumed", rest=len(got) or None)
                    while piece := data.recv(65536):
                        got.extend(piece)
                        if interruptions == 0 and len(got) > len(content) // 4:
                            interruptions = 1
                            locum(lab, other, "ip", "move", address, other)
            except (OSError, ftplib.Error, EOFError):
                interruptions += 1

    namespaces.inside(lab.layout.client, fetch)
    assert bytes(got) == content
    assert interruptions >= 2, "the move interrupted nothing"
    assert lab.served()[address] == other


@pytest.mark.parametrize("cluster", ["FTP"], indirect=True)
def test_a_move_leaves_sessions_over_other_addresses_alone(cluster: Lab) -> None:
    lab = cluster
    node, stays, goes = next(
        (node, *addresses_of(lab, node)[:2]) for node in lab.layout.node_names if len(addresses_of(lab, node)) >= 2
    )
    other = next(name for name in lab.layout.node_names if name != node)
    with Transfer(lab, "FTP", stays) as transfer:
        transfer.wait_under_way()
        locum(lab, other, "ip", "move", goes, other)
        wait_moved(lab, (goes,), node)
        transfer.wait_end()
        assert transfer.intact()
        assert not transfer.complaints()


@pytest.mark.parametrize("cluster", ["FTP"], indirect=True)
def test_recovered_acts_once_and_only_where_addresses_moved(cluster: Lab) -> None:
    lab = cluster
    address = lab.layout.public_addresses[0].address
    holder = lab.served()[address]
    other, third = (node for node in lab.layout.node_names if node != holder)
    locum(lab, other, "ip", "move", address, other)
    lab.wait_served()

    def notes(node: str) -> bool:
        return (lab.node_directory(node) / "state" / "scripts" / "40.vsftpd" / "moves").exists()

    lab.wait_for("the notes to be dealt with", lambda: not any(notes(node) for node in (holder, other, third)))
    status = json.loads(locum(lab, third, "event", "status", "recovered", "--json"))
    assert "ended" not in json.dumps(status)


def test_the_client_of_a_lab_says_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(Exception, match="not installed"):
        transfers.named("SMB")
