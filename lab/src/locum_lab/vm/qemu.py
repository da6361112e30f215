"""The command line of one guest's QEMU, and the accelerator that works here."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
from pathlib import Path

import msgspec

from locum_lab import processes
from locum_lab.vm.image import Image

PROGRAM = "qemu-system-x86_64"

#: An emulated processor without what is expensive to emulate (AVX, five levels of page tables, …): with it and
#: :data:`_NO_DETOURS` a boot took 66 s of processor time; "max" took 104 s.
_EMULATED = "qemu64"
#: Kernel parameters for an emulated processor: no mitigations of faults that it does not have, and no watchdog over its
#: clock, which finds it slow.
_NO_DETOURS = "mitigations=off tsc=reliable"

#: Limit for a kernel on KVM to start and give up, in seconds. Where KVM works it takes one or two.
_KVM_PROBE = 10.0
#: What a kernel without a root file system says last (init/do_mounts.c).
_STARTED = b"Unable to mount root fs"
#: Limit for it to end when it is killed, in seconds.
_KILLED_WITHIN = 1.0


class Interface(msgspec.Struct, frozen=True):
    """One network interface of a guest: the TAP device at its other end, and its hardware address."""

    tap: str
    mac: str


class Hardware(msgspec.Struct, frozen=True):
    """One guest. ``directory`` gets its sockets and its console's log; ``memory`` is in MiB.

    The interfaces are eth0, eth1, … in the guest, in this order. ``address`` (IPv4, in a /24) is that of eth0 at the
    first boot, before the guest's files are written. ``shared``: a directory of this machine that the guest can mount
    (9p, by the tag "shared"); as root, so that every guest that has it sees the same files and owners.
    """

    name: str
    directory: Path
    interfaces: tuple[Interface, ...]
    address: str
    memory: int = 512
    shared: Path | None = None

    @property
    def disk(self) -> Path:
        """What the guest has written: the difference to the image."""
        return self.directory / "disk.qcow2"

    @property
    def console(self) -> Path:
        """The output of the serial console."""
        return self.directory / "console.log"

    @property
    def monitor(self) -> Path:
        """The socket of QEMU's monitor (QMP)."""
        return self.directory / "qmp"

    @property
    def agent(self) -> Path:
        """The socket of the agent inside the guest."""
        return self.directory / "qga"


class Saved(msgspec.Struct, frozen=True):
    """The saved state of a running guest, from which others continue: its disk, and everything else (``state``)."""

    directory: str

    @property
    def disk(self) -> Path:
        """What that guest had written to its disk."""
        return Path(self.directory) / "disk.qcow2"

    @property
    def state(self) -> Path:
        """Memory, devices and processor."""
        return Path(self.directory) / "state"


def disk_command(hardware: Hardware, image: Image, saved: Saved | None = None) -> list[str]:
    """The command that makes the guest's disk, an overlay of the image or of the disk of a saved guest."""
    kind, below = ("raw", image.disk) if saved is None else ("qcow2", saved.disk)
    return ["qemu-img", "create", "-q", "-f", "qcow2", "-F", kind, "-b", str(below), str(hardware.disk)]


def command(hardware: Hardware, image: Image, accelerator: str, saved: Saved | None = None) -> list[str]:
    """The command line of the guest's QEMU; ``accelerator``: as from :func:`accelerator`.

    ``saved``: the guest continues from there instead of booting.
    """
    argv = [
        *(PROGRAM, "-name", hardware.name, "-nodefaults", "-no-user-config", "-display", "none"),
        *("-machine", "pc", "-accel", accelerator, "-cpu", "host" if accelerator == "kvm" else _EMULATED),
        *("-smp", "1", "-m", str(hardware.memory)),
        # A guest that powers itself off ends QEMU; one that reboots does not. An NMI or a panic does not either.
        *("-kernel", str(image.kernel), "-initrd", str(image.initrd)),
        *("-append", kernel_parameters(hardware, accelerator)),
        *("-drive", f"file={hardware.disk},format=qcow2,if=virtio"),
        # Tells the kernel that it continues as another machine (QEMU's documentation, "Virtual Machine Generation ID").
        *("-device", "virtio-rng-pci", "-device", "vmgenid,guid=auto"),
        *("-serial", f"file:{hardware.console}"),
        *("-qmp", f"unix:{hardware.monitor},server=on,wait=off"),
        *("-chardev", f"socket,path={hardware.agent},server=on,wait=off,id=agent"),
        *("-device", "virtio-serial", "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"),
    ]
    if hardware.shared is not None:
        argv += ["-virtfs", f"local,path={hardware.shared},mount_tag=shared,security_model=passthrough"]
    if saved is not None:
        argv += ["-incoming", f"exec:cat '{saved.state}'"]
    for number, interface in enumerate(hardware.interfaces):
        argv += [
            *("-netdev", f"tap,id=net{number},ifname={interface.tap},script=no,downscript=no"),
            *("-device", f"virtio-net-pci,netdev=net{number},id=eth{number},mac={interface.mac},romfile="),
        ]
    return argv


def kernel_parameters(hardware: Hardware, accelerator: str) -> str:
    """The guest's kernel command line. Its name and its first address are in it: systemd takes both from there."""
    # Where other work slows the emulation down, systemd's 90 s are too short for a boot.
    patience = "systemd.default_timeout_start_sec=600"
    identity = f"systemd.hostname={hardware.name} ip={hardware.address}:::255.255.255.0::eth0:none"
    speed = "" if accelerator == "kvm" else f" {_NO_DETOURS}"
    return f"root=/dev/vda rw console=ttyS0 net.ifnames=0 panic=0 {identity} {patience}{speed} quiet"


@functools.cache
def version() -> str:
    """What QEMU says of its version. Raises OSError or SubprocessError without one."""
    return subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout


@functools.cache
def accelerator(image: Image) -> str:
    """``kvm`` where the image's kernel starts on it, else QEMU's emulation.

    It is tried: /dev/kvm may exist and a QEMU that uses it hang, or never get its processor to run an ordinary kernel
    (kvm_pvm, for kernels that were built for it).
    """
    emulation = "tcg,thread=multi"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return emulation
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(
        _kvm_probe(image), stdin=quiet, stdout=subprocess.PIPE, stderr=quiet, start_new_session=True
    )
    # As guests are: a slow start must not pass for one that never comes.
    processes.prefer(process.pid)
    said = b""
    try:
        said, _ = process.communicate(timeout=_KVM_PROBE)
    except subprocess.TimeoutExpired:
        process.kill()
        # A process that waits for the kernel without end (state D) does not end when it is killed: it is left.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_KILLED_WITHIN)
    return "kvm" if process.returncode == 0 and _STARTED in said else emulation


def _kvm_probe(image: Image) -> list[str]:
    """A machine whose kernel starts, finds no file system, and panics; that ends QEMU."""
    return [
        *(PROGRAM, "-nodefaults", "-no-user-config", "-display", "none", "-machine", "pc", "-accel", "kvm"),
        *("-cpu", "host", "-m", "256", "-no-reboot", "-serial", "stdio"),
        *("-kernel", str(image.kernel), "-append", "console=ttyS0 panic=-1 quiet"),
    ]
