"""Faults that an upgrade or a configuration tool brings to all nodes alike: no address moves, no node is banned."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Sequence

import pytest

from locum.api.model import StatusReport
from locum_lab import processes
from locum_lab.lab import Lab
from tests.lab.clusters import install_recorder, locum, locum_json, seen, wait_state
from tests.lab.conftest import MakeLab

pytestmark = pytest.mark.lab

LEFTOVERS = {
    "50.web.dpkg-dist": 0o644,
    "50.web.dpkg-old": 0o755,
    "90.recorder.rpmnew": 0o755,
    "90.recorder.bak": 0o644,
    "90.recorder~": 0o755,
    "10.interface.ucf-dist": 0o777,
    "README": 0o644,
}


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    """Three nodes that serve six addresses, with the recording script."""
    made = make_lab(hold=1.0, daemons=False)
    install_recorder(made)
    made.start_daemons()
    made.wait_served()
    locum(made, "n1", "tunable", "set", "MonitorInterval", "0.3")
    return made


def everywhere(lab: Lab, change: Callable[[str], object]) -> None:
    for node in lab.layout.node_names:
        change(node)


def reconfigure(lab: Lab) -> None:
    """Have every node run ``recovered``: disable a node and enable it again."""
    locum(lab, "n3", "node", "disable")
    locum(lab, "n3", "node", "enable")
    lab.wait_served()


def monitored(lab: Lab, nodes: str | Sequence[str], times: int) -> None:
    """Wait for as many monitors on the node, or on each of them."""
    named = [nodes] if isinstance(nodes, str) else nodes
    before = {node: len(seen(lab, node, "monitor")) for node in named}
    lab.wait_for(
        f"{times} monitors on {', '.join(named)}",
        lambda: all(len(seen(lab, node, "monitor")) >= before[node] + times for node in named),
        60,
    )


def kill_agent(lab: Lab, node: str) -> None:
    """Kill the agent, and wait until its guard has started another one."""
    agent = lab.agent(node)
    assert agent is not None
    processes.send(agent, signal.SIGKILL)
    lab.wait_for(f"another agent on {node}", lambda: lab.agent(node) not in (None, agent))


def all_well(report: StatusReport) -> None:
    assert {node.name: node.state for node in report.nodes} == dict.fromkeys(("n1", "n2", "n3"), "OK")
    assert all(address.state == "served" for address in report.addresses)


def test_leftovers_of_package_managers_and_editors_on_all_nodes_change_nothing(lab: Lab) -> None:
    before = lab.served()

    def leave(node: str) -> None:
        for name, mode in LEFTOVERS.items():
            path = lab.node_directory(node) / "events" / name
            path.write_text("#!/bin/sh\nexit 1\n")
            path.chmod(mode)

    everywhere(lab, leave)
    monitored(lab, lab.layout.node_names, 3)
    assert lab.served() == before
    all_well(lab.status())
    reconfigure(lab)
    reconfigure(lab)
    monitored(lab, lab.layout.node_names, 2)
    all_well(lab.status())
    checked = locum(lab, "n2", "event", "check")
    daemon = locum_json(lab, "n2", "status")["daemon"]
    assert isinstance(daemon, dict)
    listed = "\n".join(daemon["scripts"]["ignored"])
    for name in LEFTOVERS:
        assert f"{name}: " in checked
        assert f"{name}: " in listed
        assert name in locum(lab, "n2", "status") or len(LEFTOVERS) > 6


def test_a_broken_script_on_all_nodes_runs_on_as_it_was_and_agents_restart_with_it(lab: Lab) -> None:
    before = lab.served()

    def spoil(node: str) -> None:
        lab.write_script(node, "90.recorder", "#!/usr/bin/env locum-script\ndef monitor(:\n")
        lab.write_script(node, "10.another", "#!/bin/sh\nexit 1\n")

    everywhere(lab, spoil)
    monitored(lab, lab.layout.node_names, 3)
    report = lab.status()
    all_well(report)
    assert lab.served() == before
    for node in lab.layout.node_names:
        assert any(warning.startswith(f"{node}: script directory ") for warning in report.warnings), report.warnings
    kill_agent(lab, "n2")
    monitored(lab, "n2", 2)
    reconfigure(lab)
    all_well(lab.status())
    locum(lab, "n2", "event", "check", status=2)
    install_recorder(lab)
    everywhere(lab, lambda node: (lab.node_directory(node) / "events" / "10.another").unlink())
    lab.wait_for("the warnings to go", lambda: not any("script directory" in w for w in lab.status().warnings))


def test_a_recovered_that_fails_on_all_nodes_bans_none(lab: Lab) -> None:
    before = lab.served()
    everywhere(lab, lambda node: (lab.node_directory(node) / "fail-recovered").write_text("1"))
    locum(lab, "n3", "node", "disable")
    locum(lab, "n3", "node", "enable")
    everywhere(
        lab,
        lambda node: lab.wait_for(
            "six failures",
            lambda: "recovered failed 5 times" in lab.daemon_log(node).read_text(),
            60,
        ),
    )
    report = lab.status()
    assert {node.state for node in report.nodes} == {"OK"}
    assert all(address.serving for address in report.addresses)
    everywhere(lab, lambda node: (lab.node_directory(node) / "fail-recovered").unlink())
    lab.wait_served(120)
    assert set(lab.served()) == set(before)


def test_a_monitor_that_fails_on_all_nodes_leaves_every_address_served(lab: Lab) -> None:
    everywhere(lab, lambda node: (lab.node_directory(node) / "fail-monitor").write_text("1"))
    everywhere(lab, lambda node: wait_state(lab, node, "UNHEALTHY"))
    monitored(lab, lab.layout.node_names, 2)
    assert len(lab.served()) == lab.layout.addresses
    report = lab.status()
    assert {node.state for node in report.nodes} == {"UNHEALTHY"}
    assert all(address.serving for address in report.addresses)
    everywhere(lab, lambda node: (lab.node_directory(node) / "fail-monitor").unlink())
    lab.wait_served()


def warned(lab: Lab, node: str) -> bool:
    """Whether the cluster knows that the node's configuration is at fault."""
    return any(one.startswith(f"{node}: the configuration cannot be read: ") for one in lab.status().warnings)


