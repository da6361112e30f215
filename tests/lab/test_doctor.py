"""``locum doctor`` on this machine: what it says of the kernel, and that trying leaves no trace."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
