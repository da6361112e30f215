"""Torture as a whole: a short run on each store, and that it fails when it must."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from locum.lab import namespaces
from locum.lab.lab import down, namespaces_of

pytestmark = pytest.mark.lab

COMMAND = (sys.executable, "-m", "locum.cli.main", "lab", "torture", "--name")


@pytest.fixture
def name() -> Iterator[str]:
    chosen = f"torture{os.getpid()}"
    yield chosen
    down(chosen)


@pytest.mark.parametrize(("store", "seed"), [("embedded", 1), ("etcd", 101)])
def test_a_short_run(store: str, seed: int, name: str, tmp_path: Path) -> None:
    """Seeds with rounds that once found something: 101 on etcd a node that never told its health again."""
    outcome = tmp_path / "outcome.json"
    options = ["--minutes", "1.2", "--seed", str(seed), "--store", store, "--json", str(outcome)]
    # The machine may be busy with other tests: what it does late is no violation.
    done = subprocess.run(
        [*COMMAND, name, *options, "--slack", "10"], capture_output=True, text=True, check=False, timeout=400
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(outcome.read_text())
    assert (found["violations"], found["lost"], found["problems"]) == (0, 0, [])
    assert found["rounds"] >= 2
    assert sum(found["faults"].values()) >= 5
    assert found["questions"] > 10_000
    assert found["attempts"] > 1000
    assert namespaces_of(name) == ()


def follow(process: subprocess.Popen[str], text: str) -> None:
    """Read its output up to a line with ``text``."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f"it ended before it wrote {text!r}")


def test_it_fails_and_tells_the_story_when_two_answer_for_one_address(name: str) -> None:
    """A stranger with one of the addresses joins the public network."""
    hub, stranger = f"locum-{name}-hub", f"locum-{name}-n9"
    with subprocess.Popen([*COMMAND, name, "--seed", "3"], stdout=subprocess.PIPE, text=True) as torture:
        follow(torture, "round 0")
        namespaces.create([stranger])
        namespaces.run_ip([f"link add stranger master public type veth peer name eth1 netns {stranger}"], hub)
        namespaces.run_ip(["link set stranger up"], hub)
        namespaces.run_ip(["link set eth1 up", "address add 10.77.0.2/24 dev eth1"], stranger)
        assert torture.stdout is not None
        text = torture.stdout.read()
    assert torture.returncode == 1
    assert "VIOLATION: I1: 10.77.0.2 was answered by" in text
    assert "** 10.77.0.2: heard from" in text
    assert "joined as" in text, "the story has what the daemons wrote"
    assert "PROBLEM: I1" in text
    assert namespaces_of(name) == ()


def test_it_fails_when_addresses_are_not_served(name: str) -> None:
    """The client's cable is pulled: no cluster can serve it."""
    options = ["--seed", "3", "--slack", "0.5"]
    with subprocess.Popen([*COMMAND, name, *options], stdout=subprocess.PIPE, text=True) as torture:
        follow(torture, "round 0")
        namespaces.run_ip(["link set client down"], f"locum-{name}-hub")
        assert torture.stdout is not None
        text = torture.stdout.read()
    assert torture.returncode == 1
    assert "was not served for" in text


def test_an_end_before_its_time_leaves_nothing(name: str) -> None:
    with subprocess.Popen([*COMMAND, name, "--seed", "3"], stdout=subprocess.PIPE, text=True) as torture:
        follow(torture, "round 0")
        torture.terminate()
        assert torture.stdout is not None
        torture.stdout.read()
    assert torture.returncode != 0
    assert namespaces_of(name) == ()
