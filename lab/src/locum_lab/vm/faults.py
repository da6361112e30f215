"""The faults of a guest, and how each is undone: a table, as :mod:`locum_lab.faults` has one for namespaces."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from locum.errors import UsageError
from locum_lab.vm.lab import VmLab

#: Seconds for which the fault "sleep" suspends a guest unless it is healed before.
SLEEP = 60


class Fault(msgspec.Struct, frozen=True):
    """``meaning`` is for people. ``heal`` is None for a fault that is over at once. Functions get lab and guest."""

    meaning: str
    apply: Callable[[VmLab, str], object]
    heal: Callable[[VmLab, str], object] | None = None


def _private(lab: VmLab, name: str) -> tuple[str, ...]:
    if name in lab.layout.client_names:
        raise UsageError(f"{name} is a client: it is not on the private network")
    return ("eth0",)


def _public(lab: VmLab, name: str) -> str:
    return "eth0" if name in lab.layout.client_names else "eth1"


FAULTS: dict[str, Fault] = {
    "power-cut": Fault("QEMU is killed, as by a power cut", VmLab.cut_power, VmLab.power_on),
    "power-off": Fault(
        "the power button is pressed: systemd stops everything and powers off",
        lambda lab, name: lab.machine(name).power_button(),
        VmLab.power_on,
    ),
    "reset": Fault("the reset button is pressed: it starts again", lambda lab, name: lab.machine(name).reset()),
    "freeze": Fault(
        "QEMU is stopped by a signal: the guest stands still, its clocks go on",
        lambda lab, name: lab.machine(name).freeze(),
        lambda lab, name: lab.machine(name).thaw(),
    ),
    "pause": Fault(
        "the hypervisor pauses the guest and its clocks",
        lambda lab, name: lab.machine(name).pause(),
        lambda lab, name: lab.machine(name).resume(),
    ),
    "sleep": Fault(
        f"the guest suspends to memory; it wakes after {SLEEP} s",
        lambda lab, name: lab.machine(name).sleep(SLEEP),
        lambda lab, name: lab.machine(name).wake(),
    ),
    "cut": Fault("all of its traffic is dropped in silence", VmLab.cut, VmLab.uncut),
    "cut-private": Fault(
        "its traffic on the private network is dropped in silence",
        lambda lab, name: lab.cut(name, _private(lab, name)),
        lambda lab, name: lab.uncut(name, _private(lab, name)),
    ),
    "link": Fault(
        "the cable is pulled out of its (first) public interface",
        lambda lab, name: lab.machine(name).set_carrier(_public(lab, name), up=False),
        lambda lab, name: lab.machine(name).set_carrier(_public(lab, name), up=True),
    ),
}


def kind(name: str) -> Fault:
    """The fault of that name; raises UsageError with all names."""
    if name not in FAULTS:
        raise UsageError(f"no fault {name!r} of a guest; the faults are {', '.join(FAULTS)}")
    return FAULTS[name]


def apply(lab: VmLab, name: str, fault: str) -> None:
    """Do a fault to a guest, and note it for :func:`heal`."""
    wanted = kind(fault)
    lab.machine(name)
    if wanted.heal is not None:
        lab.note_fault(name, fault)
    try:
        wanted.apply(lab, name)
    except UsageError:  # refused, without any effect
        lab.forget_fault(name, fault)
        raise


def heal(lab: VmLab, name: str | None = None) -> None:
    """Undo the faults of a guest, or of all, in the opposite order."""
    for guest in lab.machines if name is None else (name,):
        lab.machine(guest)
        for fault in reversed(lab.noted_faults(guest)):
            undo = kind(fault).heal
            assert undo is not None  # only such are noted
            undo(lab, guest)
            lab.forget_fault(guest, fault)
