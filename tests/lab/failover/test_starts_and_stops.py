"""Daemons that start, stop, are killed and start again, and those that must not start."""

from __future__ import annotations

import signal
import time

import pytest

from locum.clock import boottime
from locum_lab import gaps, processes
from tests.lab.clusters import (
    addresses_of,
    check_kernels,
    forget_events,
    locum,
    node_report,
    seen,
    tell,
    wait_moved,
    wait_state,
)
from tests.lab.failover.scene import Cluster, watched

pytestmark = pytest.mark.lab


def test_i1_restart_after_kill_all_starts_from_a_clean_slate(cluster: Cluster) -> None:
    lab = cluster(hold=5.0)
    mine = addresses_of(lab, "n1")
    with watched(lab):
        lab.fault("n1", "kill-all")
        assert set(lab.configured("n1")) == set(mine)  # nobody is left to remove them
        lab.heal("n1")
        # The others still believe in the old incarnation for a while; the new one's own answer counts.
        lab.wait_for("the new daemon", lambda: node_report(lab, "n1", asked="n1") is not None)
        lab.wait_served()
    check_kernels(lab)


def test_i1_a_new_start_removes_what_the_configuration_has_no_more(cluster: Cluster) -> None:
    """The configuration was edited, and the daemon died before it read it: the new one's gate does not judge what it
    does not know, and its claims are given up."""
    lab = cluster(hold=5.0)
    mine = addresses_of(lab, "n1")
    address = next(a for a in mine if ":" not in a)
    foreign = "10.77.0.250/24"
    with watched(lab):
        lab.fault("n1", "kill-all")
        path = lab.node_directory("n1") / "public_addresses"
        lines = path.read_text().splitlines()
        path.write_text("".join(f"{line}\n" for line in lines if not line.startswith(f"{address}/")))
        # What was never Locum's, or is somebody's for good, stays.
        assert lab.run("n1", ["ip", "address", "add", foreign, "dev", "eth1"]).returncode == 0
        lab.heal("n1")
        lab.wait_for("the new daemon", lambda: node_report(lab, "n1", asked="n1") is not None)
        assert f" {address}/" not in lab.run("n1", ["ip", "address"]).stdout
        lab.wait_served()
    assert lab.served()[address] != "n1"
    assert f" {foreign} " in lab.run("n1", ["ip", "address"]).stdout


def test_clean_stop_fails_over_first(cluster: Cluster) -> None:
    lab = cluster(hold=5.0)
    mine = addresses_of(lab, "n2")
    forget_events(lab)
    with watched(lab) as watching:
        start = boottime()
        lab.stop_daemon("n2")
        assert lab.configured("n2") == {}
        wait_moved(lab, mine, "n2")
        time.sleep(0.5)
        end = boottime()
    (shutdown,) = seen(lab, "n2", "shutdown")
    released = seen(lab, "n2", "releaseip")
    assert {one.arguments[1] for one in released} == set(mine)
    taken = [one for node in ("n1", "n3") for one in seen(lab, node, "takeip") if one.arguments[1] in mine]
    assert {one.arguments[1] for one in taken} == set(mine)
    assert max(one.ended for one in taken) <= shutdown.began, "shutdown ran before the addresses were served elsewhere"
    # Nobody waits for the end of a hold, which is 5 s here.
    assert max(gap.seconds for gap in gaps.longest(watching.attempts, start, end).values()) < 3.0
    assert wait_state(lab, "n2", "DISCONNECTED")
    lab.start_daemon("n2")
    lab.wait_served()


def test_a_daemon_can_be_started_as_soon_as_shutdown_has_returned(cluster: Cluster) -> None:
    lab = cluster()
    for _ in range(6):
        assert locum(lab, "n2", "shutdown") == "the daemon has ended\n"
        lab.start_daemon("n2")
        wait_state(lab, "n2", "OK")
    assert "another Locum daemon" not in lab.daemon_log("n2").read_text()


