"""An admin's commands, given to daemons without waiting, and the known results of their writes.

A frozen daemon does not answer, so commands run concurrently. Confirmed writes are kept (I9).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

import msgspec

from locum.api import client
from locum.api.model import StatusReport, TunableReport
from locum_lab.lab import Lab
from locum_lab.torture.confirmed import ConfirmedWrites, Value, Write, writes_of

#: A command without an answer after this many seconds is given up.
_WITHIN = 20.0
#: The beginning of a command's answer when its write is in the store, but not yet carried out.
_ACCEPTED = "locum: accepted"
#: The exit status of an impossible command, which has written nothing.
_NOT_POSSIBLE = 2
_ASK_TIMEOUT = 2.0

#: Receives a line of the log.
Say = Callable[[str], None]


class _Command(msgspec.Struct, frozen=True):
    words: str
    begun: float
    process: subprocess.Popen[str]
    writes: tuple[Write, ...]


class Commands:
    """``say`` gets a line about each command that did not succeed. ``confirmed``: their writes."""

    def __init__(self, lab: Lab, say: Say) -> None:
        self.confirmed = ConfirmedWrites()
        self._lab = lab
        self._say = say
        self._running: list[_Command] = []

    def ask(self, node: str, *arguments: str) -> None:
        """Begin a ``locum`` command on a node."""
        self.collect()
        writes = writes_of(arguments, time.time())
        for write in writes:
            self.confirmed.begin(write)
        process = subprocess.Popen(
            self._lab.command(node, [sys.executable, "-m", "locum.cli.main", *arguments]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **self._lab.command_environment(node)},
        )
        self._running.append(_Command(f"{node}: locum {' '.join(arguments)}", time.monotonic(), process, writes))

    def forget(self) -> None:
        """The store went back: confirmed writes, and those in progress, may be lost."""
        self.collect()
        self.confirmed.forget()
        self._running = [msgspec.structs.replace(command, writes=()) for command in self._running]

    def collect(self, *, wait: float = 0.0) -> None:
        """Read the results of commands, waiting at most ``wait`` seconds for each; give up those that take too long."""
        running = []
        for command in self._running:
            try:
                output, _ = command.process.communicate(timeout=max(wait, 0.001))
            except subprocess.TimeoutExpired:
                if time.monotonic() - command.begun < _WITHIN:
                    running.append(command)
                    continue
                command.process.kill()
                output, _ = command.process.communicate()
            self._ended(command, output)
        self._running = running

    def close(self) -> None:
        """End running commands."""
        for command in self._running:
            command.process.kill()
            command.process.communicate()
        self._running.clear()

    def _ended(self, command: _Command, output: str) -> None:
        status = command.process.returncode
        lines = output.strip().splitlines() or [""]
        if status:
            self._say(f"{command.words}: {lines[-1] or ('given up' if status < 0 else f'status {status}')}")
        confirmed = status == 0 or any(line.startswith(_ACCEPTED) for line in lines)
        for write in command.writes:
            if confirmed:
                self.confirmed.end(write, time.time())
            elif status == _NOT_POSSIBLE:
                self.confirmed.refused(write)

    # -- results ---------------------------------------------------------------------------------------------------

    def seen_by(self, node: str) -> dict[str, Value]:
        """Everything that admins can set, as seen by the node. Raises LocumError; also when its view is outdated."""
        status = self._lab.status(node, _ASK_TIMEOUT)
        path = str(self._lab.control_socket(node))
        tunables = msgspec.json.decode(
            client.call_raw(path, {"op": "tunables"}, _ASK_TIMEOUT), type=tuple[TunableReport, ...]
        )
        return {**_seen_in(status), **{f"tunable {one.name}": float(one.value) for one in tunables}}


def _seen_in(status: StatusReport) -> dict[str, Value]:
    seen: dict[str, Value] = {f"preferred {one.address}": one.preferred for one in status.addresses}
    for node in status.nodes:
        seen[f"disabled {node.name}"] = node.disabled
        seen[f"stopped {node.name}"] = node.stopped
        seen[f"banned {node.name}"] = node.banned_until or 0.0
    return seen
