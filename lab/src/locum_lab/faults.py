"""The faults of a node, and how each is undone.

A table of kinds; each is a pair of functions on the lab. A fault has the effects of a real one: Locum's processes are
not notified, and nothing is cleaned up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from signal import SIGCONT, SIGKILL, SIGSTOP, Signals
from typing import Protocol

import msgspec

from locum.errors import LocumError, UsageError
from locum_lab import network, one_way, processes
from locum_lab.layout import Layout
from locum_lab.processes import Process
from locum_lab.state import LabState
from locum_lab.stores import LabStore

#: Limit for the kernel to end killed processes, in seconds.
_KILLED_WITHIN = 10.0


class FaultyLab(Protocol):
    """The part of a lab that faults need (:class:`locum_lab.lab.Lab`)."""

    layout: Layout
    state: LabState
    store: LabStore

    def start_daemon(self, node: str) -> None:
        """Start the node's daemon."""
        ...

    def start_store(self, node: str) -> None:
        """Start the store's process of that node again."""
        ...

    def start_services(self, node: str) -> None:
        """Start the node's services."""
        ...

    def check_services(self, node: str) -> None:
        """Make the node's daemon run monitor now."""
        ...

    def ours(self, node: str) -> tuple[Process, ...]:
        """Every living process of Locum on that node."""
        ...

    def agent(self, node: str) -> Process | None:
        """The node's agent process."""
        ...

    def service_processes(self, node: str) -> tuple[Process, ...]:
        """All living processes of the node's services."""
        ...

    def store_process(self, node: str) -> Process:
        """The store's process on that node."""
        ...


class Fault(msgspec.Struct, frozen=True):
    """``meaning`` is for people. ``heal`` is None for a fault that is over at once.

    Both functions get the lab, the node, and the interface, which only ``link`` uses.
    """

    meaning: str
    apply: Callable[[FaultyLab, str, str], None]
    heal: Callable[[FaultyLab, str, str], None] | None = None


def _cut(lab: FaultyLab, node: str, _interface: str) -> None:
    network.cut(lab.layout, lab.layout.ports(node))
    lab.store.cut(lab.state.nodes[node].path)


def _cut_private(lab: FaultyLab, node: str, _interface: str) -> None:
    network.cut(lab.layout, [lab.layout.port(node, "eth0")])
    lab.store.cut(lab.state.nodes[node].path)


def _uncut(lab: FaultyLab, node: str, _interface: str) -> None:
    network.uncut(lab.layout, lab.layout.ports(node))
    lab.store.heal(lab.state.nodes[node].path)


def _one_way(way: one_way.Way, public: bool, undo: bool) -> Callable[[FaultyLab, str, str], None]:
    """Cut, or repair, one direction of one of the node's networks."""

    def apply(lab: FaultyLab, node: str, _interface: str) -> None:
        if not public and lab.state.store != "etcd":
            raise UsageError(f"this lab's store is {lab.state.store}: a Unix socket is cut both ways, with cut-private")
        ports = lab.layout.ports(node)
        (one_way.repair if undo else one_way.cut)(lab.layout, way, ports[1:] if public else ports[:1])

    return apply


def _link(lab: FaultyLab, node: str, interface: str) -> None:
    network.set_link(lab.layout, node, interface, up=False)


def _link_back(lab: FaultyLab, node: str, interface: str) -> None:
    network.set_link(lab.layout, node, interface, up=True)


def _kill_agent(lab: FaultyLab, node: str, _interface: str) -> None:
    agent = lab.agent(node)
    if agent is None:
        raise LocumError(f"{node}: no agent runs there")
    processes.send(agent, SIGKILL)


def _kill_all(lab: FaultyLab, node: str, _interface: str) -> None:
    _wait_gone(processes.kill_all(lambda: lab.ours(node)))


def _wait_gone(killed: Sequence[Process]) -> None:
    """Wait until killed processes have ended, so that undoing the fault does not count them as running."""
    if processes.wait_gone(killed, _KILLED_WITHIN):
        raise LocumError(f"processes do not end within {_KILLED_WITHIN:g} s of SIGKILL")


def _freeze(lab: FaultyLab, node: str, _interface: str) -> None:
    processes.stop_all(lambda: lab.ours(node))


def _thaw(lab: FaultyLab, node: str, _interface: str) -> None:
    # The children first: a parent that wakes up must find them unchanged.
    for process in reversed(lab.ours(node)):
        processes.send(process, SIGCONT)


