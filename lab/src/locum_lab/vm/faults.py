"""The faults of a guest, and how each is undone: a table, as :mod:`locum_lab.faults` has one for namespaces."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from locum.errors import UsageError
from locum_lab.vm.channel import GuestError
from locum_lab.vm.lab import VmLab

#: Seconds for which the fault "sleep" suspends a guest unless it is healed before.
SLEEP = 60


class Fault(msgspec.Struct, frozen=True):
    """``meaning`` is for people. ``heal`` is None for a fault that is over at once. Functions get lab and guest.

    ``inside``: it is a state of QEMU or of the guest, so it needs power and ends with it. ``not_during``: faults during
    which it cannot be applied, because QEMU or the guest would not answer.
    """

    meaning: str
    apply: Callable[[VmLab, str], object]
    heal: Callable[[VmLab, str], object] | None = None
    inside: bool = True
    not_during: tuple[str, ...] = ("freeze",)


def _private(lab: VmLab, name: str) -> tuple[str, ...]:
    if name in lab.layout.client_names:
        raise UsageError(f"{name} is a client: it is not on the private network")
    return ("eth0",)


def _public(lab: VmLab, name: str) -> str:
    return "eth0" if name in lab.layout.client_names else "eth1"


def _restore_power(lab: VmLab, name: str) -> None:
    machine = lab.machine(name)
    if "power-cut" not in lab.noted_faults(name):
        machine.wait_off()  # the guest may still be stopping what runs in it
    if not machine.powered:
        lab.power_on(name)


#: They are undone in this order: QEMU's monitor answers once it is thawed, the guest once its processor runs, and a
#: guest powers itself off only then.
FAULTS: dict[str, Fault] = {
    "freeze": Fault(
        "QEMU is stopped by a signal: the guest stands still, its clocks go on",
        lambda lab, name: lab.machine(name).freeze(),
        lambda lab, name: lab.machine(name).thaw(),
        not_during=(),
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
        not_during=("freeze", "pause", "sleep", "power-off"),
    ),
    "link": Fault(
        "the cable is pulled out of its (first) public interface",
        lambda lab, name: lab.machine(name).set_carrier(_public(lab, name), up=False),
        lambda lab, name: lab.machine(name).set_carrier(_public(lab, name), up=True),
    ),
    "cut": Fault("all of its traffic is dropped in silence", VmLab.cut, VmLab.uncut, inside=False, not_during=()),
    "cut-private": Fault(
        "its traffic on the private network is dropped in silence",
        lambda lab, name: lab.cut(name, _private(lab, name)),
        lambda lab, name: lab.uncut(name, _private(lab, name)),
        inside=False,
        not_during=(),
    ),
    "power-off": Fault(
        "the power button is pressed: systemd stops everything and powers off",
        lambda lab, name: lab.machine(name).power_button(),
        _restore_power,
        not_during=("freeze", "sleep"),
    ),
    "power-cut": Fault(
        "QEMU is killed, as by a power cut", VmLab.cut_power, _restore_power, inside=False, not_during=()
    ),
    "reset": Fault("the reset button is pressed: it starts again", lambda lab, name: lab.machine(name).reset()),
}
_ORDER = tuple(FAULTS)


def kind(name: str) -> Fault:
    """The fault of that name; raises UsageError with all names."""
    if name not in FAULTS:
        raise UsageError(f"no fault {name!r} of a guest; the faults are {', '.join(FAULTS)}")
    return FAULTS[name]


def apply(lab: VmLab, name: str, fault: str) -> None:
    """Do a fault to a guest, and note it for :func:`heal`. Raises UsageError when the guest cannot have it now."""
    wanted = kind(fault)
    present = lab.noted_faults(name)
    if wanted.inside and not lab.machine(name).powered:
        raise UsageError(f"{name} has no power; `locum lab heal {name}` gives it power again")
    if hindering := [other for other in wanted.not_during if other in present]:
        raise UsageError(f"{name} has the fault {hindering[0]} and would not answer; `locum lab heal {name}` first")
    if wanted.heal is not None:
        lab.note_fault(name, fault)
    try:
        wanted.apply(lab, name)
    except UsageError:  # refused, without any effect
        if fault not in present:
            lab.forget_fault(name, fault)
        raise


def heal(lab: VmLab, name: str | None = None) -> None:
    """Undo the faults of a guest, or of all, in the order of :data:`FAULTS`.

    A loss of power has ended what was inside the guest. Raises LocumError when a guest cannot be healed.
    """
    for guest in lab.machines if name is None else (name,):
        machine = lab.machine(guest)
        for fault in sorted(lab.noted_faults(guest), key=_ORDER.index):
            undo = kind(fault).heal
            assert undo is not None  # only such are noted
            if undo is _restore_power or not kind(fault).inside or machine.powered:
                try:
                    undo(lab, guest)
                except GuestError:
                    # A guest on its way to power off may end at any moment, and this fault with it.
                    if "power-off" not in lab.noted_faults(guest) or not kind(fault).inside:
                        raise
            lab.forget_fault(guest, fault)