def wait_warned(lab: Lab, node: str) -> None:
    lab.wait_for(f"a warning about {node}", lambda: warned(lab, node))


def test_a_configuration_that_became_bad_on_all_nodes_changes_nothing(lab: Lab) -> None:
    before = lab.served()
    good = {node: (lab.node_directory(node) / "config.toml").read_text() for node in lab.layout.node_names}
    everywhere(lab, lambda node: (lab.node_directory(node) / "config.toml").write_text(good[node] + "[nonsense]\n"))
    everywhere(lab, lambda node: locum(lab, node, "reload", status=2))
    for node in lab.layout.node_names:
        assert warned(lab, node)
        kill_agent(lab, node)
        monitored(lab, node, 1)
        wait_warned(lab, node)
    all_well(lab.status())
    assert lab.served() == before
    everywhere(lab, lambda node: (lab.node_directory(node) / "config.toml").write_text(good[node]))
    everywhere(lab, lambda node: locum(lab, node, "reload"))
    lab.wait_for("the warnings to go", lambda: not any("cannot be read" in w for w in lab.status().warnings))


def test_a_script_that_comes_to_running_nodes_gets_startup_first_and_none_becomes_unhealthy(lab: Lab) -> None:
    before = lab.served()
    text = (
        "#!/bin/sh\n# A service that must be started.\nstate=$LOCUM_SCRIPT_STATE/started\n"
        'case "$1" in\nstartup) sleep 0.3; touch "$state" ;;\nmonitor) [ -e "$state" ] || exit 1; echo well ;;\nesac\n'
    )
    everywhere(lab, lambda node: lab.write_script(node, "60.service", text))

    def well(node: str) -> bool:
        shown = json.loads(locum(lab, node, "event", "status", "monitor", "--json"))
        return any(one["script"] == "60.service" and one["outcome"] == "ok" for one in shown[0]["scripts"])

    everywhere(lab, lambda node: lab.wait_for(f"60.service on {node}", lambda: well(node), 30))
    assert lab.served() == before
    all_well(lab.status())
    for node in lab.layout.node_names:
        assert "monitor fails" not in lab.daemon_log(node).read_text()


def test_a_script_that_calls_back_is_refused_at_once(lab: Lab) -> None:
    locum_command = f"{sys.executable} -m locum.cli.main"
    lab.write_script(
        "n1",
        "25.selftest",
        f"#!/bin/sh\ncase $1 in recovered) timeout 60 sh -c 'env -i LOCUM_SOCKET=$LOCUM_SOCKET {locum_command}"
        " event run monitor' 2>>$LOCUM_SCRIPT_STATE/said ;; esac\nexit 0\n",
    )
    monitored(lab, "n1", 2)
    reconfigure(lab)
    assert lab.status().progress == "settled"
    said = (lab.node_directory("n1") / "state" / "scripts" / "25.selftest" / "said").read_text()
    assert "monitor cannot be run from within the event recovered (script 25.selftest)" in said
    all_well(lab.status())


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_script_may_take_its_node_out_of_service(lab: Lab, by_hand: bool) -> None:
    broken = lab.node_directory("n1") / "disk-broken"
    lab.write_script(
        "n1",
        "26.disk",
        f"#!/bin/sh\ncase $1 in monitor) [ ! -e {broken} ] || {sys.executable} -m locum.cli.main node disable\nesac\n",
    )
    monitored(lab, "n1", 2)
    if by_hand:
        locum(lab, "n1", "tunable", "set", "MonitorInterval", "100")
        monitored(lab, "n1", 0)
    broken.touch()
    if by_hand:
        said = locum(lab, "n1", "event", "run", "-v", "monitor")
        assert "addresses move when the event monitor (script 26.disk) has ended" in said
    wait_state(lab, "n1", "DISABLED")
    lab.wait_for("its addresses to move", lambda: "n1" not in lab.served().values(), 15)


def test_a_stray_file_does_not_keep_a_daemon_from_starting(lab: Lab) -> None:
    lab.stop_daemon("n3")
    (lab.node_directory("n3") / "events" / "README").write_text("Event scripts of this site.\n")
    (lab.node_directory("n3") / "events" / "50.web.d").mkdir()
    config = str(lab.node_directory("n3") / "config.toml")
    checked = locum(lab, "n3", "check-config", config)
    lab.start_daemon("n3")
    wait_state(lab, "n3", "OK", limit=60)
    line = "events/README: is not named NN.name or NN.name.script, so it never runs"
    assert line in checked
    assert line in lab.daemon_log("n3").read_text()
    assert "README: " in locum(lab, "n3", "event", "check")


def test_a_node_that_shuts_down_does_not_miss_its_services(make_lab: MakeLab) -> None:
    lab = make_lab(hold=1.0, services=("web",))
    lab.wait_served()
    locum(lab, "n1", "shutdown")
    assert "has no listener any longer" not in lab.daemon_log("n1").read_text()
