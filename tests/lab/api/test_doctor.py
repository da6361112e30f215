"""``locum doctor`` on this machine: what it says of the kernel, and that trying leaves no trace."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.conftest import MakeLab

pytestmark = pytest.mark.lab

CONFIG = """\
[node]
name = "n1"
[cluster]
store = "unix:{directory}/nobody.sock"
[paths]
runtime = "{directory}/run"
state = "{directory}/state"
events = "{directory}/events"
[[address]]
address = "192.0.2.1/24"
interfaces = ["lo"]
"""


def test_features_of_the_kernel_are_tried_without_a_trace(tmp_path: Path) -> None:
    events = tmp_path / "events"
    events.mkdir()
    script = events / "10.interface"
    script.write_text("#!/bin/sh\nexit 0\n")
    script.chmod(0o755)
    config = tmp_path / "locum.toml"
    config.write_text(CONFIG.format(directory=tmp_path))
    before = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    done = subprocess.run(
        [sys.executable, "-m", "locum.cli.main", "doctor", "--config", str(config), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    findings = {(f["check"], f["level"]) for f in json.loads(done.stdout)}
    assert ("enforcement", "good") in findings
    assert ("lifetimes", "good") in findings
    assert ("connections", "good") in findings
    assert ("scripts", "good") in findings
    # Nobody serves that store: the one problem, and the exit status says so.
    assert ("store", "problem") in findings
    assert done.returncode == 1
    assert subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout == before
    addresses = subprocess.run(["ip", "addr", "show"], capture_output=True, text=True, check=True).stdout
    assert "192.0.2.1" not in addresses


def test_a_node_that_runs_on_etcd(make_lab: MakeLab) -> None:
    """Its daemon is asked for its hold and its gate, and every member of etcd for what it keeps."""
    lab = make_lab(store="etcd", services=())
    lab.wait_served()

    def doctor() -> dict[str, list[tuple[str, str]]]:
        config = str(lab.node_directory("n1") / "config.toml")
        done = lab.run("n1", [sys.executable, "-m", "locum.cli.main", "doctor", "--config", config, "--json"])
        found: dict[str, list[tuple[str, str]]] = {}
        for finding in json.loads(done.stdout):
            found.setdefault(finding["check"], []).append((finding["level"], finding["text"]))
        return found

    found = doctor()
    assert [level for level, _ in found["daemon"]] == ["good"]
    [(level, text)] = found["gate"]
    assert level == "good"
    assert "addresses that may speak: 2" in text
    assert [level for level, _ in found["etcd"]] == ["good", "good", "good"]
    assert all("a history of " in text for _, text in found["etcd"])

    status = lab.run("n1", [sys.executable, "-m", "locum.cli.main", "status"]).stdout
    assert "open for 2 addresses" in status

    lab.fault("n3", "kill-etcd")
    lab.wait_for("etcd to answer without a member", lambda: lab.status("n1").daemon)
    found = doctor()
    assert sorted(level for level, _ in found["etcd"]) == ["good", "good", "warning"]
