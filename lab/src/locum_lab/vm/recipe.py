"""The contents of the guests' disk image: Debian packages, and the changes to a fresh Debian.

No I/O but reading a checkout. The image has two layers, so that a change of Locum rebuilds only the second:

- *base*: Debian 12 with the packages of :data:`PACKAGES`, and the settings of :func:`setup_script`;
- *locum*: the base with Locum, installed by the commands of README.md, read from README.md.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from locum.errors import LocumError

SUITE = "bookworm"

#: Debian packages of every guest. Guests have no network to the outside: a test cannot install anything.
PACKAGES: tuple[str, ...] = (
    # The machine: kernel, init, the channel by which the lab runs commands.
    *("linux-image-amd64", "systemd", "systemd-sysv", "udev", "dbus", "kmod", "procps"),
    *("qemu-guest-agent", "netbase", "less"),
    # What README.md asks for.
    *("python3", "python3-venv", "nftables"),
    # Networks, and looking at them.
    *("iproute2", "iputils-ping", "tcpdump", "ethtool", "network-manager", "firewalld"),
    # Services whose event scripts ship with Locum, and their clients.
    *("nfs-kernel-server", "nfs-common", "rpcbind", "vsftpd", "nginx-light", "curl"),
    # A member of a domain, its domain controller, and an SMB client.
    *("samba", "winbind", "libnss-winbind", "samba-dsdb-modules", "samba-ad-provision", "samba-vfs-modules"),
    *("python3-samba", "smbclient", "krb5-user"),
    # The store.
    *("etcd-server", "etcd-client"),
    # For comparison. CTDB's 10.interface keeps new connections out with iptables while an address leaves.
    *("ctdb", "iptables"),
    "strace",
)

#: Units that Debian starts at boot, and that a guest does not: unit → reason.
DISABLED: dict[str, str] = {
    "nfs-server.service": "the event script 60.nfs starts it",
    "vsftpd.service": "the event script 40.vsftpd starts it",
    "nginx.service": "the event script 41.nginx starts it",
    "smbd.service": "the event script 50.samba starts it",
    "winbind.service": "the event script 50.samba starts it",
    "nmbd.service": "nothing here needs NetBIOS names",
    "samba-ad-dc.service": "tests that need a domain controller start it",
    "etcd.service": "the lab configures it first, on the nodes that have a member",
    "ctdb.service": "only the comparison with CTDB starts it",
    "NetworkManager.service": "systemd-networkd configures the interfaces; tests of NetworkManager start it",
    "NetworkManager-wait-online.service": "belongs to NetworkManager",
    "NetworkManager-dispatcher.service": "belongs to NetworkManager",
    "firewalld.service": "tests of firewalld start it",
    "nfs-blkmap.service": "serves pNFS block layouts, which need shared disks",
}
#: Units that nothing may start, because they would run at some moment of a test: unit → reason.
MASKED: dict[str, str] = {
    "apt-daily.timer": "there is no network to the outside",
    "apt-daily-upgrade.timer": "there is no network to the outside",
    "dpkg-db-backup.timer": "takes the processor from a test",
    "e2scrub_all.timer": "takes the processor from a test",
    "e2scrub_reap.service": "there is no LVM",
    "fstrim.timer": "takes the processor from a test",
    "man-db.timer": "takes the processor from a test",
}
#: Drivers in the initial RAM disk. Debian's default is all that exist, which an emulated processor unpacks slowly.
_BOOT_MODULES = ("virtio_pci", "virtio_blk", "ext4")

#: Where the checkout is in a guest.
CHECKOUT = "/root/locum"
#: Parts of a checkout that the installation needs.
_SOURCES = ("src", "examples", "README.md", "pyproject.toml")


def setup_script(disabled: Sequence[str] = tuple(DISABLED), masked: Sequence[str] = tuple(MASKED)) -> str:
    """A shell script that turns a fresh Debian, whose root directory is its argument, into the base layer."""
    boot_modules = "\n".join(_BOOT_MODULES)
    units = " ".join(disabled)
    return f"""#!/bin/sh
