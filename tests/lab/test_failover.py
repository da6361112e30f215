"""Failover with real daemons, real faults and a real observer: what each fault does, and that I1 holds throughout."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from locum.clock import boottime
from locum_lab import gaps, namespaces, processes
from locum_lab.lab import Lab
from locum_lab.watching import Watching

from .clusters import (
    address_report,
    addresses_of,
    check_kernels,
    forget_events,
    install_recorder,
    locum,
    locum_json,
    node_report,
    seen,
    tell,
    wait_moved,
    wait_state,
)
from .conftest import MakeLab

pytestmark = pytest.mark.lab

Cluster = Callable[..., Lab]

LOCUM = (sys.executable, "-m", "locum.cli.main")


@pytest.fixture
def cluster(make_lab: MakeLab) -> Cluster:
    """Builds a cluster whose nodes have the recording script, and waits until it serves everything."""

    def make(wait: bool = True, **options: object) -> Lab:
        lab = make_lab(**{"hold": 1.0, **options}, daemons=False)  # type: ignore[arg-type]
        install_recorder(lab)
        lab.start_daemons()
        if wait:
            lab.wait_served()
        return lab

    return make


@contextlib.contextmanager
def watched(lab: Lab) -> Iterator[Watching]:
    """The observer and the client while the block runs; at the end, nobody may have seen two holders (I1)."""
    with Watching(lab) as watching:
        lab.wait_for("every address to be answered", lambda: all_answered(lab, watching))
        yield watching
        last = watching.end()
        found = [record for record in watching.records if record.event == "violation"]
        assert last.violations == 0, f"{last.violations} times two holders: {found}"


def all_answered(lab: Lab, watching: Watching) -> bool:
    """Whether each address was answered at least once."""
    watching.read()
    return len({attempt.address for attempt in watching.attempts if attempt.ok}) == lab.layout.addresses


def test_a_new_cluster_serves_every_address_once_and_evenly(cluster: Cluster) -> None:
    lab = cluster()
    wait_even(lab)
    report = lab.status()
    assert {node.state for node in report.nodes} == {"OK"}
    assert report.leader in lab.layout.node_names
    check_kernels(lab)
    as_json = locum_json(lab, "n2", "status")
    assert {"nodes", "addresses", "leader", "epoch"} <= set(as_json)
    with watched(lab):
        time.sleep(0.5)


@pytest.mark.parametrize(
    ("fault", "states"),
    [
        ("service", ("UNHEALTHY",)),
        ("link", ("UNHEALTHY",)),
        ("cut", ("DISCONNECTED",)),
        ("cut-private", ("DISCONNECTED",)),
        ("kill-all", ("DISCONNECTED",)),
        ("freeze", ("DISCONNECTED",)),
    ],
)
@pytest.mark.parametrize("leader", [False, True], ids=["follower", "leader"])
def test_i1_a_fault_moves_the_addresses_to_one_holder_each(
    cluster: Cluster, fault: str, states: tuple[str, ...], leader: bool
) -> None:
    lab = cluster()
    leading = lab.status().leader
    victim = next(node for node in lab.layout.node_names if (node == leading) == leader)
    mine = addresses_of(lab, victim)
    others = {address: holder for address, holder in lab.served().items() if holder != victim}
    assert mine
    with watched(lab) as watching:
        start = lab.fault(victim, fault)
        wait_moved(lab, mine, victim)
        wait_state(lab, victim, *states)
        served = lab.served()
        assert {address: served[address] for address in others} == others, "an address moved without need"
        lab.wait_for("the client to be answered by the others", lambda: answered_elsewhere(watching, mine, victim))
        healed = boottime()
        lab.heal()
        if fault == "service":
            locum(lab, victim, "event", "run", "monitor")
        lab.wait_served()
        wait_even(lab)
    found = gaps.longest(watching.attempts, start, healed)
    assert [found[address] for address in others if found[address].failed] == [], "others were interrupted"
    lab.wait_for("the kernels to follow", lambda: kernels_are_right(lab))


def wait_even(lab: Lab) -> None:
    """Wait until the three nodes serve two addresses each."""

    def counts() -> bool:
        return sorted(len(addresses_of(lab, node)) for node in lab.layout.node_names) == [2, 2, 2]

    lab.wait_for("two addresses on each node", counts)


def answered_elsewhere(watching: Watching, addresses: tuple[str, ...], victim: str) -> bool:
    """Whether the client's last answer for each address came from another node than the victim."""
    watching.read()
    last = {attempt.address: attempt.node for attempt in watching.attempts if attempt.ok}
    return all(last[address] != victim for address in addresses)


