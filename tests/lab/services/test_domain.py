"""50.samba on members of a domain: smbd, winbindd and a domain controller of Samba, and clients with Kerberos and NTLM.

The nodes are members under their own names; clients use the service's public name. One domain for all tests.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from locum.clock import boottime
from locum_lab import domain, processes
from locum_lab.lab import Lab, down
from locum_lab.layout import Layout
from tests.lab import clusters, conftest
from tests.lab.clusters import locum, wait_state
from tests.lab.services import membership
from tests.lab.services.membership import Membership

pytestmark = [pytest.mark.lab, pytest.mark.long]


@pytest.fixture(scope="module")
def domain_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Membership]:
    membership.require()
    name = f"t{os.getpid()}-domain"
    layout = Layout(name=name, nodes=2, addresses=4, hold=2.0)
    tunables = "[tunables]\nMonitorInterval = 1\nHealthyDelay = 0\nDampingWindow = 1\n"
    try:
        lab = Lab.up(layout, services=(), daemons=False, settings=tunables, owner=processes.find(os.getpid()))
        made = Membership(lab, tmp_path_factory.mktemp("domain"))
        made.build()
        clusters.install_recorder(lab)
        lab.start_daemons()
        yield made
        down(name)
        made.end()
    finally:
        down(name)


@pytest.fixture
def members(domain_lab: Membership, request: pytest.FixtureRequest) -> Membership:
    """The domain, settled."""
    request.node.stash[conftest._LABS] = [domain_lab.lab]
    domain_lab.lab.wait_served(limit=120)
    return domain_lab


def _first(members: Membership) -> str:
    """The address of the session."""
    return members.lab.layout.public_addresses[0].address


def _holder(members: Membership) -> str:
    return members.lab.served()[_first(members)]


def _other(members: Membership) -> str:
    return next(node for node in members.lab.layout.node_names if node != _holder(members))


def _check_login(members: Membership, address: str | None = None) -> None:
    """A user logs in with Kerberos and with NTLM."""
    for kerberos in (True, False):
        done = members.connect("ls", kerberos=kerberos, address=address)
        assert done.returncode == 0, f"{address}, Kerberos {kerberos}: {done.stdout}{done.stderr}"


def _monitors(members: Membership, since: float) -> int:
    """How many times each node has run monitor since that time, at least."""
    return min(
        sum(run.began > since for run in clusters.seen(members.lab, node, "monitor"))
        for node in members.lab.layout.node_names
    )


def test_users_of_the_domain_reach_every_node_by_the_public_name(members: Membership) -> None:
    _check_login(members)
    for public in members.lab.layout.public_addresses:
        _check_login(members, public.address)
    user = f"{domain.WORKGROUP}\\{domain.USER}"
    assert len({members.on(node, "id", "-u", user) for node in members.lab.layout.node_names}) == 1
    for node in members.lab.layout.node_names:
        members.on(node, "wbinfo", "--check-secret")


def test_a_node_changes_its_password_without_the_others(members: Membership) -> None:
    """winbindd does this every week. Neither another node nor the key of the service depends on it."""
    members.on("n1", "wbinfo", "--change-secret")
    for node in members.lab.layout.node_names:
        members.on(node, "wbinfo", "--check-secret")
    for public in members.lab.layout.public_addresses:
        _check_login(members, public.address)


def test_a_client_goes_on_at_another_node_after_a_planned_move(members: Membership) -> None:
    other = _other(members)
    with members.session("planned") as session:
        began = boottime()
        locum(members.lab, "n1", "ip", "move", _first(members), other)
        try:
            session.check_went_on(began, members.lab.shared)
            assert _holder(members) == other
        finally:
            locum(members.lab, "n1", "ip", "auto", _first(members))


def test_a_client_goes_on_at_another_node_when_its_node_is_cut_off(members: Membership) -> None:
    holder = _holder(members)
    with members.session("cut") as session:
        began = boottime()
        members.lab.fault(holder, "cut")
        try:
            session.check_went_on(began, members.lab.shared)
        finally:
            members.lab.heal(holder)


def test_addresses_move_when_winbindd_dies(members: Membership) -> None:
    holder = _holder(members)

    def winbindd() -> list[processes.Process]:
        found = members.lab.service_processes(holder, "samba")
        return [process for process in found if processes.name_of(process.pid).startswith("winbindd")]

    with members.session("winbindd") as session:
        began = boottime()
        assert processes.kill_all(winbindd)
        reason = wait_state(members.lab, holder, "UNHEALTHY").reason
        # The second when monitor was asking winbindd at that moment.
        assert "winbind is not running" in reason or "its service has ended" in reason
        session.check_went_on(began, members.lab.shared)
        members.lab.wait_served(limit=120)
    members.on(holder, "wbinfo", "--check-secret")


def test_no_node_fails_while_the_domain_controller_is_out_of_reach(members: Membership) -> None:
    """Every node misses it at the same moment: nothing can be won by a move, and everything lost by no service."""
    with members.session("outage") as session:
        served = members.lab.served()
        members.set_reachable(False)
        began, clock = boottime(), time.time()
        try:
            # It is missed: a user whom no node knows wants to log in.
            with subprocess.Popen(
                members.lab.command(_holder(members), [members.program(_holder(members)), "wbinfo", "--ping-dc"]),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            ) as asking:
                while _monitors(members, clock) < 10 or asking.poll() is None:
                    report = members.lab.status()
                    assert {node.state for node in report.nodes} == {"OK"}, report.nodes
                    assert members.lab.served() == served
                    time.sleep(0.2)
                assert asking.returncode != 0
            # Sessions do not need it.
            session.wait_wrote(boottime())
            assert session.errors_since(began) == []
        finally:
            members.set_reachable(True)
    members.lab.wait_for("a login", lambda: members.connect("ls", kerberos=False).returncode == 0, 300)


def test_a_node_starts_while_the_domain_controller_is_out_of_reach(members: Membership) -> None:
    other = _other(members)
    members.lab.stop_daemon(other)
    members.set_reachable(False)
    try:
        members.lab.start_daemon(other)
        members.lab.wait_served(limit=300)
        assert members.lab.run(other, [members.program(other), "timeout", "5", "wbinfo", "--ping-dc"]).returncode != 0
    finally:
        members.set_reachable(True)
    address = next(address for address, node in members.lab.served().items() if node == other)
    members.lab.wait_for("a login", lambda: members.connect("ls", kerberos=False, address=address).returncode == 0, 300)
    _check_login(members, address)
