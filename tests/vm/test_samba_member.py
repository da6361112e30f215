"""50.samba on machines that are members of a Samba domain, whose controller is a machine of its own.

An emulated guest is slow: no test asks how long anything takes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from locum.clock import boottime
from locum_lab import domain
from locum_lab.vm.watching import Watching
from tests.lab.services import membership
from tests.vm.conftest import MakeVmLab
from tests.vm.healing import healthy
from tests.vm.samba_members import COMMAND, CONTROLLER, SETTINGS, WITHIN, Members


@pytest.fixture(scope="module")
def domain_lab(make_vm_lab: MakeVmLab, tmp_path_factory: pytest.TempPathFactory) -> Members:
    """Two members, n1 and n2, and their domain controller c1."""
    membership.require()
    return Members(make_vm_lab(clients=1, settings=SETTINGS, locum=False), tmp_path_factory.mktemp("clients"))


@pytest.fixture
def members(domain_lab: Members) -> Iterator[Members]:
    """The members with every address served, before the test and after it."""
    with healthy(domain_lab.lab):
        yield domain_lab


def _check_logins(members: Members, *nodes: str) -> None:
    """A user logs in with Kerberos and with NTLM at every address of these nodes."""
    served = {address: node for address, node in members.lab.served().items() if node in nodes}
    assert set(served.values()) == set(nodes)
    for address in served:
        for kerberos in (True, False):
            assert not (problem := members.logs_in(address, kerberos=kerberos)), problem


def test_users_of_the_domain_reach_every_node_by_the_public_name(members: Members) -> None:
    nodes = members.lab.layout.node_names
    _check_logins(members, *nodes)
    users = set()
    for node in nodes:
        machine = members.lab.machine(node)
        machine.sh("systemctl is-active smbd winbind && wbinfo --check-secret", timeout=COMMAND)
        users.add(machine.sh(f"id -u '{domain.WORKGROUP}\\{domain.USER}'", timeout=COMMAND))
    assert len(users) == 1
    assert members.lab.machine(CONTROLLER).sh("systemctl is-active samba-ad-dc").strip() == "active"


def test_i1_a_client_goes_on_at_another_node_after_a_planned_move(members: Members) -> None:
    other = next(node for node in members.lab.layout.node_names if node != members.holder)
    with members.session("planned") as session, Watching(members.lab) as watching:
        began = boottime()
        members.lab.machine("n1").sh(f"locum ip move {members.first} {other}")
        session.check_went_on(began, members.lab.shared)
        assert members.holder == other
        members.lab.machine("n1").sh(f"locum ip auto {members.first}")
        assert watching.end().violations == 0


def test_addresses_move_when_winbindd_dies(members: Members) -> None:
    machine = members.lab.machine(members.holder)
    since = {node.name: node.sh("date +%s").strip() for node in members.nodes}
    with members.session("winbindd") as session:
        began = boottime()
        machine.sh("systemctl kill --signal KILL winbind")
        session.check_went_on(began, members.lab.shared)
        members.lab.wait_served()
    machine.sh("systemctl is-active winbind && wbinfo --check-secret", timeout=COMMAND)
    # The leader's journal has the reason.
    said = [node.sh(f"journalctl --unit locum --output cat --since @{since[node.name]}") for node in members.nodes]
    assert any(f"{machine.name} is UNHEALTHY (50.samba " in text for text in said)
    assert any("starting it again" in text for text in said)


def test_no_node_fails_while_the_domain_controller_is_out_of_reach(members: Members) -> None:
    """Every node misses it at the same moment: nothing can be won by a move, and everything lost by no service."""
    lab = members.lab
    served, holder = lab.served(), lab.machine(members.holder)
    with members.session("outage") as session, ThreadPoolExecutor() as threads:
        members.set_reachable(False)
        began = boottime()
        try:
            # It is missed.
            asking = threads.submit(holder.run, ["wbinfo", "--ping-dc"], timeout=COMMAND)
            # Meanwhile every node runs monitor some times.
            while boottime() < began + 60 or not asking.done():
                report = lab.status()
                assert {node.state for node in report.nodes} == {"OK"}, report.nodes
                assert lab.served() == served
                time.sleep(1)
            assert asking.result().status != 0
            # Sessions do not need it.
            session.wait_wrote(boottime())
            assert session.errors_since(began) == []
        finally:
            members.set_reachable(True)
    lab.wait_for("a login", lambda: not members.logs_in(members.first, kerberos=False), WITHIN)


def test_i1_a_client_goes_on_at_another_node_after_a_loss_of_power(members: Members) -> None:
    lab, holder = members.lab, members.holder
    with members.session("power") as session, Watching(lab) as watching:
        began = boottime()
        lab.cut_power(holder)
        session.check_went_on(began, lab.shared)
        lab.power_on(holder)
        lab.machine(holder).wait_booted()
        lab.wait_served()
        assert watching.end().violations == 0
    lab.machine(holder).sh("wbinfo --check-secret", timeout=COMMAND)
    _check_logins(members, holder)