def kernels_are_right(lab: Lab) -> bool:
    """As check_kernels, as a question."""
    try:
        check_kernels(lab)
    except AssertionError:
        return False
    return True


def test_kill_of_the_agent_moves_and_interrupts_nothing(cluster: Cluster) -> None:
    lab = cluster()
    before = lab.status()
    with watched(lab) as watching:
        for node in lab.layout.node_names:
            old, report = lab.agent(node), node_report(lab, node)
            assert old is not None
            assert report is not None
            start = lab.fault(node, "kill-agent")

            def back(node: str = node, old: processes.Process = old) -> bool:
                return lab.agent(node) not in (None, old) and node_report(lab, node, asked=node) is not None

            lab.wait_for(f"the agent of {node}", back)
            seconds = boottime() - start
            after = node_report(lab, node, asked=node)
            assert after is not None
            assert after.incarnation == report.incarnation, "the agent did not adopt its incarnation"
            print(f"{node}: agent back and answering after {seconds:.2f} s")
        lab.wait_served()
    failed = [attempt for attempt in watching.attempts if not attempt.ok]
    assert not failed
    after_all = lab.status()
    assert after_all.epoch == before.epoch
    assert {a.address: a.node for a in after_all.addresses} == {a.address: a.node for a in before.addresses}


def test_i1_frozen_for_longer_than_its_hold_and_thawed_it_does_nothing_stale(cluster: Cluster) -> None:
    lab = cluster()
    victim = lab.status().leader
    assert victim is not None
    mine = addresses_of(lab, victim)
    with watched(lab):
        lab.fault(victim, "freeze")
        wait_moved(lab, mine, victim)
        epoch = lab.status().epoch
        moved = lab.served()
        lab.heal(victim)
        wait_state(lab, victim, "OK")
        lab.wait_served()
    assert lab.status().epoch >= epoch
    assert set(moved) == set(lab.served())
    check_kernels(lab)


def test_i1_a_short_freeze_moves_nothing(cluster: Cluster) -> None:
    lab = cluster(hold=3.0)
    before = lab.status()
    with watched(lab) as watching:
        lab.fault("n1", "freeze")
        time.sleep(0.5)
        lab.heal("n1")
        lab.wait_served()
    assert [attempt for attempt in watching.attempts if not attempt.ok] == []
    assert lab.status().epoch == before.epoch


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


def test_the_store_away_for_less_than_a_hold_moves_nothing(cluster: Cluster) -> None:
    lab = cluster(hold=3.0)
    before = lab.status()
    with watched(lab) as watching:
        for node in lab.layout.node_names:
            lab.fault(node, "cut-private")
        time.sleep(1.0)
        lab.heal()
        lab.wait_served()
    assert [attempt for attempt in watching.attempts if not attempt.ok] == []
    assert lab.served() == {a.address: a.node for a in before.addresses}


def test_i1_the_store_away_for_longer_silences_everybody_and_its_return_brings_all_back(cluster: Cluster) -> None:
    lab = cluster()
    with watched(lab) as watching:
        for node in lab.layout.node_names:
            lab.fault(node, "cut-private")
        lab.wait_for("silence", lambda: all_silent(lab, watching))
        lab.heal()
        lab.wait_served()
        start = boottime()
        lab.wait_for("answers", lambda: answered_since(lab, watching, start))
    check_kernels(lab)


def test_an_outage_of_the_store_for_longer_than_the_hold_moves_nothing(cluster: Cluster) -> None:
    """It must not be taken for the deaths of the nodes: all are silent from the end of their holds, and speak again."""
    lab = cluster()
    before = lab.served()
    with watched(lab) as watching:
        lab.fault("n1", "freeze-store")
        lab.wait_for("silence", lambda: all_silent(lab, watching))
        time.sleep(2 * lab.layout.hold)
        lab.heal()
        lab.wait_served()
        start = boottime()
        lab.wait_for("answers", lambda: answered_since(lab, watching, start))
    assert lab.served() == before
    for node in lab.layout.node_names:
        assert "expiring it" not in lab.daemon_log(node).read_text()
    check_kernels(lab)


def all_silent(lab: Lab, watching: Watching) -> bool:
    """Whether the observer hears nobody for any address."""
    watching.read()
    heard = dict.fromkeys((public.address for public in lab.layout.public_addresses), True)
    for record in watching.records:
        if record.event in ("speaks", "silent"):
            heard[record.address] = record.event == "speaks"
    return not any(heard.values())


