"""Apply the schedule's acts to a real lab, and undo them.

An impossible act (the process is dead already, the address is there already) is not an error: the schedule does not
know the lab's state.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from signal import SIGCONT, SIGTERM

from locum.errors import LocumError
from locum_lab import namespaces, processes
from locum_lab.lab import Lab
from locum_lab.processes import Process
from locum_lab.torture.commands import Commands
from locum_lab.torture.kinds import ON_STORE
from locum_lab.torture.schedule import Act

#: How long undoing a daemon's orderly end waits before it kills the rest, in seconds.
_END_WITHIN = 10.0
#: The order of undoing standing acts; daemons come last, and find the rest repaired.
_ORDER = (
    *("kill-store", "freeze-store", "kill-etcd", "freeze-etcd"),
    *("cut", "cut-private", "mute-private", "deaf-private", "mute-public", "deaf-public", "link"),
    *("full-disk", "no-descriptors", "hang-script", "fail-script", "service", "hang"),
)

#: The torture's event script: follows the files of its node, and is last in the order.
_SCRIPT_NAME = "95.torture"
_SCRIPT = """\
#!/bin/sh
if [ -e "{orders}/hang-script-$1" ]; then
    exec sleep 1000
fi
if [ -e "{orders}/fail-script-$1" ]; then
    echo "told to fail"
    exit 1
