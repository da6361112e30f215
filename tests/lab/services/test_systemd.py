"""The shipped scripts and a real systemd."""

from __future__ import annotations

import signal
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from locum_lab.services import shipped
from tests.lab.systemd import Systemd

pytestmark = [pytest.mark.lab, pytest.mark.long]

PORT = 9191

UNIT = f"""\
[Service]
ExecStart={sys.executable} -m http.server --bind 127.0.0.1 {PORT}
ExecReload=/bin/touch {{reloaded}}
"""


class Machine(Systemd):
    """A systemd with the unit web, and a directory with 70.service."""

    def __init__(self, directory: Path) -> None:
        self.reloaded = directory / "reloaded"
        unit = directory / "web.service"
        unit.write_text(UNIT.format(reloaded=self.reloaded))
        (directory / "events").mkdir()
        script = directory / "events" / "70.service"
        script.write_bytes(shipped("70.service").read_bytes())
        script.chmod(0o755)
        super().__init__(directory, unit)

    def event(self, *event: str, status: int = 0, **settings: object) -> str:
        """Run an event of the script; what it said."""
        given = {"service": "web", "ports": PORT, **settings}
        options = [
            word for key, value in given.items() for word in ("--set", f"70.service:{key.replace('_', '-')}={value}")
        ]
        done = self.inside(
            sys.executable, "-m", "locum.cli.main", "event", "run", "--dir", str(self.directory / "events"),
            "--runtime", str(self.directory / "runtime"), "--verbose", *options, *event,
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.end()


def test_a_unit_is_started_watched_restarted_and_stopped(machine: Machine) -> None:
    assert not machine.active()
    machine.event("startup")
    assert machine.active()
    machine.event("monitor")
    first = machine.main_pid()
    # Dead: said, and started again by systemd on behalf of the script.
    machine.send(signal.SIGKILL)
    assert f"nothing listens on TCP port {PORT}" in machine.event("monitor", status=1)
    assert machine.active()
    assert machine.main_pid() != first
    # Moves.
    machine.event("takeip", "eth0", "10.0.0.1", "24")
    second = machine.main_pid()
    machine.event("recovered", move="reload")
    assert machine.reloaded.exists()
    assert machine.main_pid() == second
    machine.event("takeip", "eth0", "10.0.0.1", "24")
    machine.event("recovered", move="restart")
    assert machine.main_pid() != second
    machine.event("shutdown")
    assert not machine.active()


def test_a_unit_that_hangs_is_killed_and_started(machine: Machine) -> None:
    check = f"curl --silent --fail --max-time 1 http://127.0.0.1:{PORT}/"
    machine.event("startup", check=check)
    first = machine.main_pid()
    machine.send(signal.SIGSTOP)
    said = machine.event("monitor", status=1, check=check, restart_after=1)
    assert "starting it again" in said, textwrap.indent(said, "  ")
    deadline = time.monotonic() + 30
    while machine.main_pid() in (0, first):
        assert time.monotonic() < deadline, "systemd has not started it again"
        time.sleep(0.1)
    assert machine.active()