def answered_since(lab: Lab, watching: Watching, start: float) -> bool:
    """Whether each address was answered after ``start``."""
    watching.read()
    found = {attempt.address for attempt in watching.attempts if attempt.ok and attempt.t > start}
    return len(found) == lab.layout.addresses


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


def test_a_node_that_is_cut_off_says_so_whatever_it_is_asked(cluster: Cluster) -> None:
    lab = cluster()
    assert locum(lab, "n2", "status", "--check").startswith("LOCUM OK - 6 public addresses, all served")
    lab.fault("n2", "cut-private")
    lab.wait_for("n2 to notice", lambda: lab.status("n2").stale)
    for command in ("status", "ip", "node", "tunable", "tunable get MonitorInterval"):
        said = locum(lab, "n2", *command.split(), status=3)
        assert "was true at" in said, said
        shown = json.loads(lab.run("n2", [*LOCUM, *command.split(), "--json"]).stdout)
        assert shown["stale"], command
        assert shown["age"] > 0
    assert "LOCUM UNKNOWN - n2 is cut off" in locum(lab, "n2", "status", "--check", status=3)
    # What is read from the store itself cannot be had.
    locum(lab, "n2", "connections", "list", status=1)
    lab.wait_for("the others to serve everything", lambda: set(lab.served().values()) == {"n1", "n3"})
    lab.wait_for("n1 to say so", lambda: lab.run("n1", [*LOCUM, "status", "--check"]).returncode == 0)
    warned = locum(lab, "n1", "status", "--check", "--warnings", status=1)
    assert "n2 is DISCONNECTED" in warned
    for node in ("n1", "n3"):
        locum(lab, "n1", "node", "disable", node, "--no-wait")
    lab.wait_for("addresses without a node", lambda: not lab.served())
    assert "6 of 6 public addresses not served" in locum(lab, "n3", "status", "--check", status=2)
    lab.heal()
    lab.wait_for("n2 to hear again", lambda: not lab.status("n2").stale)
    assert "was true at" not in locum(lab, "n2", "ip")


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


@pytest.mark.parametrize("kind", ["node", "move"])
def test_i2_i3_planned_moves(cluster: Cluster, kind: str) -> None:
    """Release ends before take begins; several takes are followed by one recovered, on every node."""
    lab = cluster(addresses=12)
    before = lab.status()
    mine = addresses_of(lab, "n1")
    assert len(mine) == 4
    moved = mine if kind == "node" else mine[:1]
    forget_events(lab)
    with watched(lab):
        if kind == "node":
            locum(lab, "n2", "node", "disable", "n1")
        else:
            locum(lab, "n3", "ip", "move", moved[0], "n2")
        wait_moved(lab, moved, "n1")
        lab.wait_for("the plan to settle", lambda: lab.status().progress == "settled")
        settled = lab.status()
    assert settled.epoch > before.epoch
    released = {one.arguments[1]: one for one in seen(lab, "n1", "releaseip")}
    assert set(released) == set(moved)
    taken = {}
    for node in ("n2", "n3"):
        for one in seen(lab, node, "takeip"):
            assert one.arguments[1] not in taken, "taken twice"
            taken[one.arguments[1]] = one
    assert set(taken) == set(moved)
    for address in moved:
        interface, _, bits = taken[address].arguments
        assert (interface, bits) == ("eth1", "64" if ":" in address else "24")
        assert released[address].ended <= taken[address].began, f"I2: {address} was taken before it was released"
    last_take = max(one.ended for one in taken.values())
    for node in lab.layout.node_names:
        recovered = seen(lab, node, "recovered")
        assert len(recovered) == settled.epoch - before.epoch, f"I3: {node} saw {recovered}"
        assert recovered[-1].began >= last_take, "I3: recovered before the last take"
        allocated = seen(lab, node, "ipreallocated")
        assert len(allocated) == len(recovered)


def test_i5_no_script_runs_twice_at_once(cluster: Cluster) -> None:
    lab = cluster(settings="[tunables]\nMonitorInterval = 0.2\n")
    for node in lab.layout.node_names:
        tell(lab, node, "slow-monitor", "0.1")
        tell(lab, node, "slow-takeip", "0.05")
    for _ in range(3):
        locum(lab, "n1", "node", "disable", "n2")
        locum(lab, "n1", "node", "enable", "n2")
    lab.wait_served()
    for node in lab.layout.node_names:
        runs = sorted(seen(lab, node), key=lambda one: one.began)
        assert len(runs) > 10
        for one, other in itertools.pairwise(runs):
            assert one.ended <= other.began, f"{node}: {one} and {other} overlap"


