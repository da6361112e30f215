"""Does what the schedule says to a real lab, and undoes it.

An act that cannot be done (the process is dead already, the address is there already) is no error: the schedule knows
nothing of such things. Admin commands run beside: a daemon that is frozen answers none.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from signal import SIGTERM

from locum.errors import LocumError
from locum.lab import processes
from locum.lab.lab import Lab
from locum.lab.torture.schedule import Act

#: What undoing a daemon's orderly end waits for, in seconds, before it kills what is left.
_END_WITHIN = 10.0
#: An admin command that has no answer after so many seconds is given up.
_COMMAND_WITHIN = 20.0
#: The order of undoing what stands; daemons come last, and find the rest as it should be.
_ORDER = ("kill-store", "freeze-store", "kill-etcd", "freeze-etcd", "cut", "cut-private", "link", "service")

#: Takes a line of the log.
Say = Callable[[str], None]


class Hand:
    """Acts on one lab. ``say`` gets a line about each command that was answered."""

    def __init__(self, lab: Lab, say: Say) -> None:
        self._lab = lab
        self._say = say
        self._commands: list[tuple[str, float, subprocess.Popen[str]]] = []
        self._bits = {public.address: public.bits for public in lab.layout.public_addresses}

    def do(self, act: Act) -> str:
        """Carry out an act; returns what was in the way, empty when nothing was."""
        try:
            special = self._special().get(act.kind)
            if special is None:
                self._lab.fault(act.node, act.kind)
                return ""
            return special(act) or ""
        except LocumError as error:
            return str(error)

    def undo(self, act: Act) -> str:
        """Undo it; returns what was in the way."""
        node = act.node
        try:
            match act.kind:
                case "disable":
                    self.ask(act.asked, "node", "enable", node)
                case "stop":
                    self.ask(act.asked, "node", "continue", node)
                case "terminate":
                    self._start_daemon(node)
                case "service":
                    self._lab.start_services(node)
                    self.ask(node, "event", "run", "monitor")
                case _:
                    self._lab.undo(node, act.kind)
        except LocumError as error:
            return str(error)
        return ""

    def undo_all(self, acts: list[Act]) -> list[str]:
        """Undo acts that stand, in an order in which nothing waits for what is frozen; returns what was in the way."""
        acts = sorted(acts, key=lambda act: _ORDER.index(act.kind) if act.kind in _ORDER else len(_ORDER))
        return [f"{act.words()}: {problem}" for act in acts if (problem := self.undo(act))]

    def ask(self, node: str, *arguments: str) -> None:
        """Begin a ``locum`` command on a node."""
        self.collect()
        command = self._lab.command(node, [sys.executable, "-m", "locum.cli.main", *arguments])
        self._commands.append(
            (
                f"{node}: locum {' '.join(arguments)}",
                time.monotonic(),
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    env={**os.environ, **self._lab.command_environment(node)},
                ),
            )
        )

    def collect(self, *, all_of_them: bool = False) -> None:
        """Take in what commands said; with ``all_of_them`` give up those that have no answer yet."""
        waiting = []
        for words, begun, process in self._commands:
            if process.poll() is None:
                if not all_of_them and time.monotonic() - begun < _COMMAND_WITHIN:
                    waiting.append((words, begun, process))
                    continue
                process.kill()
            output, _ = process.communicate()
            if process.returncode:
                last = output.strip().splitlines()[-1:] or ["given up" if process.returncode < 0 else ""]
                self._say(f"{words}: {last[0]}")
        self._commands = waiting

    def _special(self) -> dict[str, Callable[[Act], str | None]]:
        return {
            "service": self._kill_service,
            "terminate": self._terminate,
            "remove-address": self._remove_address,
            "foreign-address": self._foreign_address,
            "flush": self._flush,
            "disable": lambda act: self.ask(act.asked, "node", "disable", act.node),
            "stop": lambda act: self.ask(act.asked, "node", "stop", act.node),
            "move": lambda act: self.ask(act.asked, "ip", "move", act.address, act.node),
            "reload": lambda act: self.ask(act.asked, "reload"),
        }

    def _kill_service(self, act: Act) -> None:
        processes.kill_all(lambda: self._lab.service_processes(act.node))

    def _terminate(self, act: Act) -> str:
        daemon = self._lab.state.nodes[act.node].daemon
        return "" if daemon is not None and processes.send(daemon, SIGTERM) else "no daemon runs there"

    def _start_daemon(self, node: str) -> None:
        with contextlib.suppress(LocumError):
            self._lab.stop_daemon(node, _END_WITHIN)
        processes.kill_all(lambda: self._lab.ours(node))
        self._lab.start_daemon(node)

    def _remove_address(self, act: Act) -> str:
        for node in self._lab.layout.node_names:
            interface = self._lab.configured(node).get(act.address)
            if interface is not None:
                self._ip(node, "del", act.address, interface)
                return ""
        return "nobody has it"

    def _foreign_address(self, act: Act) -> str:
        if act.address in self._lab.configured(act.node):
            return "it has it already"
        return self._ip(act.node, "add", act.address, self._lab.layout.public_interfaces[0])

    def _ip(self, node: str, verb: str, address: str, interface: str) -> str:
        where = [f"{address}/{self._bits[address]}", "dev", interface]
        done = self._lab.run(node, ["ip", "address", verb, *where])
        return done.stderr.strip()

    def _flush(self, act: Act) -> str:
        return self._lab.run(act.node, ["nft", "flush", "ruleset"]).stderr.strip()