def _service(lab: FaultyLab, node: str, _interface: str) -> None:
    _wait_gone(processes.kill_all(lambda: lab.service_processes(node)))


def _service_again(lab: FaultyLab, node: str, _interface: str) -> None:
    lab.start_services(node)
    # Event scripts' services are started by monitor, which may already have noticed their end.
    lab.check_services(node)


def _hang(lab: FaultyLab, node: str, _interface: str) -> None:
    processes.stop_all(lambda: lab.service_processes(node))


def _unhang(lab: FaultyLab, node: str, _interface: str) -> None:
    for process in reversed(lab.service_processes(node)):
        processes.send(process, SIGCONT)
    lab.check_services(node)


def _freeze_agent(lab: FaultyLab, node: str, _interface: str) -> None:
    agent = lab.agent(node)
    if agent is None:
        raise LocumError(f"{node}: no agent runs there")
    processes.send(agent, SIGSTOP)


def _thaw_agent(lab: FaultyLab, node: str, _interface: str) -> None:
    agent = lab.agent(node)
    if agent is not None:
        processes.send(agent, SIGCONT)


def _signal(number: Signals, store: str) -> Callable[[FaultyLab, str, str], None]:
    """Send the signal to the node's store process, in a lab on such a store."""

    def apply(lab: FaultyLab, node: str, _interface: str) -> None:
        if not lab.state.store.startswith(store):
            kinds = "kill-etcd, freeze-etcd" if lab.state.store == "etcd" else "kill-store, freeze-store"
            raise UsageError(f"this lab's store is {lab.state.store}; its faults are {kinds}")
        process = lab.store_process(node)
        processes.send(process, number)
        if number == SIGKILL:
            _wait_gone([process])

    return apply


def _store_again(lab: FaultyLab, node: str, _interface: str) -> None:
    processes.send(lab.store_process(node), SIGCONT)
    lab.start_store(node)


FAULTS: dict[str, Fault] = {
    "cut": Fault("all traffic of the node is dropped in silence", _cut, _uncut),
    "cut-private": Fault("its traffic on the private network, and to the store, is dropped", _cut_private, _uncut),
    "mute-private": Fault(
        "nothing that it sends on the private network arrives; it hears the others (etcd)",
        _one_way("mute", public=False, undo=False),
        _one_way("mute", public=False, undo=True),
    ),
    "deaf-private": Fault(
        "nothing arrives at it on the private network; the others hear it (etcd)",
        _one_way("deaf", public=False, undo=False),
        _one_way("deaf", public=False, undo=True),
    ),
    "mute-public": Fault(
        "nothing that it sends on its public networks arrives",
        _one_way("mute", public=True, undo=False),
        _one_way("mute", public=True, undo=True),
    ),
    "deaf-public": Fault(
        "nothing arrives at it on its public networks",
        _one_way("deaf", public=True, undo=False),
        _one_way("deaf", public=True, undo=True),
    ),
    "link": Fault("carrier lost on its public interface", _link, _link_back),
    "kill-agent": Fault("kill -9 of the agent alone", _kill_agent),
    "kill-all": Fault(
        "kill -9 of every process of Locum at one instant", _kill_all, lambda lab, node, _: lab.start_daemon(node)
    ),
    "freeze": Fault("SIGSTOP of every process of Locum", _freeze, _thaw),
    "freeze-agent": Fault("SIGSTOP of the agent alone", _freeze_agent, _thaw_agent),
    "kill-etcd": Fault("kill -9 of its etcd member", _signal(SIGKILL, "etcd"), _store_again),
    "freeze-etcd": Fault("SIGSTOP of its etcd member", _signal(SIGSTOP, "etcd"), _store_again),
    "kill-store": Fault("kill -9 of the store of all nodes", _signal(SIGKILL, "embedded"), _store_again),
    "freeze-store": Fault("SIGSTOP of the store of all nodes", _signal(SIGSTOP, "embedded"), _store_again),
    "service": Fault("kill -9 of every process of the node's services", _service, _service_again),
    "hang": Fault("SIGSTOP of every process of the node's services", _hang, _unhang),
}


def kind(name: str) -> Fault:
    """The fault of that name; raises UsageError with all names."""
    if name not in FAULTS:
        raise UsageError(f"no fault {name!r}; the faults are {', '.join(FAULTS)}")
    return FAULTS[name]
