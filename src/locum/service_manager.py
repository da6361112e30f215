"""Tells the service manager that this process is ready and alive, by the protocol of sd_notify(3).

Rules of this file: it never waits, and a manager that cannot be told changes nothing. Without the variables that
systemd sets, nothing is sent.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
from collections.abc import MutableMapping


class ServiceManager:
    """The manager that ``environment`` names. Takes its variables out, because they are not meant for children."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        path = environment.pop("NOTIFY_SOCKET", "")
        # An abstract socket is written with an @.
        self._address = "\0" + path[1:] if path.startswith("@") else path
        #: Seconds between two signs of life: half of the time after which the manager takes the process for hung.
        self.interval = _watchdog(environment) / 2
        self._due = -math.inf

    def ready(self) -> None:
        """The process reacts to signals from now on."""
        self._send("READY=1")

    def alive(self, now: float) -> None:
        """Send a sign of life when one is due; ``now``: a clock in seconds that never goes back."""
        if now >= self._due and self.interval < math.inf:
            self._due = now + self.interval
            self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)
            channel.sendto(text.encode(), self._address)


def _watchdog(environment: MutableMapping[str, str]) -> float:
    """Seconds after which the manager takes this process for hung; infinite when it watches another one or none."""
    wanted, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
    if not wanted.isdecimal() or int(wanted) == 0 or (pid and pid != str(os.getpid())):
        return math.inf
    return int(wanted) / 1e6
