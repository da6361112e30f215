"""One guest: its QEMU process, its monitor, its agent, and what can happen to a machine."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from locum.clock import boottime
from locum.errors import LocumError
from locum_lab import namespaces, processes
from locum_lab.processes import Children, Process
from locum_lab.vm import qemu
from locum_lab.vm.channel import Agent, Done, GuestError, Monitor
from locum_lab.vm.image import Image
from locum_lab.vm.qemu import Hardware, Saved

#: Limits in seconds. An emulated processor is slow, and slower beside other work.
BOOT_WITHIN = 900.0
POWER_OFF_WITHIN = 300.0
_KILLED_WITHIN = 30.0
_MONITOR_WITHIN = 120.0
#: After this time without an answer a guest is asked again whether it is awake, in seconds.
_AWAKE_ANSWERS_WITHIN = 10.0
#: Between two questions whether something has happened, in seconds.
_ASK_AGAIN = 0.25

#: A file of :meth:`Machine.write_all` in the guest.
_ARCHIVE = "/run/files.tar"

#: systemd's units of a login, at the start of a line.
_LOGIN = re.compile(r"(session-\w+\.scope|user(-runtime-dir)?@\d+\.service)\b")

#: Becomes a command, given after the pid of its parent. The kernel does not tell the end of a parent that had ended
#: before it was asked to (prctl(2), PR_SET_PDEATHSIG).
_UNLESS_ORPHAN = '[ "$PPID" = "$1" ] || exit 1; shift; exec "$@"'

#: A shell command that succeeds while the guest is about to sleep or to go down, or has just woken: rtcwake or systemd
#: is at it.
_IS_LEAVING = (
    "pgrep -f '[r]tcwake|/[s]ystemd-sleep|[s]ystemctl suspend' >/dev/null"
    " || systemctl list-jobs --no-legend | grep -qE '(suspend|sleep|shutdown)\\.(target|service)'"
)

T = TypeVar("T")


class Machine:
    """A guest. ``process`` is its QEMU; None while it has no power. ``namespace``: None for one of its own."""

    def __init__(self, hardware: Hardware, image: Image, namespace: str | None, process: Process | None = None) -> None:
        self.hardware = hardware
        self.image = image
        self.process = process
        self._namespace = namespace
        #: By how many seconds at most its clock was late when the lab set it.
        self.clock_late = 0.0
        self.agent = Agent(hardware.agent)
        self.monitor = Monitor(hardware.monitor)

    @property
    def name(self) -> str:
        """The guest's host name."""
        return self.hardware.name

    @property
    def powered(self) -> bool:
        """Whether its QEMU runs."""
        return processes.alive(self.process)

    # -- power -----------------------------------------------------------------------------------------------------

    def power_on(self, children: Children, *, dies_with_us: bool = False, saved: Saved | None = None) -> Process:
        """Start QEMU in the lab's namespace; the disk is made at the first time.

        Returns when its monitor answers; does not wait for the boot. Raises LocumError, also when QEMU ends at once.

        ``dies_with_us``: the kernel kills the guest when the calling thread ends, also by a crash. ``saved``: at the
        first time, continue from there instead of booting.
        """
        if self.powered:
            raise LocumError(f"{self.name} has power already")
        hardware = self.hardware
        hardware.directory.mkdir(parents=True, exist_ok=True)
        if not hardware.disk.exists():
            namespaces.run(qemu.disk_command(hardware, self.image, saved))
        for path in (hardware.monitor, hardware.agent):
            path.unlink(missing_ok=True)
        # QEMU empties the console's log when it starts: keep what the guest wrote before.
        if hardware.console.exists():
            with (hardware.directory / "console.old.log").open("ab") as old:
                old.write(hardware.console.read_bytes())
        argv = qemu.command(hardware, self.image, qemu.accelerator(self.image), saved)
        if dies_with_us:
            argv = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", _UNLESS_ORPHAN, "sh", str(os.getpid()), *argv]
        self.process = children.spawn(argv, namespace=self._namespace, log=hardware.directory / "qemu.log")
        # An emulated guest on a busy machine otherwise gets so little that time limits inside it pass: those of
        # systemd, of the kernel's drivers, and Locum's holds.
        processes.prefer(self.process.pid)
        self.wait_for("QEMU's monitor", self.monitor.answers, _MONITOR_WITHIN)
        return self.process

    def cut_power(self) -> float:
        """Kill QEMU: what the guest had not written to its disk is lost. Returns the boot time in seconds."""
        if self.process is not None:
            processes.send(self.process, signal.SIGKILL)
            if processes.wait_gone([self.process], _KILLED_WITHIN):
                raise LocumError(f"{self.name}: QEMU (pid {self.process.pid}) does not end when it is killed")
        return boottime()

    def power_button(self) -> None:
        """Press the power button: systemd shuts the guest down. See :meth:`wait_off`."""
        self.monitor.execute("system_powerdown")

    def wait_off(self, limit: float = POWER_OFF_WITHIN) -> None:
        """Wait until the guest has powered itself off."""
        if self.process is not None and processes.wait_gone([self.process], limit):
            raise LocumError(f"{self.name} has not powered off within {limit:g} s; see {self.hardware.console}")

    def reset(self) -> None:
        """Press the reset button: the guest starts again without any warning."""
        self.monitor.execute("system_reset")

    def reboot(self) -> None:
        """``systemctl reboot``; returns when the guest has gone down. See :meth:`wait_booted`."""
        before = self.boot_id()
        with contextlib.suppress(GuestError):  # the agent may be stopped before it has answered
            self.agent.start(["systemctl", "--no-block", "reboot"])

        def again() -> bool:
            try:
                return self.boot_id() != before
            except GuestError:
                return False

        self.wait_for("a new boot", again, BOOT_WITHIN)

    def boot_id(self) -> str:
        """The identity of the guest's present boot."""
        return self.agent.read("/proc/sys/kernel/random/boot_id").decode().strip()

    def wait_booted(self, limit: float = BOOT_WITHIN) -> None:
        """Wait until systemd has started everything. Raises LocumError, also when a unit has failed."""
        deadline = time.monotonic() + limit
        self.wait_for("an answer of its agent", self.agent.answers, limit)
        left = max(1.0, deadline - time.monotonic())
        done = self.agent.run(["systemctl", "is-system-running", "--wait"], timeout=left)
        if done.stdout.strip() == "running":
            return
        failed = self.agent.run(["systemctl", "--failed", "--no-legend", "--plain"]).stdout.splitlines()
        # The console's login may fail to start in time on a slow machine: it is not a service of the guest.
        if (units := [line for line in failed if not _LOGIN.match(line)]) or done.stdout.strip() != "degraded":
            listed = "\n".join(units)
            raise LocumError(f"{self.name} is {done.stdout.strip()}; failed units:\n{listed}")

    # -- commands and files ----------------------------------------------------------------------------------------

    def run(self, argv: Sequence[str], *, text: str = "", timeout: float = 300.0) -> Done:
        """Run a command as root and wait for it; works without the guest's networks."""
        return self.agent.run(argv, text=text, timeout=timeout)

    def sh(self, script: str, *arguments: str, timeout: float = 300.0) -> str:
        """Run a shell script as root, with ``set -eu``; return its output. Raises LocumError when it fails."""
        done = self.run(["sh", "-euc", script, "sh", *arguments], timeout=timeout)
        if done.status != 0:
            raise LocumError(f"{self.name}: {script!r} ended with status {done.status}: {done.stderr or done.stdout}")
        return done.stdout

    def write(self, path: str, content: str | bytes, mode: int = 0o644) -> None:
        """Write a file, and its directory when missing."""
        self.sh(f"mkdir -p '{Path(path).parent}'")
        self.agent.write(path, content.encode() if isinstance(content, str) else content)
        self.sh(f"chmod {mode:o} '{path}'")

    def write_all(self, files: Mapping[str, str]) -> None:
        """Write text files, and their directories when missing, with one command: each takes an emulated processor
        half a second."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for path, text in files.items():
                data = text.encode()
                member = tarfile.TarInfo(path.lstrip("/"))
                member.size, member.mode, member.mtime = len(data), 0o644, int(time.time())
                archive.addfile(member, io.BytesIO(data))
        self.agent.write(_ARCHIVE, packed.getvalue())
        self.sh(f"tar --extract --no-overwrite-dir --file {_ARCHIVE} --directory /; rm {_ARCHIVE}")

    def read(self, path: str) -> str:
        """The text of a file."""
        return self.agent.read(path).decode(errors="replace")

    def journal(self, unit: str | None = None, lines: int = 200) -> str:
        """The last lines of the journal, or of a unit's."""
        chosen = ["-u", unit] if unit else []
        return self.run(["journalctl", "--no-pager", "-o", "short-monotonic", "-n", str(lines), *chosen]).stdout

    # -- faults ----------------------------------------------------------------------------------------------------

    def freeze(self) -> float:
        """SIGSTOP of QEMU: the guest stands still while its clocks go on, like a stalled host. Returns boot time."""
        assert self.process is not None
        processes.send(self.process, signal.SIGSTOP)
        return boottime()

    def thaw(self) -> float:
        """Undo :meth:`freeze`. Returns boot time."""
        assert self.process is not None
        processes.send(self.process, signal.SIGCONT)
        return boottime()

    def pause(self) -> float:
        """QMP ``stop``: the hypervisor stops the guest's processor *and its clocks*. Returns boot time."""
        self.monitor.execute("stop")
        return boottime()

    def resume(self) -> float:
        """Undo :meth:`pause`. Returns boot time."""
        self.monitor.execute("cont")
        return boottime()

    def set_carrier(self, interface: str, up: bool) -> float:
        """Plug in or pull out the cable of eth0, eth1, …: the guest sees the change. Returns boot time."""
        self.monitor.execute("set_link", name=interface, up=up)
        return boottime()

    def sleep(self, seconds: int) -> float:
        """Suspend to memory; the guest's clock wakes it after ``seconds``. Returns boot time; does not wait."""
        self.agent.start(["rtcwake", "-m", "mem", "-s", str(seconds)])
        return boottime()

    def asleep(self) -> bool:
        """Whether the guest is suspended to memory."""
        return bool(self.monitor.execute("query-status")["status"] == "suspended")

    def wake(self) -> float:
        """Wake the guest if it sleeps; wait for one that falls asleep, wakes, or boots. Returns boot time.

        Raises LocumError also for a guest that powers itself off meanwhile.
        """
        self.wait_for("its sleep, or that it is awake", self._wakes, BOOT_WITHIN)
        return boottime()

    def _wakes(self) -> bool:
        """Wake the guest if it sleeps; whether it is awake and stays so."""
        if self.asleep():
            with contextlib.suppress(GuestError):  # QEMU refuses when the guest has woken in this moment
                self.monitor.execute("system_wakeup")
            return not self.asleep()
        # A guest that falls asleep during the question does not answer.
        agent = Agent(self.hardware.agent, _AWAKE_ANSWERS_WITHIN)
        try:
            return agent.answers() and agent.run(["sh", "-c", _IS_LEAVING], timeout=_AWAKE_ANSWERS_WITHIN).status != 0
        except GuestError:
            return False

    def interrupt(self) -> None:
        """Inject a non-maskable interrupt."""
        self.monitor.execute("inject-nmi")

    # -- waiting ---------------------------------------------------------------------------------------------------

    def wait_for(self, what: str, condition: Callable[[], T], limit: float = 300.0) -> T:
        """Call ``condition`` until it returns a true value, and return that. Raises LocumError after ``limit``."""
        deadline = time.monotonic() + limit
        while True:
            if result := condition():
                return result
            if not self.powered:
                raise LocumError(f"{self.name} ended while waiting for {what}; see {self.hardware.directory}/qemu.log")
            if time.monotonic() > deadline:
                raise LocumError(f"{self.name}: not within {limit:g} s: {what}; see {self.hardware.console}")
            time.sleep(_ASK_AGAIN)