fi
exit 0
"""
#: The size of a node's state directory, in bytes.
_DISK = 1 << 20


class Hand:
    """Acts on one lab. ``commands`` runs an admin's commands."""

    def __init__(self, lab: Lab, commands: Commands) -> None:
        self._lab = lab
        self._commands = commands
        self._ask = commands.ask
        self._bits = {public.address: public.bits for public in lab.layout.public_addresses}
        self._copy: Path | None = None
        self._limits: dict[str, tuple[Process, tuple[int, int]]] = {}

    # -- preparation -----------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Give each node the event script, and a state directory on its own small disk.

        Daemons are stopped and started again for it. Raises LocumError.
        """
        for node in self._lab.layout.node_names:
            self._lab.stop_daemon(node)
            self._orders(node).mkdir()
            self._lab.write_script(node, _SCRIPT_NAME, _SCRIPT.format(orders=self._orders(node)))
            self._move_state(node)
        self._lab.start_daemons()

    def _orders(self, node: str) -> Path:
        return self._lab.node_directory(node) / "orders"

    def _disk(self, node: str) -> Path:
        # Directly in the lab's directory, where the lab's removal expects mounts.
        return self._lab.directory / f"disk-{node}"

    def _move_state(self, node: str) -> None:
        state, disk = self._lab.node_directory(node) / "state", self._disk(node)
        disk.mkdir()
        namespaces.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK},mode=755", "locum-lab", str(disk)])
        shutil.copytree(state, disk, dirs_exist_ok=True)
        shutil.rmtree(state)
        state.symlink_to(disk)

    def copy_store(self) -> None:
        """Keep a copy of the store for later acts, if it has content. Raises LocumError."""
        if "restore-store" in ON_STORE[self._lab.state.store]:
            self._copy = self._lab.copy_store()

    # -- apply and undo --------------------------------------------------------------------------------------------

    def do(self, act: Act) -> str:
        """Carry out an act; returns the obstacle, or ""."""
        try:
            special = self._special().get(act.kind)
            if special is None:
                self._lab.fault(act.node, act.kind)
                return ""
            return special(act) or ""
        except LocumError as error:
            return str(error)

    def undo(self, act: Act) -> str:
        """Undo it; returns the obstacle, or ""."""
        node = act.node
        try:
            match act.kind:
                case "disable":
                    self._ask(act.asked, "node", "enable", node)
                case "stop":
                    self._ask(act.asked, "node", "continue", node)
                case "ban":
                    self._ask(act.asked, "node", "unban", node)
                case "terminate":
                    self._start_daemon(node)
                case "service":
                    self._lab.start_services(node)
                    self._ask(node, "event", "run", "monitor")
                case "hang":
                    for process in reversed(self._lab.service_processes(node)):
                        processes.send(process, SIGCONT)
                    self._ask(node, "event", "run", "monitor")
                case "hang-script" | "fail-script":
                    self._order(act).unlink(missing_ok=True)
                    self._ask(node, "event", "run", "monitor")
                case "full-disk":
                    (self._disk(node) / ".filler").unlink(missing_ok=True)
                case "no-descriptors":
                    self._give_descriptors(node)
                case _:
                    self._lab.undo(node, act.kind)
        except LocumError as error:
            return str(error)
        return ""

    def undo_all(self, acts: list[Act]) -> list[str]:
        """Undo standing acts, in an order in which none waits for a frozen process; returns the obstacles."""
        acts = sorted(acts, key=lambda act: _ORDER.index(act.kind) if act.kind in _ORDER else len(_ORDER))
        return [f"{act.words()}: {problem}" for act in acts if (problem := self.undo(act))]

    def _special(self) -> dict[str, Callable[[Act], str | None]]:
        return {
            "service": self._kill_service,
            "hang": self._hang_service,
            "hang-script": lambda act: self._order(act).touch(),
            "fail-script": lambda act: self._order(act).touch(),
            "full-disk": self._fill_disk,
            "no-descriptors": self._take_descriptors,
            "terminate": self._terminate,
            "remove-address": self._remove_address,
            "foreign-address": self._foreign_address,
            "flush": self._flush,
            "wipe-store": lambda _: self._go_back(None),
            "restore-store": lambda _: self._go_back(self._copy),
            "disable": lambda act: self._ask(act.asked, "node", "disable", act.node),
            "stop": lambda act: self._ask(act.asked, "node", "stop", act.node),
            "ban": lambda act: self._ask(act.asked, "node", "ban", act.node, "--seconds", act.detail),
            "move": lambda act: self._ask(act.asked, "ip", "move", act.address, act.node),
            "auto": lambda act: self._ask(act.asked, "ip", "auto", act.address),
            "tunable": lambda act: self._ask(act.asked, "tunable", "set", *act.detail.split("=")),
            "event": lambda act: self._ask(act.asked, "event", "run", act.detail),
            "reload": lambda act: self._ask(act.asked, "reload"),
        }

    def _go_back(self, copy: Path | None) -> None:
        self._lab.store_goes_back(copy)
        self._commands.forget()

    def _order(self, act: Act) -> Path:
        return self._orders(act.node) / f"{act.kind}-{act.detail}"

    def _kill_service(self, act: Act) -> None:
        processes.wait_gone(processes.kill_all(lambda: self._lab.service_processes(act.node)), _END_WITHIN)

    def _hang_service(self, act: Act) -> None:
        processes.stop_all(lambda: self._lab.service_processes(act.node))

    def _terminate(self, act: Act) -> str:
        daemon = self._lab.state.nodes[act.node].daemon
        return "" if daemon is not None and processes.send(daemon, SIGTERM) else "no daemon runs there"

    def _start_daemon(self, node: str) -> None:
        with contextlib.suppress(LocumError):
            self._lab.stop_daemon(node, _END_WITHIN)
        processes.wait_gone(processes.kill_all(lambda: self._lab.ours(node)), _END_WITHIN)
        self._lab.start_daemon(node)

    def _fill_disk(self, act: Act) -> None:
        with (self._disk(act.node) / ".filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass

    def _take_descriptors(self, act: Act) -> str:
        agent = self._lab.agent(act.node)
        if agent is None:
            return "no agent runs there"
        try:
            count = len(os.listdir(f"/proc/{agent.pid}/fd"))
            old = resource.prlimit(agent.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (count, old[1]))
        except (FileNotFoundError, ProcessLookupError):
            return "the agent has just ended"
        self._limits[act.node] = (agent, old)
        return ""

    def _give_descriptors(self, node: str) -> None:
        agent, old = self._limits.pop(node, (None, (0, 0)))
        if agent is not None and processes.alive(agent):
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, old)

    def _remove_address(self, act: Act) -> str:
        for node in self._lab.layout.node_names:
            interface = self._lab.configured(node).get(act.address)
            if interface is not None:
                self._ip(node, "del", act.address, interface)
                return ""
        return "no node has it"

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