def test_a_failing_monitor_moves_the_addresses_and_a_passing_one_brings_the_node_back(cluster: Cluster) -> None:
    lab = cluster(settings="[tunables]\nMonitorInterval = 0.5\n")
    mine = addresses_of(lab, "n3")
    with watched(lab):
        tell(lab, "n3", "fail-monitor", "7")
        report = wait_state(lab, "n3", "UNHEALTHY")
        assert "90.recorder" in report.reason
        wait_moved(lab, mine, "n3")
        assert lab.configured("n3") == {}
        tell(lab, "n3", "fail-monitor", None)
        wait_state(lab, "n3", "OK")
        lab.wait_served()
        wait_even(lab)


def test_i4_a_failing_script_stops_the_event_there(cluster: Cluster) -> None:
    lab = cluster(settings="[tunables]\nMonitorInterval = 0.5\n")
    lab.write_script("n1", "40.fails", '#!/bin/sh\n[ "$1" = monitor ] && exit 3\nexit 0\n')
    report = wait_state(lab, "n1", "UNHEALTHY")
    assert "40.fails" in report.reason
    forget_events(lab)
    time.sleep(1.5)
    assert seen(lab, "n1", "monitor") == []


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


@pytest.mark.parametrize(("command", "undo"), [("stop", "continue"), ("ban", "unban")])
def test_i6_a_node_that_was_stopped_proves_its_services_again(cluster: Cluster, command: str, undo: str) -> None:
    lab = cluster()
    locum(lab, "n2", "node", command, "n1")
    wait_state(lab, "n1", "STOPPED", "BANNED")
    tell(lab, "n1", "fail-monitor")
    forget_events(lab)
    locum(lab, "n2", "node", undo, "n1")
    lab.wait_for("two failed monitors", lambda: len(seen(lab, "n1", "monitor")) >= 2)
    assert wait_state(lab, "n1", "UNHEALTHY")
    assert seen(lab, "n1", "takeip") == []
    tell(lab, "n1", "fail-monitor", None)
    lab.wait_served()


@pytest.mark.parametrize("way", ["fail", "hang"])
def test_i7_the_address_is_gone_whatever_releaseip_does(cluster: Cluster, way: str) -> None:
    lab = cluster(settings="[tunables]\nEventTimeout = 1\n")
    mine = addresses_of(lab, "n1")
    with watched(lab):
        tell(lab, "n1", f"{way}-releaseip")
        locum(lab, "n2", "node", "disable", "n1")
        wait_moved(lab, mine, "n1")
        assert lab.configured("n1") == {}


@pytest.mark.parametrize("way", ["fail", "hang"])
def test_i7_a_take_that_fails_says_why_and_the_address_is_served_elsewhere(cluster: Cluster, way: str) -> None:
    lab = cluster(settings="[tunables]\nEventTimeout = 1\n")
    mine = addresses_of(lab, "n1")

    def n3_alone() -> bool:
        served = lab.served()
        return all(served.get(address) == "n3" for address in mine) and not set(lab.configured("n2")) & set(mine)

    with watched(lab):
        tell(lab, "n2", f"{way}-takeip")
        locum(lab, "n3", "node", "disable", "n1")
        lab.wait_for("n3 to serve them", n3_alone)
    assert "90.recorder" in lab.daemon_log("n2").read_text()


def test_a_node_that_can_take_nothing_costs_the_others_no_service(cluster: Cluster) -> None:
    lab = cluster()
    theirs = addresses_of(lab, "n3")
    with watched(lab) as watching:
        start = boottime()
        tell(lab, "n2", "fail-takeip")
        locum(lab, "n3", "node", "disable", "n1")
        lab.wait_for("n2 to have failed", lambda: "cannot serve" in lab.daemon_log("n2").read_text())
        time.sleep(2.0)
        end = boottime()
    found = gaps.longest(watching.attempts, start, end)
    assert [found[address] for address in theirs if found[address].failed] == []


def test_an_address_removed_by_hand_comes_back(cluster: Cluster) -> None:
    lab = cluster()
    address = addresses_of(lab, "n1")[0]
    with watched(lab):
        remove(lab, "n1", address)
        lab.wait_for("its return", lambda: address in lab.configured("n1"))
    lab.wait_served()
    assert address in addresses_of(lab, "n1")


