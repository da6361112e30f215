"""Torture as a whole: a run of some minutes, and that it fails when it must."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from locum.errors import LocumError
from locum.store.base import Delete
from locum_lab import namespaces, processes
from locum_lab.lab import Lab, down, namespaces_of
from tests.lab.hostile import Stranger

pytestmark = pytest.mark.lab

COMMAND = (sys.executable, "-m", "locum.cli.main", "lab", "torture", "--name")


@pytest.fixture
def name() -> Iterator[str]:
    chosen = f"torture{os.getpid()}"
    yield chosen
    down(chosen)


@pytest.mark.parametrize(("store", "seed", "minutes"), [("embedded", 1830, 2.0), ("etcd", 706, 1.0)])
def test_i1_i9_some_minutes(store: str, seed: int, minutes: float, name: str, tmp_path: Path) -> None:
    """The seeds draw most kinds of faults within that time. Bounds grow by what the machine is measured to be late."""
    outcome = tmp_path / "outcome.json"
    options = ["--minutes", f"{minutes}", "--seed", str(seed), "--store", store, "--json", str(outcome)]
    done = subprocess.run([*COMMAND, name, *options], capture_output=True, text=True, check=False, timeout=1200)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(outcome.read_text())
    assert (found["violations"], found["lost"], found["problems"]) == (0, 0, [])
    # How far it comes depends on the machine.
    assert found["rounds"] >= 2
    assert sum(found["faults"].values()) >= 5
    assert found["questions"] > 10_000
    assert found["attempts"] > 1000
    assert found["confirmed"] > 100
    assert namespaces_of(name) == ()


def follow(process: subprocess.Popen[str], text: str) -> None:
    """Read its output up to a line with ``text``."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f"it ended before it wrote {text!r}")


def tortured(name: str, harm: Callable[[Lab], None], *options: str) -> str:
    """What a run prints to which ``harm`` is done at the beginning of its first round; it must fail."""
    with subprocess.Popen([*COMMAND, name, "--seed", "3", *options], stdout=subprocess.PIPE, text=True) as torture:
        follow(torture, "round 0")
        harm(Lab.load(name))
        assert torture.stdout is not None
        text = torture.stdout.read()
    print(text)
    assert torture.returncode == 1
    assert namespaces_of(name) == ()
    return text


def test_it_fails_and_tells_the_story_when_two_answer_for_one_address(name: str) -> None:
    """A stranger with one of the addresses joins the public network."""

    def harm(lab: Lab) -> None:
        stranger = f"locum-{name}-n9"
        namespaces.create([stranger])
        namespaces.run_ip(
            [f"link add stranger master public type veth peer name eth1 netns {stranger}"], lab.layout.hub
        )
        namespaces.run_ip(["link set stranger up"], lab.layout.hub)
        namespaces.run_ip(["link set eth1 up", "address add 10.77.0.2/24 dev eth1"], stranger)

    text = tortured(name, harm)
    assert "VIOLATION: I1: 10.77.0.2 was answered by" in text
    assert "** 10.77.0.2: heard from" in text
    assert re.search(r"\bn\d \| (info|warning|error) +n\d: ", text), "the story has what the daemons wrote"
    assert "PROBLEM: I1" in text


def test_it_fails_when_a_frozen_node_without_its_gate_has_an_address(name: str) -> None:
    """Locum's own node breaks I1, in the way that docs/safety.md says nobody can prevent."""

    def harm(lab: Lab) -> None:
        # What the node serves is answered by it alone: whatever another one serves, it must not answer for.
        served = lab.wait_for("addresses to be served", lab.served)
        processes.stop_all(lambda: lab.ours("n1"))
        assert lab.run("n1", ["nft", "flush", "ruleset"]).returncode == 0
        for address, node in served.items():
            if node != "n1" and ":" not in address:
                assert lab.run("n1", ["ip", "address", "add", f"{address}/24", "dev", "eth1"]).returncode == 0

    text = tortured(name, harm)
    assert "VIOLATION: I1: 10.77.0." in text


def test_it_fails_when_addresses_are_not_served(name: str) -> None:
    """The client's cable is pulled: no cluster can serve it."""
    text = tortured(name, lambda lab: namespaces.run_ip(["link set client down"], lab.layout.hub), "--slack", "0.5")
    assert "was not served for" in text
    assert "of them because the machine was late" in text


def test_it_fails_when_what_was_confirmed_is_lost(name: str) -> None:
    """Somebody deletes a tunable that the run has set."""

    def harm(lab: Lab) -> None:
        def deleted() -> bool:
            try:
                Stranger(lab).commit(Delete, "tunable/MonitorInterval")
            except LocumError:  # the store is one of those that are tortured
                return False
            return True

        lab.wait_for("the store", deleted, 60.0)

    text = tortured(name, harm)
    assert "PROBLEM: I9: as n" in text
    assert "tunable MonitorInterval: " in text


def test_an_end_before_its_time_leaves_nothing(name: str) -> None:
    with subprocess.Popen([*COMMAND, name, "--seed", "3"], stdout=subprocess.PIPE, text=True) as torture:
        follow(torture, "round 0")
        torture.terminate()
        assert torture.stdout is not None
        torture.stdout.read()
    assert torture.returncode != 0
    assert namespaces_of(name) == ()
