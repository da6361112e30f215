"""A real systemd in namespaces of its own: its manager for users stands for the machine's.

Needs root and a kernel with cgroup2: systemd keeps each service in a control group.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

#: Prepares the namespaces and starts systemd. systemctl asks this manager instead of the machine's.
BEGIN = """\
set -e
mount -t cgroup2 none /sys/fs/cgroup
mkdir /sys/fs/cgroup/{group}
echo $$ >/sys/fs/cgroup/{group}/cgroup.procs
mount -t tmpfs -o mode=755 tmpfs /run
ip link set lo up
mkdir -p /run/systemd/system /run/user/systemd/user
cp /usr/bin/systemctl /run/systemctl
printf '#!/bin/sh\\nXDG_RUNTIME_DIR=/run/user exec /run/systemctl --user "$@"\\n' >/run/wrapper
chmod 755 /run/wrapper
mount --bind /run/wrapper /usr/bin/systemctl
cp {units} /run/user/systemd/user/
XDG_RUNTIME_DIR=/run/user /lib/systemd/systemd --user --log-target=console &
wait $!
"""


class Systemd:
    """Namespaces with a systemd in them that has the unit whose file is ``unit``, and the units ``others``."""

    def __init__(self, directory: Path, unit: Path, others: Sequence[Path] = ()) -> None:
        self.directory = directory
        self.unit = unit.name
        self._group = f"locum-{directory.name}-{os.getpid()}"
        self._output = (directory / "systemd.log").open("wb")
        self._systemd = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--cgroup", "--net", "sh", "-c",
             BEGIN.format(group=self._group, units=" ".join(map(str, [unit, *others])))],
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
            said = self.said()
            assert self._systemd.poll() is None, f"systemd cannot run here: {said}"
            assert time.monotonic() < deadline, said
            time.sleep(0.05)

    def runs(self) -> bool:
        """Whether systemd itself has not ended."""
        return self._systemd.poll() is None

    def said(self) -> str:
        """What systemd and the unit have printed."""
        return (self.directory / "systemd.log").read_text(errors="replace")

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command there."""
        children = Path(f"/proc/{self._systemd.pid}/task/{self._systemd.pid}/children").read_text().split()
        if not children:
            raise FileNotFoundError("systemd has not begun")
        return subprocess.run(
            ["nsenter", "--target", children[0], "--mount", "--pid", "--net", *command],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    def active(self) -> bool:
        """Whether systemd says that the unit runs."""
        return self.inside("systemctl", "is-active", "--quiet", self.unit).returncode == 0

    def show(self, name: str) -> str:
        """A property of the unit."""
        return self.inside("systemctl", "show", f"--property={name}", "--value", self.unit).stdout.strip()

    def main_pid(self) -> int:
        """The unit's main process, as its namespace numbers it; 0 when it does not run."""
        return int(self.show("MainPID"))

    def send(self, number: int) -> None:
        """Send a signal to the unit's main process."""
        assert self.inside("kill", f"-{int(number)}", str(self.main_pid())).returncode == 0

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
