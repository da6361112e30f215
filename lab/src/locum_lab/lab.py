"""A cluster on this machine: the object that the commands, the demo and the tests work with.

This file assembles namespaces, store, services and daemons, and removes them completely. It must not make any decision
of a real cluster; it does only what an administrator does, or what happens to machines.

Every process in the lab's namespaces belongs to the lab. So :meth:`Lab.down` finds all of them, including those that a
crashed lab had no time to record.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self, TypeVar

import msgspec

from locum.api import client
from locum.api.model import StatusReport
from locum.clock import boottime
from locum.errors import LocumError, UsageError
from locum.node.guard.children import AGENT_NAME
from locum_lab import faults, namespaces, network, node_files, processes, state, stores
from locum_lab import services as service_table
from locum_lab.layout import PREFIX, Layout
from locum_lab.processes import Children, Process
from locum_lab.state import AppliedFault, LabState, NodeState

#: In the environment of everything that the lab starts on a node: "daemon" or "service". Children inherit it, which
#: identifies orphans.
PART = "LOCUM_LAB_PART"


#: How long everything must have been served under one plan to count as settled, in seconds.
_STAYS = 0.15

T = TypeVar("T")


class Lab:
    """One lab. Make one with :meth:`up`, find one with :meth:`load`.

    Attributes: ``layout`` (the numbers), ``state`` (the processes), ``directory`` (its files), ``store``.
    """

    def __init__(self, lab_state: LabState, children: Children | None = None) -> None:
        self.state = lab_state
        self.layout = lab_state.layout
        self.directory = state.directory_of(self.layout.name)
        self._children = children or Children()
        self.store = stores.make(lab_state.store, self.layout, self.directory, self._children)

    # -- life ------------------------------------------------------------------------------------------------------

    @classmethod
    def up(
        cls,
        layout: Layout,
        *,
        services: Sequence[str] = ("web",),
        store: str = "embedded",
        daemons: bool = True,
        owner: Process | None = None,
        settings: str = "",
        daemon_command: Sequence[str] = (),
    ) -> Self:
        """Build a lab and start everything in it; does not wait for the cluster.

        ``settings`` is TOML added to every node's configuration. ``services``: see :mod:`locum_lab.services`.
        ``daemons`` False starts everything but the daemons. ``owner``: without this process the lab is a leftover.
        ``daemon_command`` replaces the daemon (tests of the lab itself). Raises UsageError when a lab of that name is
        up.
        """
        layout.check()
        for service in services:
            service_table.named(service).check()
        with state.locked(layout.name, create=True):
            if (old := state.read(layout.name)) is not None and old.complete and is_running(old):
                raise UsageError(f"lab {layout.name} is up already; `locum lab down --name {layout.name}` ends it")
            clean(layout.name, keep_directory=True)
            new = LabState(
                layout=layout,
                services=tuple(services),
                store=store,
                owner=owner,
                command=tuple(daemon_command),
            )
            state.write(new)
            try:
                lab = cls(new)
                lab._build(settings)
                if daemons:
                    lab.start_daemons()
            except BaseException:
                clean(layout.name)
                raise
            lab._record(complete=True)
        return lab

    @classmethod
    def load(cls, name: str) -> Self:
        """The lab of that name; raises UsageError without one."""
        found = state.read(name)
        if found is None:
            others = ", ".join(state.known())
            raise UsageError(f"no lab {name!r}{f'; there is {others}' if others else ''}; `locum lab up` makes one")
        if found.guests:
            raise UsageError(f"lab {name} has virtual machines: this command is for labs of namespaces")
        return cls(found)

    def down(self) -> None:
        """End every process in the lab and remove everything that it made."""
        down(self.layout.name)
        self._children.reap()

    def _build(self, settings: str) -> None:
        network.build(self.layout)
        self.shared.mkdir(exist_ok=True)
        self._record(store_processes=self.store.start())
        for node in self.layout.node_names:
            self.node_directory(node).mkdir(parents=True, exist_ok=True)
            self.shared_on(node).symlink_to(self.shared)
            node_files.write(
                self.layout,
                self.node_directory(node),
                node,
                store_url=self.store.url(node),
                settings=settings,
                scripts=None if self.state.command else self._service_scripts(node),
            )
            self.start_services(node)
            self._record_node(node, path=self.store.open_path(node))
        self.store.wait_ready()

    # -- places ----------------------------------------------------------------------------------------------------

    def node_directory(self, node: str) -> Path:
        """The node's configuration, state, runtime files and logs."""
        self.layout.number(node)
        return self.directory / "nodes" / node

    @property
    def shared(self) -> Path:
        """The directory that represents a cluster's file system: all nodes' services serve its files."""
        return self.directory / "shared"

    def shared_on(self, node: str) -> Path:
        """The node's path of the shared directory: a link, so that one node can lose it, like a mount."""
        return self.node_directory(node) / "shared"

    def control_socket(self, node: str) -> Path:
        """The control socket of the node's daemon."""
        return self.node_directory(node) / "runtime" / "control.sock"

    def write_script(self, node: str, name: str, text: str) -> Path:
        """Put an event script of that name and text on a node, executable."""
        path = self.node_directory(node) / "events" / name
        # In one step: a running daemon must not read half of it.
        temporary = self.node_directory(node) / f"{name}.new"
        temporary.write_text(text)
        temporary.chmod(0o755)
        temporary.replace(path)
        return path

    def environment(self, node: str) -> dict[str, str]:
        """The environment of a command on that node."""
        return {
            "LOCUM_SOCKET": str(self.control_socket(node)),
            "LOCUM_CONFIG": str(self.node_directory(node) / "config.toml"),
        }

    # -- processes -------------------------------------------------------------------------------------------------

    def start_daemon(self, node: str) -> None:
        """Start the node's daemon, as its service manager would; a running one is left unchanged."""
        if processes.alive(self.state.nodes.get(node, NodeState()).daemon):
            return
        config = self.node_directory(node) / "config.toml"
        command = self.state.command or (sys.executable, "-m", "locum.cli.main", "daemon", "--config", str(config))
        daemon = self._children.spawn(
            command,
            namespace=self.layout.namespace(node),
            log=self.daemon_log(node),
            environment={**self.environment(node), PART: "daemon"},
        )
        self._record_node(node, daemon=daemon)

    def start_daemons(self) -> None:
        """Start the daemons of all nodes."""
        for node in self.layout.node_names:
            self.start_daemon(node)

    def stop_daemon(self, node: str, limit: float = 30.0) -> None:
        """Ask the node's daemon to stop, as its service manager would, and wait for it (``limit`` seconds)."""
        daemon = self.state.nodes[node].daemon
        if daemon is None or not processes.send(daemon, signal.SIGTERM):
            return
        if processes.wait_gone([daemon], limit):
            raise LocumError(f"{node}: the daemon (pid {daemon.pid}) did not stop within {limit:g} s")
        self._children.reap()

    def daemon_log(self, node: str) -> Path:
        """The log of the node's daemon."""
        return self.node_directory(node) / "daemon.log"

    def store_process(self, node: str) -> Process:
        """The store's process on that node, or the one that all nodes share."""
        return self.store.process(node, self.state.store_processes)

    def start_store(self, node: str) -> None:
        """Start the store's process of that node again; a running one is left unchanged."""
        self._record(store_processes=self.store.restart(node, self.state.store_processes))

    def copy_store(self) -> Path:
        """A copy of the store's present content. Raises LocumError."""
        copies = self.directory / "copies"
        copies.mkdir(exist_ok=True)
        copy = copies / str(len(list(copies.iterdir())))
        self.store.copy(copy)
        return copy

    def store_goes_back(self, copy: Path | None) -> None:
        """Wipe the store, or restore it from a copy; daemons are not affected. Raises LocumError."""
        self._record(store_processes=self.store.go_back(copy, self.state.store_processes))

    def start_services(self, node: str) -> None:
        """Start the node's services; running ones are left unchanged."""
        for name in self.state.services:
            command = service_table.named(name).command
            if command is None:
                continue  # its event script starts it
            running = self.state.nodes.get(node, NodeState()).services
            if processes.alive(running.get(name)):
                continue
            site = self._site(node, name)
            process = self._children.spawn(
                command(site),
                namespace=self.layout.namespace(node),
                log=site.directory / "output.log",
                environment={PART: "service"},
            )
            self._record_node(node, services={**running, name: process})

    def _site(self, node: str, service: str) -> service_table.Site:
        return service_table.Site(self.node_directory(node) / service, node, self.shared_on(node))

    def _service_scripts(self, node: str) -> dict[Path, service_table.Settings]:
        """The event scripts of the node's services, with their settings; prepares the services that they start."""
        found: dict[Path, service_table.Settings] = {}
        for name in self.state.services:
            service = service_table.named(name)
            if service.script is not None:
                found[service.script] = service.settings(self._site(node, name)) if service.settings else {}
        return found

    def service_processes(self, node: str, service: str | None = None) -> tuple[Process, ...]:
        """All living processes of the node's services, or of one, started by any program."""
        wanted = self.state.services if service is None else (service,)
        recorded = self.state.nodes[node].services
        roots = [recorded[name].pid for name in wanted if name in recorded and processes.alive(recorded[name])]
        # The toolbox records a service that an event script started; it is a session.
        sessions = set()
        for name in wanted:
            script = service_table.named(name).script
            for path in (self.node_directory(node) / "runtime" / "services").glob(
                f"{script.name}*.pid" if script else ""
            ):
                with contextlib.suppress(OSError, ValueError, IndexError):
                    sessions.add(int(path.read_text().split()[0]))
        return processes.family([*roots, *processes.sessions(sessions)])

    def check_services(self, node: str) -> None:
        """Make the node's daemon run monitor now, as an admin would after a repair."""
        self.run(node, [sys.executable, "-m", "locum.cli.main", "event", "run", "monitor"])

    def ours(self, node: str) -> tuple[Process, ...]:
        """Every living process of Locum on that node: the guard, its descendants, and orphans of either."""
        name = self.layout.namespace(node)
        here = namespaces.inhabitants([name]).get(name, ())
        guard = self.state.nodes[node].daemon
        descended = processes.family([guard.pid] if processes.alive(guard) and guard is not None else [])
        members = {process.pid: process for process in descended if process.pid in here}
        for pid in here:
            if pid not in members and processes.environment_of(pid).get(PART) == "daemon":
                process = processes.find(pid)
                if process is not None:
                    members[pid] = process
        return tuple(members.values())

    def agent(self, node: str) -> Process | None:
        """The node's agent process, a child of the guard; None when none runs."""
        guard = self.state.nodes[node].daemon
        if guard is None:
            return None
        for process in self.ours(node):
            stat = processes.read_stat(process.pid)
            agent = bool(self.state.command) or processes.name_of(process.pid) == AGENT_NAME
            if stat is not None and stat.parent == guard.pid and agent:
                return process
        return None

    def run(
        self, node: str, argv: Sequence[str], *, timeout: float = 60.0, text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a node (or on ``client``, ``hub``) and wait for it; its output and status are returned."""
        return subprocess.run(
            self.command(node, argv),
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={**os.environ, **self.command_environment(node)},
        )

    def command(self, node: str, argv: Sequence[str]) -> list[str]:
        """The command line that runs ``argv`` on a node (or on ``client``, ``hub``)."""
        if node not in ("client", "hub"):
            self.layout.number(node)
        return ["ip", "netns", "exec", self.layout.namespace(node), *argv]

    def command_environment(self, node: str) -> dict[str, str]:
        """The environment that :meth:`command` needs."""
        return {} if node in ("client", "hub") else self.environment(node)

    # -- faults ----------------------------------------------------------------------------------------------------

    def fault(self, node: str, kind: str, interface: str | None = None) -> float:
        """Apply this fault to the node; see :mod:`locum_lab.faults`. Returns its boot time in seconds.

        ``interface``: the public interface for ``link``, the first when None.
        """
        self.layout.number(node)
        fault = faults.kind(kind)
        if interface is not None and interface not in self.layout.public_interfaces:
            raise UsageError(f"no public interface {interface!r}; there is {', '.join(self.layout.public_interfaces)}")
        applied = AppliedFault(kind, interface or self.layout.public_interfaces[0])
        present = self.state.nodes[node].faults
        if fault.heal is not None and applied not in present:
            self._record_node(node, faults=(*present, applied))  # before it is applied: half a fault can be healed
        try:
            fault.apply(self, node, applied.interface)
        except UsageError:  # refused, without any effect
            self._record_node(node, faults=present)
            raise
        done = boottime()
        self._children.reap()
        return done

    def undo(self, node: str, kind: str) -> float:
        """Undo one kind of fault, if the node has it. Returns the boot time."""
        self.layout.number(node)
        for applied in self.state.nodes[node].faults:
            undo = faults.kind(applied.kind).heal
            if applied.kind == kind and undo is not None:
                undo(self, node, applied.interface)
                left = tuple(other for other in self.state.nodes[node].faults if other != applied)
                self._record_node(node, faults=left)
        return boottime()

    def heal(self, node: str | None = None) -> float:
        """Undo every fault of the node, or of all nodes, and start killed processes. Returns the boot time."""
        for name in self.layout.node_names if node is None else (node,):
            self.layout.number(name)
            for applied in self.state.nodes[name].faults:
                undo = faults.kind(applied.kind).heal
                assert undo is not None  # only such are recorded
                undo(self, name, applied.interface)
            self._record_node(name, faults=())
        return boottime()

    # -- the cluster's state ---------------------------------------------------------------------------------------

    def status(self, node: str | None = None, timeout: float = 2.0) -> StatusReport:
        """The cluster as seen by ``node``, or by the first node without a fault that answers within ``timeout``
        seconds.

        Raises LocumError without an answer.
        """
        problem: LocumError = LocumError("no daemon was started")
        for name in self._asked_nodes() if node is None else (node,):
            try:
                answer = client.call_raw(str(self.control_socket(name)), {"op": "status"}, timeout)
                return msgspec.json.decode(answer, type=StatusReport)
            except LocumError as error:
                problem = error
        raise problem

    def _asked_nodes(self) -> tuple[str, ...]:
        """All nodes, those that may have a wrong view of the cluster last."""
        return tuple(sorted(self.layout.node_names, key=lambda node: len(self.state.nodes[node].faults)))

    def configured(self, node: str) -> dict[str, str]:
        """The public addresses that the node's kernel has: address → interface."""
        pool = {public.address for public in self.layout.public_addresses}
        found = {}
        for link in json.loads(self.run(node, ["ip", "-json", "address"]).stdout):
            for entry in link.get("addr_info", ()):
                if entry.get("local") in pool:
                    found[entry["local"]] = link["ifname"]
        return found

    def served(self) -> dict[str, str]:
        """Address → node that serves it, settled; empty without an answer."""
        try:
            report = self.status()
        except LocumError:
            return {}
        return {item.address: item.node for item in report.addresses if item.node is not None and item.serving}

    def wait_served(self, limit: float = 60.0) -> StatusReport:
        """Wait until every node is OK, and every address is served where it should be; see :meth:`wait_for`.

        A node that has started takes over nothing for the length of a hold; this waits for it. The state must last for
        a moment: a node that has just become OK is not in a plan yet.
        """
        since: dict[int, float] = {}

        def settled() -> StatusReport | None:
            try:
                report = self.status()
            except LocumError:
                return None
            if not is_settled(report, self.layout):
                since.clear()
                return None
            first = since.setdefault(report.epoch, time.monotonic())
            return report if time.monotonic() - first >= _STAYS else None

        found = self.wait_for("every node OK, every address served", settled, limit)
        assert found is not None
        return found

    def wait_for(self, what: str, condition: Callable[[], T], limit: float = 30.0) -> T:
        """Call ``condition`` until it returns a true value, and return that.

        Raises LocumError that names ``what`` after ``limit`` seconds; :meth:`logs` may show the reason.
        """
        deadline = time.monotonic() + limit
        while True:
            result = condition()
            if result:
                return result
            if time.monotonic() > deadline:
                raise LocumError(f"not within {limit:g} s: {what}")
            # A report costs an agent some milliseconds: asked more often, they would keep a processor busy.
            time.sleep(0.04)

    def logs(self, lines: int = 40) -> str:
        """The last lines of every daemon's log, and of the store's."""
        parts = []
        stores = [self.directory / "store.log", *sorted(self.directory.glob("nodes/*/etcd.log"))]
        for name, path in [("store", path) for path in stores] + [
            (node, self.daemon_log(node)) for node in self.layout.node_names
        ]:
            try:
                text = path.read_text(errors="replace").splitlines()[-lines:]
            except FileNotFoundError:
                continue
            parts += [f"--- {name} ({path})", *text]
        return "\n".join(parts)

    # -- the record ------------------------------------------------------------------------------------------------

    def _record(self, **changes: object) -> None:
        self.state = msgspec.structs.replace(self.state, **changes)
        state.write(self.state)

    def _record_node(self, node: str, **changes: object) -> None:
        nodes = dict(self.state.nodes)
        nodes[node] = msgspec.structs.replace(nodes.get(node, NodeState()), **changes)
        self._record(nodes=nodes)


def is_settled(report: StatusReport, layout: Layout) -> bool:
    """Whether every node is OK and every address is served where it should be."""
    # A node that waits gets its share of the addresses later.
    healthy = len(report.nodes) == layout.nodes and all(n.state == "OK" and not n.waits for n in report.nodes)
    served = len(report.addresses) == layout.addresses and all(a.state == "served" for a in report.addresses)
    return healthy and served and report.progress == "settled" and not report.stale


def is_running(lab_state: LabState) -> bool:
    """Whether the lab is more than a leftover: one of its processes runs, and so does its owner if it has one."""
    if lab_state.owner is not None and not processes.alive(lab_state.owner):
        return False
    started = [*lab_state.store_processes, *lab_state.guests.values()]
    for node in lab_state.nodes.values():
        started += [process for process in (node.daemon, node.path, *node.services.values()) if process is not None]
    return any(processes.alive(process) for process in started)


def namespaces_of(name: str) -> tuple[str, ...]:
    """The lab's existing namespaces, found by name."""
    pattern = re.compile(re.escape(f"{PREFIX}{name}-") + r"(hub|client|n\d+)")
    return tuple(found for found in namespaces.existing(f"{PREFIX}{name}-") if pattern.fullmatch(found))


def down(name: str) -> bool:
    """Remove the lab of that name, or the leftovers of a crash; False when none existed."""
    with state.locked(name):
        return clean(name)


def clean(name: str, keep_directory: bool = False) -> bool:
    """:func:`down` for a caller that holds the lab's lock."""
    found = namespaces_of(name)
    _end_inhabitants(found)
    for namespace in found:
        namespaces.delete(namespace)
    directory = state.directory_of(name)
    existed = directory.is_dir()
    if existed:
        for entry in directory.iterdir():
            if entry.is_mount():
                namespaces.run(["umount", "--lazy", str(entry)])
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        if not keep_directory:
            directory.rmdir()
            state.remove_base()
    return bool(found) or existed


def _end_inhabitants(names: Sequence[str], limit: float = 10.0) -> None:
    """Kill every process in these namespaces, and those that they start meanwhile."""
    deadline = time.monotonic() + limit
    while True:
        pids = [pid for found in namespaces.inhabitants(names).values() for pid in found]
        if not pids:
            return
        if os.getpid() in pids:
            raise UsageError("this process is inside the lab; leave it first")
        victims = [process for pid in pids if (process := processes.find(pid)) is not None]
        for process in victims:
            processes.send(process, signal.SIGKILL)
        if processes.wait_gone(victims, max(0.0, deadline - time.monotonic())):
            raise LocumError(f"processes {', '.join(str(process.pid) for process in victims)} do not end")