def remove(lab: Lab, node: str, address: str) -> None:
    """Take an address from a node by hand."""
    done = lab.run(node, ["ip", "address", "del", f"{address}/{64 if ':' in address else 24}", "dev", "eth1"])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("family", [4, 6])
def test_i1_an_address_added_by_hand_on_another_node_never_speaks_and_goes_away(cluster: Cluster, family: int) -> None:
    lab = cluster()
    holder, address = next((n, a) for a, n in lab.served().items() if (":" in a) == (family == 6))
    other = next(node for node in lab.layout.node_names if node != holder)
    extra = ["nodad"] if family == 6 else []
    bits = 64 if family == 6 else 24
    with watched(lab) as watching:
        for _ in range(3):
            done = lab.run(other, ["ip", "address", "add", f"{address}/{bits}", "dev", "eth1", *extra])
            assert done.returncode == 0, done.stderr
            lab.wait_for("it to go away", lambda: address not in lab.configured(other))
    assert {attempt.node for attempt in watching.attempts if attempt.address == address and attempt.ok} == {holder}
    check_kernels(lab)


def test_the_loss_of_a_primary_address_leaves_its_secondaries(cluster: Cluster) -> None:
    lab = cluster(nodes=2, addresses=12)
    mine = [address for address in addresses_of(lab, "n1") if ":" not in address]
    order = [address for address in lab.configured("n1") if address in mine]
    assert len(order) == 3
    with watched(lab) as watching:
        start = boottime()
        locum(lab, "n1", "ip", "move", order[0], "n2")
        lab.wait_for("the move", lambda: lab.served().get(order[0]) == "n2")
        assert {address for address in lab.configured("n1") if address in mine} == set(order[1:])
        remove(lab, "n1", next(address for address in lab.configured("n1") if address in mine))
        lab.wait_for("its return", lambda: set(order[1:]) <= set(lab.configured("n1")))
        time.sleep(0.3)
        end = boottime()
    last = gaps.longest(watching.attempts, start, end)[order[2]]
    assert last.failed == 0, f"a secondary was interrupted: {last}"


def test_updateip_moves_an_address_to_the_other_interface_of_its_node(cluster: Cluster) -> None:
    lab = cluster(interfaces=2)
    mine = addresses_of(lab, "n1")
    assert set(lab.configured("n1").values()) == {"eth1"}
    forget_events(lab)
    with watched(lab) as watching:
        lab.fault("n1", "link", "eth1")
        lab.wait_for("the other interface", lambda: set(lab.configured("n1").values()) == {"eth2"})
        lab.wait_for("updateip", lambda: len(seen(lab, "n1", "updateip")) == len(mine))
        assert addresses_of(lab, "n1") == mine
        assert wait_state(lab, "n1", "PARTIALLYONLINE")
        for one in seen(lab, "n1", "updateip"):
            old, new, address, bits = one.arguments
            assert (old, new) == ("eth1", "eth2")
            assert address in mine
            assert bits == ("64" if ":" in address else "24")
        assert seen(lab, "n1", "takeip") == seen(lab, "n1", "releaseip") == []
        start = boottime()
        lab.wait_for("answers", lambda: answered_since(lab, watching, start))
        lab.heal()
        lab.wait_served()
        lab.fault("n1", "link", "eth1")
        lab.fault("n1", "link", "eth2")
        wait_moved(lab, mine, "n1")
        lab.heal()
        lab.wait_served()


def test_node_states_by_command(cluster: Cluster) -> None:
    lab = cluster()
    with watched(lab):
        # Twice, because what was cancelled the first time must run the second time.
        for command, undo, state in 2 * (
            ("disable", "enable", "DISABLED"),
            ("stop", "continue", "STOPPED"),
            ("ban", "unban", "BANNED"),
        ):
            mine = addresses_of(lab, "n1")
            locum(lab, "n2", "node", command, "n1")
            wait_state(lab, "n1", state)
            wait_moved(lab, mine, "n1")
            assert lab.configured("n1") == {}
            locum(lab, "n2", "node", undo, "n1")
            wait_state(lab, "n1", "OK")
            lab.wait_served()


def test_a_moved_address_stays_where_it_was_put(cluster: Cluster) -> None:
    lab = cluster()
    address = addresses_of(lab, "n1")[0]
    locum(lab, "n3", "ip", "move", address, "n2")
    lab.wait_for("the move", lambda: lab.served().get(address) == "n2")
    lab.wait_served()
    locum(lab, "n3", "node", "disable", "n2")
    wait_moved(lab, (address,), "n2")
    locum(lab, "n3", "node", "enable", "n2")
    lab.wait_served()
    assert lab.served()[address] == "n2"
    locum(lab, "n3", "ip", "auto", address)
    lab.wait_served()