def test_a_shutdown_is_carried_out_though_the_agent_dies_in_its_midst(cluster: Cluster) -> None:
    lab = cluster()
    tell(lab, "n2", "slow-shutdown", "4")
    locum(lab, "n2", "shutdown", "--no-wait")
    lab.wait_for("the node to leave", lambda: (report := node_report(lab, "n2", "n1")) and report.leaving)
    agent = lab.agent("n2")
    assert agent is not None
    processes.send(agent, signal.SIGKILL)
    lab.wait_for("the end of the daemon", lambda: lab.ours("n2") == ())
    lab.wait_for("its addresses elsewhere", lambda: set(lab.served().values()) == {"n1", "n3"})


def test_i6_no_address_before_startup_has_succeeded(cluster: Cluster) -> None:
    lab = cluster(wait=False)
    lab.wait_served()
    lab.stop_daemon("n1")
    tell(lab, "n1", "fail-startup", "1")
    forget_events(lab)
    lab.start_daemon("n1")
    lab.wait_for("startup to be tried twice", lambda: len(seen(lab, "n1", "startup")) >= 2)
    assert addresses_of(lab, "n1") == ()
    assert seen(lab, "n1", "takeip") == []
    report = node_report(lab, "n1")
    assert report is not None
    assert report.state != "OK"
    tell(lab, "n1", "fail-startup", None)
    lab.wait_served()
    first_take = seen(lab, "n1", "takeip")[0]
    assert seen(lab, "n1", "startup")[-1].ended <= first_take.began
    assert seen(lab, "n1", "monitor")[0].ended <= first_take.began


def test_a_second_daemon_with_the_same_files_is_refused(cluster: Cluster) -> None:
    lab = cluster(nodes=1, addresses=2)
    before = lab.configured("n1")
    config = str(lab.node_directory("n1") / "config.toml")
    message = locum(lab, "n1", "daemon", "--config", config, status=2)
    assert str(lab.node_directory("n1") / "runtime") in message
    assert lab.configured("n1") == before
    assert lab.wait_served()


def test_i1_a_second_daemon_in_the_same_network_is_refused(cluster: Cluster) -> None:
    """With files of its own, as somebody does who tries two nodes on one machine: both would need the one gate."""
    lab = cluster(nodes=2, addresses=2)
    lab.stop_daemon("n2")
    before, guard = lab.configured("n1"), lab.state.nodes["n1"].daemon
    assert guard is not None
    config = str(lab.node_directory("n2") / "config.toml")
    message = locum(lab, "n1", "daemon", "--config", config, status=2)
    assert f"pid {guard.pid}" in message
    assert "a network namespace of its own" in message
    assert lab.configured("n1") == before
    lab.start_daemon("n2")
    lab.wait_served()


def test_the_second_of_two_nodes_with_one_name_waits_and_says_so(cluster: Cluster) -> None:
    lab = cluster(nodes=2, addresses=2)
    lab.stop_daemon("n2")
    config = lab.node_directory("n2") / "config.toml"
    config.write_text(config.read_text().replace('name = "n2"', 'name = "n1"').replace("number = 2", "number = 1"))
    lab.start_daemon("n2")
    with watched(lab):
        refusal = "another node named 'n1' is alive"
        lab.wait_for("the second n1 to say why it waits", lambda: refusal in lab.daemon_log("n2").read_text())
        assert any(refusal in warning for warning in lab.status("n2").warnings)
    assert addresses_of(lab, "n1") == ("10.77.0.2", "fd77::2")


def test_the_daemon_ends_cleanly_on_sigterm_when_it_is_the_last(cluster: Cluster) -> None:
    lab = cluster(nodes=1, addresses=2)
    ours = lab.ours("n1")
    guard = lab.state.nodes["n1"].daemon
    assert guard is not None
    processes.send(guard, signal.SIGTERM)
    assert processes.wait_gone(ours, 30) == ()
    assert lab.configured("n1") == {}
    assert lab.ours("n1") == ()
