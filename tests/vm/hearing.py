"""Hears every packet with which one node speaks for a public address, and marks that guests send, on one clock.

Run in the hub's namespace: ``python -m tests.vm.hearing PORT TAP ...`` writes a line for each.
"""

from __future__ import annotations

import ipaddress
import select
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import msgspec

from locum.clock import boottime
from locum.errors import LocumError
from locum_lab import observer, packets, processes
from locum_lab.tail import Tail
from locum_lab.vm import setup
from locum_lab.vm.lab import VmLab

#: UDP port of the hub to which guests send marks.
PORT = 9999


class Heard(msgspec.Struct, frozen=True, omit_defaults=True):
    """A packet that spoke for ``address``, or a mark with its text.

    ``t``: boot time in seconds at which the kernel received it.
    """

    t: float
    address: str = ""
    mark: str = ""


def marking(text: str) -> str:
    """A command for guests (systemd's ExecStartPre=, ExecStopPost= …) that sends a mark."""
    return f"/bin/bash -c 'echo -n {text} >/dev/udp/{setup.OUTSIDE_V4}/{PORT}'"


class Hearing:
    """Hears until the end of the ``with`` block. ``heard``: everything up to the last :meth:`read`, in order."""

    def __init__(self, lab: VmLab, node: str) -> None:
        self._lab = lab
        self._pool = {public.address for public in lab.layout.public_addresses}
        self.heard: list[Heard] = []
        path = lab.directory / "hearing.jsonl"
        path.unlink(missing_ok=True)
        self._tail = Tail(path)
        command = [*("ip", "netns", "exec", lab.layout.hub, sys.executable, "-m", "tests.vm.hearing")]
        with path.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, str(PORT), *(lab.layout.port(node, name) for name in lab.layout.public_interfaces)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                cwd=Path(__file__).parents[2],
                start_new_session=True,
            )
        processes.prefer(self._process.pid)  # as the guests
        self.wait_mark("begin")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def read(self) -> None:
        """Read what was heard since the last call. Raises LocumError when the process has ended."""
        if self._process.poll() is not None:
            raise LocumError(f"tests.vm.hearing ended with status {self._process.returncode}")
        new = (msgspec.json.decode(line, type=Heard) for line in self._tail.lines())
        self.heard += (item for item in new if item.mark or item.address in self._pool)
        self.heard.sort(key=lambda item: item.t)

    def marks(self, text: str) -> list[float]:
        """When this mark has arrived, each time."""
        self.read()
        return [item.t for item in self.heard if item.mark == text]

    def wait_mark(self, text: str) -> float:
        """Wait for a mark; the time of its last arrival."""
        return self._lab.wait_for(f"the mark {text!r}", lambda: self.marks(text))[-1]

    def spoken(self, since: float) -> list[Heard]:
        """The packets of the node for public addresses from ``since`` on."""
        return [item for item in self.heard if item.address and item.t >= since]


def main(port: int, interfaces: Sequence[str]) -> None:
    """Hear these interfaces and one port, for ever."""
    marks = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    observer.ask_stamps(marks)
    marks.bind((setup.OUTSIDE_V4, port))
    sockets = [marks, *(observer.open_socket(interface) for interface in interfaces)]
    _write(Heard(boottime(), mark="begin"))
    while True:
        for ready in select.select(sockets, [], [])[0]:
            data, ancillary, _, sender = ready.recvmsg(packets.SNAP_LENGTH, 64)
            # The kernel's stamps are wall-clock times.
            t = observer.stamp(ancillary) + boottime() - time.time()
            if ready is marks:
                _write(Heard(t, mark=data.decode(errors="replace")))
            elif sender[2] != socket.PACKET_OUTGOING and (spoken := packets.speaks_for(data)) is not None:
                _write(Heard(t, str(ipaddress.ip_address(spoken[1]))))


def _write(item: Heard) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(item) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
