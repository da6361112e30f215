"""No sequence of admin commands leaves the cluster stuck: whatever was asked, putting it right serves everything."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator

import pytest

from locum.api import client
from locum.errors import LocumError, UsageError
from locum_lab.lab import Lab
from tests.lab.clusters import check_kernels, locum
from tests.lab.hostile import agents, lab_for_module, report_with, watch

pytestmark = [pytest.mark.lab, pytest.mark.long]

NODES = ("n1", "n2", "n3", "1", "", "n9", "N1", "-1")
ADDRESSES = ("10.77.0.2", "10.77.0.3", "fd77::2", "FD77:0::3", "fd77::4/64", "10.77.0.99", "10.78.0.1", "nonsense", "")
TUNABLES = {
    "NoIPTakeover": ("0", "1"),
    "NoIPFailback": ("0", "1"),
    "NoIPHostOnAllDisabled": ("0", "1", "2"),
    "MonitorInterval": ("1", "0", "-1", "1e9", "x"),
    "AnnounceCount": ("1", "3"),
    "RecoveryBanPeriod": ("5", "300"),
    "NoSuchTunable": ("1",),
}


@pytest.fixture(scope="module")
def shared() -> Iterator[Lab]:
    with lab_for_module("admin", hold=1.0) as lab:
        yield lab


@pytest.fixture
def lab(request: pytest.FixtureRequest, shared: Lab) -> Lab:
    report_with(request, shared)
    return shared


def some_command(chance: random.Random) -> dict[str, object]:
    """Any command, possible or not."""
    nodes = ["enable", "disable", "stop", "continue", "ban", "unban", "remove"]
    command = chance.choice([*nodes, "move", "move", "auto", "tunable-set", "tunable-set", "tunable-reset"])
    request: dict[str, object] = {"op": "admin", "command": command}
    if command in ("tunable-set", "tunable-reset"):
        name = chance.choice(list(TUNABLES))
        return request | {"name": name, "value": chance.choice(TUNABLES[name])}
    if command in ("move", "auto"):
        request |= {"address": chance.choice(ADDRESSES)}
    if command == "ban":
        request |= {"seconds": chance.choice([0.5, 3600.0, -1.0, 0.0, 1e9, None])}
    if command != "auto":
        request |= {"node": chance.choice(NODES)}
    # Some wait for the effect, most are followed by the next at once.
    if command in ("disable", "stop", "ban", "move"):
        request |= {"wait": chance.choice([0, 0, 0, 0.3, 2.0])}
    return request


def ask(lab: Lab, node: str, request: dict[str, object]) -> str | None:
    """Why the command was refused, None when it was not."""
    try:
        client.call(str(lab.control_socket(node)), request, 60.0)
    except UsageError as error:
        return str(error)
    return None


def put_right(lab: Lab) -> None:
    """What an admin does who wants everything back."""
    for node in lab.layout.node_names:
        for command in ("unban", "continue", "enable"):
            assert ask(lab, "n1", {"op": "admin", "command": command, "node": node}) is None
    for public in lab.layout.public_addresses:
        assert ask(lab, "n1", {"op": "admin", "command": "auto", "address": public.address}) is None
    for name in TUNABLES:
        if name != "NoSuchTunable":
            assert ask(lab, "n2", {"op": "admin", "command": "tunable-reset", "name": name}) is None


def lab_popen(lab: Lab, node: str, *arguments: str) -> subprocess.Popen[str]:
    """``locum`` on a node, not waited for."""
    return subprocess.Popen(
        lab.command(node, [sys.executable, "-m", "locum.cli.main", *arguments, "--wait", "2"]),
        env={**os.environ, **lab.command_environment(node)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("seed", range(3))
def test_random_commands_and_then_everything_back(lab: Lab, seed: int) -> None:
    chance = random.Random(seed)
    before = agents(lab)
    said: list[str] = []
    with watch(lab) as watching:
        for _ in range(60):
            request = some_command(chance)
            refused = ask(lab, chance.choice(lab.layout.node_names), request)
            said.append(f"{request}: {refused or 'done'}")
            if refused is not None:
                assert refused.strip(), request
                assert "unexpected" not in refused, said[-1]
                assert "not an admin command" not in refused, said[-1]
        put_right(lab)
        try:
            lab.wait_served()
        except LocumError:
            print("\n".join(said))
            print(locum(lab, "n1", "status"), locum(lab, "n1", "ip"))
            raise
        last = watching.end()
    assert last.violations == 0, "\n".join(said)
    assert agents(lab) == before
    check_kernels(lab)


@pytest.mark.parametrize(("harm", "remedy"), [("disable", "enable"), ("stop", "continue"), ("ban", "unban")])
def test_all_nodes_out_and_back(lab: Lab, harm: str, remedy: str) -> None:
    with watch(lab) as watching:
        for node in lab.layout.node_names:
            locum(lab, node, "node", harm, node)
        lab.wait_for("nobody to serve", lambda: lab.served() == {})
        for node in lab.layout.node_names:
            assert lab.configured(node) == {}
        text = locum(lab, "n1", "ip", "move", "10.77.0.2", "n1", status=2)
        assert "at the moment no node can" in text
        for node in lab.layout.node_names:
            locum(lab, "n3", "node", remedy, node)
        lab.wait_served()
        assert watching.end().violations == 0
    check_kernels(lab)


def test_a_removed_node_comes_back_as_it_was_configured(lab: Lab) -> None:
    refused = locum(lab, "n1", "node", "remove", "n3", status=2)
    assert "stop its daemon first" in refused
    locum(lab, "n1", "node", "disable", "n3")
    lab.stop_daemon("n3")
    locum(lab, "n1", "node", "remove", "n3")
    assert "n3" not in {node.name for node in lab.status("n1").nodes}
    for command in (("disable", "n3"), ("enable", "n3"), ("remove", "n3"), ("ban", "n3")):
        assert "unknown node 'n3'" in locum(lab, "n1", "node", *command, status=2)
    assert "n3" in locum(lab, "n1", "ip", "move", "10.77.0.2", "n3", status=2)
    lab.start_daemon("n3")
    lab.wait_served()
    assert [node.number for node in lab.status("n1").nodes] == [1, 2, 3]


def test_commands_to_all_nodes_at_once(lab: Lab) -> None:
    """Several admins who do not know of each other."""
    lab.wait_served()
    for seed in range(3):
        chance = random.Random(1000 + seed)
        running = [
            lab_popen(lab, node, "node", chance.choice(["disable", "stop", "ban"]), chance.choice(["n1", "n2", "n3"]))
            for node in lab.layout.node_names
        ]
        for process in running:
            output, errors = process.communicate(timeout=120)
            assert process.returncode in (0, 1, 2), (output, errors)
            assert "Traceback" not in errors
    put_right(lab)
    lab.wait_served()
    check_kernels(lab)
