"""A cluster of Debian guests: nodes with Locum as a systemd unit, and clients without it.

It shares with the lab of namespaces the layout, the bridges, the observer, the record of what runs, and the end: every
QEMU runs in the hub's namespace, so that :func:`locum_lab.lab.down` finds it, also after a crash.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

import msgspec

from locum.api.model import StatusReport
from locum.errors import LocumError, UsageError
from locum_lab import lab, processes, state
from locum_lab import network as cables
from locum_lab.layout import Layout
from locum_lab.processes import Children, Process
from locum_lab.state import AppliedFault, LabState, NodeState
from locum_lab.vm import image as images
from locum_lab.vm import network, setup, store, warm
from locum_lab.vm.image import Image
from locum_lab.vm.machine import Machine
from locum_lab.vm.qemu import Hardware, Saved

#: Limit for a command that an emulated processor carries out while its neighbours boot, in seconds.
SETTLED_WITHIN = 600.0
#: How long everything must have been served under one plan to count as settled, in seconds.
_STAYS = 1.0

T = TypeVar("T")


class VmLab:
    """One lab of guests. Make one with :meth:`up`, find one with :meth:`load`.

    ``machines``: name → guest, n1, n2, … (nodes) and c1, c2, … (clients).
    """

    def __init__(self, lab_state: LabState, image: Image, children: Children | None = None) -> None:
        self.state = lab_state
        self.layout = lab_state.layout
        self.directory = state.directory_of(self.layout.name)
        self._children = children or Children()
        #: Whether the guests stay when this process ends.
        self._outlives = False
        self.machines = {
            name: Machine(self._hardware(name), image, self.layout.hub, lab_state.guests.get(name))
            for name in (*self.layout.node_names, *self.layout.client_names)
        }

    def _hardware(self, name: str) -> Hardware:
        if name in self.layout.client_names:
            address = self.layout.client_addresses(name)[0].partition("/")[0]
        else:
            address = self.layout.private_address(name)
        guest, interfaces = self.directory / "guests" / name, network.interfaces(self.layout, name)
        return Hardware(
            name, guest, interfaces, address, shared=self.shared if name in self.layout.node_names else None
        )

    @property
    def shared(self) -> Path:
        """The directory that every node can mount, as its cluster's file system for what is not served."""
        return self.directory / "shared"

    # -- life ------------------------------------------------------------------------------------------------------

    @classmethod
    def up(
        cls,
        layout: Layout,
        *,
        store_kind: str = "outside",
        settings: str = "",
        locum: bool = True,
        owner: Process | None = None,
        image: Image | None = None,
        say: Callable[[str], None] | None = None,
    ) -> Self:
        """Build a lab, boot every guest and configure it; does not wait for the cluster.

        ``settings`` is TOML added to every node's configuration. ``locum`` False configures Locum without starting it.
        ``owner``: without this process the lab is a leftover, and its guests end with it. ``image``: another image than
        the present checkout's. Raises UsageError when a lab of that name is up, LocumError when a guest does not boot.
        """
        layout.check()
        store.check(store_kind)
        image = image or images.get(say=say)
        with state.locked(layout.name, create=True):
            if (old := state.read(layout.name)) is not None and old.complete and lab.is_running(old):
                raise UsageError(f"lab {layout.name} is up already; `locum lab down --name {layout.name}` ends it")
            lab.clean(layout.name, keep_directory=True)
            # A lab that is not complete is a leftover without the process that builds it.
            builder = owner or processes.find(os.getpid())
            new = LabState(layout=layout, services=(), store=store_kind, owner=builder)
            state.write(new)
            made = cls(new, image)
            made._outlives = owner is None
            try:
                made._build(settings, locum, say)
            except BaseException as error:
                if isinstance(error, LocumError):  # the consoles are about to be removed
                    error.add_note(made.logs())
                lab.clean(layout.name)
                raise
            made._record(complete=True, owner=owner)
        return made

    @classmethod
    def load(cls, name: str) -> Self:
        """The lab of guests of that name; raises UsageError without one."""
        found = state.read(name)
        if found is None or not found.guests:
            raise UsageError(f"no lab of guests {name!r}; `locum lab up --vm` makes one")
        text = (state.directory_of(name) / "image.json").read_bytes()
        return cls(found, msgspec.json.decode(text, type=Image))

    def down(self) -> None:
        """End every guest and remove everything that the lab made."""
        lab.down(self.layout.name)
        self._children.reap()

    def _build(self, settings: str, locum: bool, say: Callable[[str], None] | None) -> None:
        machines = self.machines.values()
        image = next(iter(machines)).image
        saved = {machine.name: warm.get(image, machine.hardware, say) for machine in machines}
        network.build(self.layout)
        self.shared.mkdir(exist_ok=True)
        (self.directory / "image.json").write_bytes(msgspec.json.encode(image))
        if self.state.store == "outside":
            self._record(store_processes=(store.start_outside(self.layout, self.directory, self._children),))
        for name in self.machines:
            self.power_on(name, saved[name])

        def configure(machine: Machine) -> None:
            if saved[machine.name] is not None:
                warm.identity(machine)
            machine.wait_booted()
            self._configure(machine, settings)

        each(machines, configure)
        if self.state.store == "etcd":
            store.start_in_guests(self.layout, self.machines)
        if locum:
            nodes = [self.machines[node] for node in self.layout.node_names]
            each(nodes, lambda machine: machine.sh("systemctl enable --quiet --now locum"))

    def _configure(self, machine: Machine, settings: str) -> None:
        if machine.name in self.layout.client_names:
            files = setup.client_files(self.layout, machine.name)
        else:
            files = setup.node_files(self.layout, machine.name, store.url(self.state.store, self.layout), settings)
        machine.write_all(files)
        # On a slow machine networkd is at the bus some time after systemd has started it.
        machine.sh(
            f"timeout {SETTLED_WITHIN:g} sh -c 'until networkctl reload; do sleep 1; done';"
            "/lib/systemd/systemd-networkd-wait-online --timeout=120",
            timeout=2 * SETTLED_WITHIN,
        )

    # -- power -----------------------------------------------------------------------------------------------------

    def power_on(self, name: str, saved: Saved | None = None) -> None:
        """Give a guest power, for the first time or again; see the methods of :class:`Machine`."""
        owner = self.state.owner
        mine = owner is not None and owner.pid == os.getpid() and not self._outlives
        process = self.machine(name).power_on(self._children, dies_with_us=mine, saved=saved)
        self._record(guests={**self.state.guests, name: process})

    def cut_power(self, name: str) -> float:
        """Kill a guest's QEMU. Returns the boot time in seconds."""
        done = self.machine(name).cut_power()
        self._children.reap()
        return done

    def machine(self, name: str) -> Machine:
        """The guest of that name. Raises UsageError."""
        if name not in self.machines:
            raise UsageError(f"no guest {name!r} in lab {self.layout.name}; there is {', '.join(self.machines)}")
        return self.machines[name]

    # -- networks --------------------------------------------------------------------------------------------------

    def cut(self, name: str, interfaces: Sequence[str] = ()) -> None:
        """Drop a guest's frames in silence, of these interfaces or all; its carriers stay."""
        cables.cut(self.layout, self._ports(name, interfaces))

    def uncut(self, name: str, interfaces: Sequence[str] = ()) -> None:
        """Undo :meth:`cut`."""
        cables.uncut(self.layout, self._ports(name, interfaces))

    def _ports(self, name: str, interfaces: Sequence[str]) -> list[str]:
        taps = {f"eth{number}": found.tap for number, found in enumerate(self.machine(name).hardware.interfaces)}
        if strangers := set(interfaces) - set(taps):
            raise UsageError(f"{name} has no interface {min(strangers)!r}; there is {', '.join(taps)}")
        return [taps[interface] for interface in interfaces or taps]

    # -- faults that commands applied -------------------------------------------------------------------------------

    def noted_faults(self, name: str) -> tuple[str, ...]:
        """The faults of a guest that :mod:`locum_lab.vm.faults` applied and has not undone."""
        return tuple(fault.kind for fault in self.state.nodes.get(name, NodeState()).faults)

    def note_fault(self, name: str, kind: str) -> None:
        """Note a fault before it is applied."""
        present = self.state.nodes.get(name, NodeState()).faults
        if kind not in self.noted_faults(name):
            self._record(nodes={**self.state.nodes, name: NodeState(faults=(*present, AppliedFault(kind, "")))})

    def forget_fault(self, name: str, kind: str) -> None:
        """Forget a fault once it is undone."""
        left = tuple(fault for fault in self.state.nodes.get(name, NodeState()).faults if fault.kind != kind)
        self._record(nodes={**self.state.nodes, name: NodeState(faults=left)})

    # -- the cluster's state ---------------------------------------------------------------------------------------

    def status(self, node: str | None = None) -> StatusReport:
        """The cluster as its store has it, or as a node's ``locum status`` does. Raises LocumError without one."""
        if node is None:
            return store.status(self.state.store, self.layout)
        text = self.machine(node).sh("locum status --json")
        try:
            return msgspec.json.decode(text, type=StatusReport)
        except msgspec.MsgspecError as error:
            raise LocumError(f"{node}: {error}") from None

    def served(self) -> dict[str, str]:
        """Address → node that serves it, as the store has it; empty without an answer of the store."""
        try:
            report = self.status()
        except LocumError:
            return {}
        return {item.address: item.node for item in report.addresses if item.node is not None and item.serving}

    def wait_served(self, limit: float = SETTLED_WITHIN) -> StatusReport:
        """Wait until every node is OK, and every address is served where it should be, for a moment."""
        since: dict[int, float] = {}

        def settled() -> StatusReport | None:
            try:
                report = self.status()
            except LocumError:
                return None
            if not lab.is_settled(report, self.layout):
                since.clear()
                return None
            first = since.setdefault(report.epoch, time.monotonic())
            return report if time.monotonic() - first >= _STAYS else None

        found = self.wait_for("every node OK, every address served", settled, limit)
        assert found is not None
        return found

    def wait_for(
        self, what: str, condition: Callable[[], T], limit: float = SETTLED_WITHIN, *, pause: float = 0.25
    ) -> T:
        """Call ``condition`` until it returns a true value, and return that; LocumError after ``limit`` seconds.

        ``pause``: seconds between two calls; longer for a condition that takes the guests' time.
        """
        deadline = time.monotonic() + limit
        while True:
            if result := condition():
                return result
            if time.monotonic() > deadline:
                raise LocumError(f"not within {limit:g} s: {what}")
            time.sleep(pause)

    def logs(self, lines: int = 60) -> str:
        """The last lines of every guest's console and of its journal, and of the store's log."""
        parts = []
        for name, machine in self.machines.items():
            console = machine.hardware.console
            with contextlib.suppress(FileNotFoundError):
                parts += [f"--- {name} ({console})", *console.read_text(errors="replace").splitlines()[-10:]]
            if machine.powered and machine.agent.answers():
                with contextlib.suppress(LocumError):
                    parts += [f"--- {name}: journal", machine.journal(lines=lines)]
        with contextlib.suppress(FileNotFoundError):
            parts += ["--- store", *(self.directory / "etcd.log").read_text(errors="replace").splitlines()[-10:]]
        return "\n".join(parts)

    def _record(self, **changes: object) -> None:
        self.state = msgspec.structs.replace(self.state, **changes)
        state.write(self.state)


def each(machines: Collection[Machine], action: Callable[[Machine], object]) -> None:
    """Do it with all guests at the same time. Raises the first error when all have ended."""
    with ThreadPoolExecutor(max_workers=len(machines)) as pool:
        for _ in pool.map(action, machines):
            pass


def leftovers() -> None:
    """Take down the labs whose owner has ended."""
    for name in state.known():
        found = state.read(name)
        if found is not None and found.owner is not None and not processes.alive(found.owner):
            lab.down(name)
