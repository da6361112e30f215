"""Checks whether this machine fits a configuration that is valid in itself.

Rules of this file: it only reads, needs no privilege, and imports little (the guard starts with it). Facts that need
an attempt (whether the socket is in use, what the kernel can enforce) are found where the attempt is made.
"""

from __future__ import annotations

import os

from locum import nft
from locum.config import credentials
from locum.config.model import Settings
from locum.folder import foreign_control

#: <linux/capability.h>, and the purpose of each.
CAPABILITIES = {
    12: ("CAP_NET_ADMIN", "to configure addresses and to enforce the hold"),
    13: ("CAP_NET_RAW", "to announce addresses (ARP, neighbour discovery)"),
}

_STATUS = "/proc/self/status"


def check_environment(settings: Settings, *, with_credentials: bool = True) -> list[str]:
    """All problems that keep a daemon with these settings from working here, one line each.

    Credentials matter only to a starting daemon: a running daemon continues with the last good ones.
    """
    paths = settings.paths
    problems = _missing_capabilities()
    problems += _missing_interfaces(settings)
    directories = {"paths.runtime": paths.runtime, "paths.state": paths.state}
    if os.path.dirname(paths.control) not in directories.values():
        directories["paths.control"] = os.path.dirname(paths.control)
    for key, path in directories.items():
        problems += _directory_problem(f"{settings.source}: {key}", path) or _foreign_control(settings, key, path)
    problems += _store_problems(settings)
    if with_credentials:
        problems += [remark.text for remark in credentials.examine(settings) if remark.kind == "unusable"]
    if paths.control_group is not None and not _group_exists(paths.control_group):
        problems.append(
            f"{settings.source}: paths.control_group: found {paths.control_group!r}, a group that this machine does "
            "not have; expected one of /etc/group (groupadd creates one)"
        )
    return problems


def environment_warnings(settings: Settings, *, with_credentials: bool = True) -> list[str]:
    """Warnings about problems that do not keep the daemon from working, one line each."""
    warnings = []
    if nft.find() is None:
        warnings.append(
            "the program nft is not installed (Debian package: nftables): Locum loads its rules with it; without them "
            "holds are enforced to the second only, and others wait longer before they take over"
        )
    if writable_by_others(settings.source):
        warnings.append(f"{settings.source}: users other than its owner may write it; chmod go-w {settings.source}")
    home = os.path.dirname(os.path.abspath(settings.source))
    if reason := foreign_control(home):
        warnings.append(
            f"{settings.source}: users other than root may replace it, and so run programs as root: {reason}"
        )
    if with_credentials:
        warnings += [r.text for r in credentials.examine(settings) if r.kind in ("ended", "warning")]
    return warnings


def writable_by_others(path: str) -> bool:
    """Whether group or others may write the file at ``path``; False when it does not exist."""
    try:
        return bool(os.stat(path).st_mode & 0o022)
    except OSError:
        return False


def _missing_capabilities() -> list[str]:
    effective = 0
    with open(_STATUS, encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("CapEff:"):
                effective = int(line.split()[1], 16)
    return [
        f"permission: {name} is missing, needed {purpose}; run the daemon as root"
        for bit, (name, purpose) in CAPABILITIES.items()
        if not effective >> bit & 1
    ]


def interfaces() -> frozenset[str]:
    """The interfaces of this process's network namespace.

    Not from /sys/class/net, which shows the namespace that mounted it and not the one that a process is in.
    """
    with open("/proc/self/net/dev", encoding="ascii", errors="surrogateescape") as file:
        return frozenset(line.partition(":")[0].strip() for line in file if ":" in line)


def _missing_interfaces(settings: Settings) -> list[str]:
    present = interfaces()
    users: dict[str, list[str]] = {}
    for address in settings.addresses:
        for interface in address.interfaces:
            if interface not in present:
                users.setdefault(interface, []).append(str(address))
    expected = ", ".join(sorted(present - {"lo"})) or "one that exists (this machine has only lo)"
    return [
        f"{settings.source}: found interface {interface} for {_some(addresses)}, which this machine does not have; "
        f"expected one of its interfaces: {expected}"
        for interface, addresses in users.items()
    ]


def _some(addresses: list[str]) -> str:
    more = f" and {len(addresses) - 3} more" if len(addresses) > 3 else ""
    return ", ".join(addresses[:3]) + more


def _directory_problem(place: str, path: str) -> list[str]:
    """Why the directory ``path`` is neither writable nor can be created."""
    if os.path.isdir(path):
        if os.access(path, os.W_OK | os.X_OK):
            return []
        return [f"{place}: found {path}, which this process may not write; expected a directory that it may write"]
    if os.path.lexists(path):
        return [f"{place}: found {path}, which is not a directory; expected a directory, or nothing"]
    parent = os.path.dirname(path)
    while not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    if os.path.isdir(parent) and os.access(parent, os.W_OK | os.X_OK):
        return []
    return [
        f"{place}: found {path}, which cannot be created in {parent}; expected a directory that this process may create"
    ]


def _foreign_control(settings: Settings, key: str, path: str) -> list[str]:
    """The daemon opens files there by name, so another user could make it open, change or give away foreign files."""
    reason = foreign_control(path)
    return (
        [f"{settings.source}: {key}: found {path}, but {reason}; expected a place that belongs only to root"]
        if reason
        else []
    )


def _store_problems(settings: Settings) -> list[str]:
    store = settings.cluster.store
    if store.kind == "sqlite":
        place = os.path.dirname(store.path)
        problems = _directory_problem(f"{settings.source}: cluster.store", place)
        return problems or _foreign_control(settings, "cluster.store", place)
    return []


def _group_exists(group: str) -> bool:
    import grp  # noqa: PLC0415  # only where a group is configured

    try:
        if group.isdigit():
            grp.getgrgid(int(group))
        else:
            grp.getgrnam(group)
    except (KeyError, OverflowError):
        return False
    return True
