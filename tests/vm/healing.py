"""Puts right whatever a test of guests may leave, so that one failure does not become that of all later tests."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from locum.errors import LocumError
from locum_lab.vm.lab import VmLab, each
from locum_lab.vm.machine import Machine
from tests.vm import poor_network

#: Name of a lab → why no later test can use it.
_BROKEN: dict[str, str] = {}

#: Labs with which a test has failed since they were healed.
_SUSPECT: set[str] = set()

#: On a node: Locum runs, also when it was stopped or masked, or when its processes stand still.
_RUN_LOCUM = """
systemctl is-active --quiet locum || {
    systemctl unmask --quiet locum
    systemctl reset-failed locum 2>/dev/null || true
    systemctl start locum
}
systemctl kill --signal=SIGCONT locum
"""


def broken(lab: VmLab) -> bool:
    """Whether the lab could not be healed."""
    return lab.layout.name in _BROKEN


def suspect(lab: VmLab) -> None:
    """A test with this lab has failed: nobody knows what it left."""
    _SUSPECT.add(lab.layout.name)


@contextlib.contextmanager
def healthy(lab: VmLab) -> Iterator[VmLab]:
    """For fixtures: every address is served before the block, and again after it.

    The lab is healed after a test that failed, and when a guest has no power or a node has left; emulated guests are
    slow to answer what this asks. When it cannot be healed, all later blocks with it fail at once instead of waiting
    for it again.
    """
    if broken(lab):
        pytest.fail(f"an earlier test broke the lab: {_BROKEN[lab.layout.name]}", pytrace=False)
    wait_served(lab)
    yield lab
    if not broken(lab):
        with _noting(lab):
            if lab.layout.name in _SUSPECT or _is_down(lab):
                restore(lab)
            else:
                lab.wait_served()
        _SUSPECT.discard(lab.layout.name)


def _is_down(lab: VmLab) -> bool:
    """Whether a guest has no power, or a node is no member, as far as the store knows."""
    if not all(machine.powered for machine in lab.machines.values()):
        return True
    try:
        return any(node.state == "DISCONNECTED" for node in lab.status().nodes)
    except LocumError:  # the store does not answer
        return True


def wait_served(lab: VmLab) -> None:
    """Wait until every address is served; without that the lab is broken."""
    with _noting(lab):
        lab.wait_served()


@contextlib.contextmanager
def _noting(lab: VmLab) -> Iterator[None]:
    try:
        yield
    except LocumError as error:
        _BROKEN[lab.layout.name] = str(error)
        raise


def restore(lab: VmLab) -> None:
    """Undo what can happen to guests: cut, no carrier, frozen, paused, asleep, without power, a poor network; Locum
    stopped or masked.

    Raises LocumError when a guest does not come back, or an address is not served afterwards.
    """
    for name, machine in lab.machines.items():
        lab.uncut(name)
        _if_powered(machine, _run_processor)
    each(lab.machines.values(), lambda machine: _if_powered(machine, _wake))
    if off := [machine for machine in lab.machines.values() if not machine.powered]:
        for machine in off:
            lab.power_on(machine.name)
        each(off, lambda machine: machine.wait_booted())
    each(lab.machines.values(), poor_network.undo)
    each([lab.machine(node) for node in lab.layout.node_names], lambda machine: machine.sh(_RUN_LOCUM))
    lab.wait_served()


def _run_processor(machine: Machine) -> None:
    machine.thaw()
    machine.resume()
    for number, _ in enumerate(machine.hardware.interfaces):
        machine.set_carrier(f"eth{number}", up=True)


def _wake(machine: Machine) -> None:
    machine.wake()


def _if_powered(machine: Machine, action: Callable[[Machine], object]) -> None:
    """Do it to a guest that has power. One that is on its way to power off may end meanwhile."""
    if machine.powered:
        try:
            action(machine)
        except LocumError:
            if machine.powered:
                raise
