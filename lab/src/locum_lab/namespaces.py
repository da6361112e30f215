"""Network namespaces: make, list, delete, enter, and find the processes in one.

Named namespaces as made by ``ip netns`` (files under /run/netns), so that engineers can examine a lab with familiar
tools. This file knows nothing of labs.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

from locum.errors import LocumError, PermissionRequired

DIRECTORY = "/run/netns"

_CLONE_NEWNET = 0x40000000  # <linux/sched.h>

T = TypeVar("T")


def run_ip(lines: Iterable[str], namespace: str | None = None) -> None:
    """Carry out ``ip`` commands in one process (``ip -batch``), in ``namespace`` when one is given.

    Raises :class:`LocumError` with ip's message, or :class:`PermissionRequired`.
    """
    argv = ["ip", *(["-n", namespace] if namespace else []), "-batch", "-"]
    run(argv, "".join(f"{line}\n" for line in lines))


def run(argv: list[str], text: str = "") -> str:
    """Run a command of the system with ``text`` on its input; return its output, raise LocumError when it fails."""
    try:
        done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise LocumError(f"{argv[0]} is not installed (Debian packages: iproute2, nftables, util-linux)") from error
    if done.returncode != 0:
        reason = " ".join((done.stderr or done.stdout).split())
        if "Operation not permitted" in reason or "Permission denied" in reason:
            raise PermissionRequired(f"{argv[0]}: {reason}: network namespaces need root, or a user namespace")
        raise LocumError(f"{' '.join(argv)} failed: {reason}")
    return done.stdout


def create(names: Iterable[str]) -> None:
    """Make named network namespaces."""
    run_ip(f"netns add {name}" for name in names)


def delete(name: str) -> None:
    """Delete a named namespace; a missing one is accepted."""
    try:
        run_ip([f"netns delete {name}"])
    except LocumError:
        if name in existing():
            raise


def existing(prefix: str = "") -> tuple[str, ...]:
    """Names of the namespaces that start with ``prefix``, sorted."""
    try:
        return tuple(sorted(name for name in os.listdir(DIRECTORY) if name.startswith(prefix)))
    except FileNotFoundError:
        return ()


def identity(name: str) -> tuple[int, int] | None:
    """Device and inode of the namespace; None without one (or when its file is only a remnant)."""
    try:
        status = os.stat(f"{DIRECTORY}/{name}")
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def inhabitants(names: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """The processes in each of the namespaces, from one pass over /proc."""
    by_identity = {found: name for name in names if (found := identity(name)) is not None}
    result: dict[str, list[int]] = {name: [] for name in by_identity.values()}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            status = os.stat(f"/proc/{entry}/ns/net")
        except OSError:  # gone, a zombie, or not readable for us
            continue
        name = by_identity.get((status.st_dev, status.st_ino))
        if name is not None:
            result[name].append(int(entry))
    return {name: tuple(pids) for name, pids in result.items()}


def enter(name: str) -> None:
    """Move the calling *thread* into the named network namespace.

    Uses the C library, since ``os.setns`` exists only from Python 3.12 on. Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(f"{DIRECTORY}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), name)
    finally:
        os.close(descriptor)


def inside(name: str, function: Callable[[], T]) -> T:
    """Call ``function`` in a thread inside the namespace and return its result.

    Sockets opened there stay in that namespace in every thread. /proc/sys/net is the namespace's own.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            enter(name)
            results.append(function())
        except BaseException as error:  # handed to the caller
            errors.append(error)

    thread = threading.Thread(target=body, name=f"in {name}")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