def test_what_cannot_be_done_is_refused_with_the_reason(cluster: Cluster) -> None:
    lab = cluster(nodes=2)
    assert "10.99.0.1" in locum(lab, "n1", "ip", "move", "10.99.0.1", "n2", status=2)
    assert "n9" in locum(lab, "n1", "node", "disable", "n9", status=2)
    locum(lab, "n1", "node", "disable", "n2")
    address = addresses_of(lab, "n1")[0]
    assert "n2" in locum(lab, "n1", "ip", "move", address, "n2", status=2)
    locum(lab, "n1", "node", "enable", "n2")
    lab.wait_served()


def test_reload_takes_up_a_new_address(cluster: Cluster) -> None:
    lab = cluster(addresses=4)
    for node in lab.layout.node_names:
        with (lab.node_directory(node) / "public_addresses").open("a") as file:
            file.write("10.77.0.99/24 eth1\n")
        locum(lab, node, "reload")

    def served() -> bool:
        report = address_report(lab, "10.77.0.99")
        return report is not None and report.serving

    lab.wait_for("the new address", served)
    for node in lab.layout.node_names:
        path = lab.node_directory(node) / "public_addresses"
        path.write_text(path.read_text().replace("10.77.0.99/24 eth1\n", ""))
        locum(lab, node, "reload")
    lab.wait_for("it to go away", lambda: address_report(lab, "10.77.0.99") is None)
    for node in lab.layout.node_names:
        assert "10.77.0.99" not in lab.run(node, ["ip", "address"]).stdout


def test_i1_what_the_configuration_has_no_more_is_judged_until_it_has_left(cluster: Cluster) -> None:
    lab = cluster(nodes=1, addresses=2)
    directory = lab.node_directory("n1")
    waits = f"touch {directory}/runs; while [ ! -e {directory}/go ]; do sleep 0.05; done"
    lab.write_script("n1", "20.slow", f'#!/bin/sh\n[ "$1" != releaseip ] || {{ {waits}; }}\n')
    address = next(a for a in lab.configured("n1") if ":" not in a)

    def judged() -> bool:
        return re.search(rf"\b{re.escape(address)}\b", lab.run("n1", ["nft", "list", "ruleset"]).stdout) is not None

    path = directory / "public_addresses"
    path.write_text(
        "".join(f"{line}\n" for line in path.read_text().splitlines() if not line.startswith(f"{address}/"))
    )
    locum(lab, "n1", "reload")
    lab.wait_for("releaseip", (directory / "runs").exists)
    assert judged()
    (directory / "go").touch()
    lab.wait_for("the gate to forget it", lambda: not judged())
    assert address not in lab.configured("n1")


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


def test_the_last_node_serves_everything(cluster: Cluster) -> None:
    lab = cluster()
    with watched(lab) as watching:
        lab.fault("n1", "kill-all")
        lab.fault("n2", "cut")
        lab.wait_for("n3 to serve all", lambda: len(addresses_of(lab, "n3")) == 6)
        start = boottime()
        lab.wait_for("answers", lambda: answered_since(lab, watching, start))
        lab.heal()
        lab.wait_served()


def test_the_daemon_ends_cleanly_on_sigterm_when_it_is_the_last(cluster: Cluster) -> None:
    lab = cluster(nodes=1, addresses=2)
    ours = lab.ours("n1")
    guard = lab.state.nodes["n1"].daemon
    assert guard is not None
    processes.send(guard, signal.SIGTERM)
    assert processes.wait_gone(ours, 30) == ()
    assert lab.configured("n1") == {}
    assert lab.ours("n1") == ()


def test_a_killed_guard_takes_its_processes_along_and_the_addresses_fall_silent(cluster: Cluster) -> None:
    lab = cluster()
    mine = addresses_of(lab, "n1")
    guard = lab.state.nodes["n1"].daemon
    assert guard is not None
    with watched(lab):
        processes.send(guard, signal.SIGKILL)
        wait_moved(lab, mine, "n1")
        lab.wait_for("the others to end", lambda: lab.ours("n1") == ())
        assert namespaces.inhabitants([lab.layout.namespace("n1")])  # the services live on
        lab.start_daemon("n1")
        lab.wait_served()
    check_kernels(lab)
