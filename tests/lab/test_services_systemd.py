"""The shipped scripts and a real systemd: its manager for users, in namespaces of its own, stands for the machine's.

Needs root and a kernel with cgroup2: systemd keeps each service in a control group.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from locum.lab.services import shipped

pytestmark = pytest.mark.lab

PORT = 9191

#: Prepares the namespaces and starts systemd. systemctl asks this manager instead of the machine's.
BEGIN = """\
set -e
mount -t cgroup2 none /sys/fs/cgroup
mkdir /sys/fs/cgroup/{group}
echo $$ >/sys/fs/cgroup/{group}/cgroup.procs
mount -t tmpfs tmpfs /run
ip link set lo up
mkdir -p /run/systemd/system /run/user/systemd/user
cp /usr/bin/systemctl /run/systemctl
printf '#!/bin/sh\\nXDG_RUNTIME_DIR=/run/user exec /run/systemctl --user "$@"\\n' >/run/wrapper
chmod 755 /run/wrapper
mount --bind /run/wrapper /usr/bin/systemctl
cp {unit} /run/user/systemd/user/web.service
XDG_RUNTIME_DIR=/run/user /lib/systemd/systemd --user --log-target=console &
wait $!
"""

UNIT = f"""\
[Service]
ExecStart={sys.executable} -m http.server --bind 127.0.0.1 {PORT}
ExecReload=/bin/touch {{reloaded}}
"""


class Machine:
    """Namespaces with a systemd in them, and a directory with 70.service."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.reloaded = directory / "reloaded"
        self._group = f"locum-{directory.name}-{os.getpid()}"
        unit = directory / "web.service"
        unit.write_text(UNIT.format(reloaded=self.reloaded))
        (directory / "events").mkdir()
        script = directory / "events" / "70.service"
        script.write_bytes(shipped("70.service").read_bytes())
        script.chmod(0o755)
        self._output = (directory / "systemd.log").open("wb")
        self._systemd = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--cgroup", "--net", "sh", "-c",
             BEGIN.format(group=self._group, unit=unit)],
            stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output,
        )  # fmt: skip
        try:
            self._wait_ready()
        except BaseException:
            self.end()
            raise

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                if self.inside("systemctl", "show-environment").returncode == 0:
                    return
            except FileNotFoundError:
                pass
            said = (self.directory / "systemd.log").read_text(errors="replace")
            assert self._systemd.poll() is None, f"systemd cannot run here: {said}"
            assert time.monotonic() < deadline, said
            time.sleep(0.05)

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command there."""
        children = Path(f"/proc/{self._systemd.pid}/task/{self._systemd.pid}/children").read_text().split()
        if not children:
            raise FileNotFoundError("systemd has not begun")
        return subprocess.run(
            ["nsenter", "--target", children[0], "--mount", "--pid", "--net", *command],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

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

    def active(self) -> bool:
        """What systemd says."""
        return self.inside("systemctl", "is-active", "--quiet", "web").returncode == 0

    def main_pid(self) -> int:
        """The service's main process, as its namespace numbers it."""
        return int(self.inside("systemctl", "show", "--property=MainPID", "--value", "web").stdout)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the service's main process."""
        assert self.inside("kill", f"-{number.value}", str(self.main_pid())).returncode == 0

    def end(self) -> None:
        """Everything in the namespaces goes, and its control groups."""
        self._systemd.kill()
        self._systemd.wait()
        self._output.close()
        for found in Path("/sys/fs/cgroup").rglob(self._group):
            for folder, _, _ in os.walk(found, topdown=False):
                _remove(Path(folder))


def _remove(group: Path) -> None:
    """A control group goes when the last of its processes has been collected."""
    deadline = time.monotonic() + 20
    while group.exists():
        try:
            group.rmdir()
        except OSError:
            assert time.monotonic() < deadline, f"{group} stays"
            time.sleep(0.05)


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
