"""Guests that start from the saved state of one that has booted, in seconds: an emulated boot takes a minute or two.

QEMU saves memory, devices and processor of a guest to a file (its "migration"), and others continue from there. One
guest of each kind of hardware is booted for it and kept beside the image. Whoever continues has everything in common
with it, so it gets an identity of its own first (:func:`identity`). Its kernel's random numbers are its own: QEMU's
vmgenid device tells it that it is another machine now. From its next boot on it is a guest like all.

Where KVM works a boot takes seconds, and guests boot.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from locum.errors import LocumError
from locum_lab import cache
from locum_lab.processes import Children
from locum_lab.vm import qemu, recipe
from locum_lab.vm.image import Image
from locum_lab.vm.machine import Machine
from locum_lab.vm.qemu import Hardware, Interface, Saved

#: Limits in seconds for the saving and for the end of QEMU, and between two questions how far it is.
_SAVED_WITHIN = 300.0
_ENDS_WITHIN = 60.0
_ASK_AGAIN = 0.1

#: What the guest does before it is saved. Its interfaces are silent until they have other addresses, and the address
#: of its kernel parameters is forgotten. Locum's modules stay in memory.
_PREPARE = """
for path in /sys/class/net/eth*; do
    ip link set ${path##*/} down
    ip address flush dev ${path##*/}
done
rm -f /run/systemd/network/*
networkctl reload
/opt/locum/bin/locum status >/dev/null 2>&1 || true
sync
"""

#: Takes on an identity: arguments host name, hardware address of eth0, eth1, ….
_IDENTITY = """
sysctl -q kernel.hostname="$1"
shift
tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id
systemctl restart systemd-journald
number=0
for mac; do
    ip link set eth$number address $mac
    ip link set eth$number up
    number=$((number + 1))
done
"""


def get(image: Image, hardware: Hardware, say: Callable[[str], None] | None = None) -> Saved | None:
    """The saved state for guests with this hardware; boots and saves one when the cache has none.

    None where guests boot. Raises LocumError when that guest does not boot or is not saved.
    """
    accelerator = qemu.accelerator(image)
    if accelerator == "kvm":
        return None
    kind = _kind(hardware, Path("/"))
    command = qemu.command(kind, Image("/"), accelerator)
    saved = Saved(f"{image.directory}/warm-{recipe.digest([qemu.version(), *command, _PREPARE])}")
    with cache.locked(Path(image.directory).parent):
        if not Path(saved.directory).is_dir():
            if say is not None:
                shown = "interface" if len(hardware.interfaces) == 1 else "interfaces"
                say(f"booting a guest with {len(hardware.interfaces)} {shown}, from whose state others start")
            _save(image, hardware, saved)
    return saved


def identity(machine: Machine) -> None:
    """Give a guest that continues from a saved state its own identity: clock, names, hardware addresses."""
    machine.wait_for("an answer of its agent", machine.agent.answers)
    asked = time.monotonic()
    machine.agent.execute("guest-set-time", time=time.time_ns())
    machine.clock_late = time.monotonic() - asked
    hardware = machine.hardware
    machine.sh(_IDENTITY, hardware.name, *(interface.mac for interface in hardware.interfaces))


def _kind(hardware: Hardware, directory: Path) -> Hardware:
    """The hardware of the guest that is saved for guests with ``hardware``."""
    interfaces = tuple(
        Interface(f"warm{number}", f"02:4c:77:00:00:{number:02x}") for number, _ in enumerate(hardware.interfaces)
    )
    shared = None if hardware.shared is None else directory / "shared"
    # An address for documentation (RFC 5737).
    return Hardware("warm", directory, interfaces, "192.0.2.1", memory=hardware.memory, shared=shared)


def _save(image: Image, hardware: Hardware, saved: Saved) -> None:
    children = Children()
    with cache.new(Path(saved.directory)) as work:
        (work / "shared").mkdir()
        machine = Machine(_kind(hardware, work), image, None)
        try:
            machine.power_on(children, dies_with_us=True)
            machine.wait_booted()
            machine.sh(_PREPARE)
            new = Saved(str(work))
            machine.monitor.execute("migrate", uri=f"exec:cat >'{new.state}'")
            _wait_saved(machine)
            machine.monitor.execute("quit")
            machine.wait_off(_ENDS_WITHIN)
        finally:
            machine.cut_power()
            children.reap()
        (work / "shared").rmdir()


def _wait_saved(machine: Machine) -> None:
    deadline = time.monotonic() + _SAVED_WITHIN
    while (found := machine.monitor.execute("query-migrate"))["status"] != "completed":
        if found["status"] in ("failed", "cancelled") or time.monotonic() > deadline:
            raise LocumError(f"QEMU did not save the guest's state: {msgspec.json.encode(found).decode()}")
        time.sleep(_ASK_AGAIN)
