"""The demo as a whole: what it prints, that it leaves nothing, and that it fails when it must."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from locum_lab import namespaces
from locum_lab.lab import down, namespaces_of

pytestmark = pytest.mark.lab

COMMAND = (sys.executable, "-m", "locum.cli.main", "lab", "demo", "--rounds", "1", "--hold", "1")


def test_it_measures_every_fault_and_leaves_nothing(tmp_path: Path) -> None:
    name, figures = f"demo{os.getpid()}", tmp_path / "figures.json"
    done = subprocess.run(
        [*COMMAND, "--name", name, "--json", str(figures)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(figures.read_text())
    assert [row["fault"] for row in found["rows"]] == [
        "start",
        "planned move",
        "killed service",
        "lost link",
        "cut host",
        "killed agent",
        "killed everything",
    ]
    for row in found["rows"]:
        assert row["rounds"] == 1
        assert row["holders"] == 1
        assert row["unserved"] == []
        assert len(row["gaps"]) >= 2
        assert row["fault"] in done.stdout
    assert found["problems"] == []
    assert (found["violations"], found["lost"]) == (0, 0)
    assert found["questions"] > 1000
    assert namespaces_of(name) == ()


def wait_line(demo: subprocess.Popen[str], words: str) -> None:
    """Read what the demo prints until a line has these words."""
    assert demo.stdout is not None
    lines: list[str] = []
    for line in demo.stdout:
        lines.append(line)
        if words in line:
            return
    pytest.fail("the demo ended early:\n" + "".join(lines))


def test_it_fails_when_two_answer_for_one_address() -> None:
    """A stranger with one of the addresses joins the public network in the middle of it."""
    name = f"demo{os.getpid()}"
    hub, stranger = f"locum-{name}-hub", f"locum-{name}-n9"
    with subprocess.Popen([*COMMAND, "--name", name], stdout=subprocess.PIPE, text=True) as demo:
        wait_line(demo, "planned move")
        assert demo.stdout is not None
        namespaces.create([stranger])
        namespaces.run_ip([f"link add stranger master public type veth peer name eth1 netns {stranger}"], hub)
        namespaces.run_ip(["link set stranger up"], hub)
        namespaces.run_ip(["link set eth1 up", "address add 10.77.0.2/24 dev eth1"], stranger)
        text = demo.stdout.read()
    try:
        assert demo.returncode == 1
        assert "two nodes answered for one address" in text
        assert namespaces_of(name) == ()
    finally:
        down(name)


def test_it_fails_when_an_address_stays_unserved() -> None:
    """The last node that could serve is cut off from the client by hand, without the cluster's knowledge."""
    name = f"demo{os.getpid()}"
    hub = f"locum-{name}-hub"
    with subprocess.Popen([*COMMAND, "--name", name], stdout=subprocess.PIPE, text=True) as demo:
        wait_line(demo, "killed agent")
        assert demo.stdout is not None
        time.sleep(0.2)
        namespaces.run_ip(["link set client down"], hub)
        text = demo.stdout.read()
    try:
        assert demo.returncode == 1
        assert "not served at the end" in text
    finally:
        down(name)


def test_ctrl_c_leaves_nothing() -> None:
    name = f"demo{os.getpid()}"
    with subprocess.Popen([*COMMAND, "--name", name], stdout=subprocess.PIPE, text=True) as demo:
        wait_line(demo, "planned move")
        assert demo.stdout is not None
        demo.terminate()
        demo.stdout.read()
    assert demo.returncode != 0
    assert namespaces_of(name) == ()