set -eu
root=$1
inside() {{ chroot "$root" "$@"; }}
# Root logs in on the serial console without a password; nothing else accepts logins.
inside passwd --delete root
drop_in="$root/etc/systemd/system/serial-getty@ttyS0.service.d"
mkdir -p "$drop_in"
printf '[Service]\\nExecStart=\\nExecStart=-/sbin/agetty --autologin root --keep-baud 115200 - linux\\n' \\
    >"$drop_in/autologin.conf"
printf '/dev/vda / ext4 defaults 0 1\\n' >"$root/etc/fstab"
# Every guest makes an identity of its own at its first boot.
: >"$root/etc/machine-id"
rm -f "$root/etc/hostname"
# A disk or a serial line may take an emulated processor longer than 90 s to find.
mkdir -p "$root/etc/systemd/system.conf.d"
printf '[Manager]\\nDefaultDeviceTimeoutSec=600\\n' >"$root/etc/systemd/system.conf.d/lab.conf"
mkdir -p "$root/var/log/journal"
for unit in {units}; do
    [ ! -e "$root/lib/systemd/system/$unit" ] || inside systemctl disable "$unit"
done
inside systemctl mask {" ".join(masked)}
inside systemctl enable systemd-networkd.service
sed -i 's/^MODULES=.*/MODULES=list/' "$root/etc/initramfs-tools/initramfs.conf"
printf '{boot_modules}\\n' >"$root/etc/initramfs-tools/modules"
inside update-initramfs -u
"""


def readme_commands(readme: str) -> tuple[list[str], list[str]]:
    """The commands of README.md's section "Run it": those that install Locum, and those that put it into service.

    Raises LocumError when the section does not have these two blocks of code.
    """
    section = re.search(r"^## Run it\n(.*?)(?=^## )", readme, re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"^```\n(.*?)^```", section[1] if section else "", re.MULTILINE | re.DOTALL)
    if len(blocks) != 2:
        raise LocumError('README.md: "Run it" does not have two blocks of commands, to install and to start')
    install, start = (block.strip().splitlines() for block in blocks)
    return install, start


def install_script(readme: str) -> str:
    """The shell script that installs Locum in the image, with the commands of README.md. Raises LocumError."""
    install, start = readme_commands(readme)
    # Of the second block only the units are put into place: the rest needs a running system.
    units = [line for line in start if line.startswith(("install ", "systemctl enable")) and "--now" not in line]
    return "\n".join([f"cd {CHECKOUT}", *install, *units]) + "\n"


def sources(checkout: Path) -> Iterator[Path]:
    """The files of a checkout that the installation needs, in order. Raises LocumError when one is missing."""
    for name in _SOURCES:
        place = checkout / name
        if not place.exists():
            raise LocumError(f"{place} is missing: guests get Locum from a checkout; run this in one")
        files = sorted(place.rglob("*")) if place.is_dir() else [place]
        yield from (file for file in files if file.is_file() and not _made(file.relative_to(checkout)))


def _made(path: Path) -> bool:
    """Whether tools made this file."""
    return any(part == "__pycache__" or part.endswith(".egg-info") for part in path.parts)


def base_key(packages: Sequence[str]) -> str:
    """The name of a base layer: the same contents have the same name."""
    return digest([SUITE, *sorted(packages), setup_script()])


def locum_key(base: str, checkout: Path, *more: str) -> str:
    """The name of the layer with the Locum of this checkout; ``more``: whatever else decides on its contents."""
    files = []
    for file in sources(checkout):
        files += [str(file.relative_to(checkout)), hashlib.sha256(file.read_bytes()).hexdigest()]
    return digest([base, *files, *more])


def digest(parts: Sequence[str]) -> str:
    """A short name for these texts in this order."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
