"""End every TCP connection to an address that leaves this node, inside the kernel (``SOCK_DESTROY``).

A connection that survived its address here would revive when the address returns, after its client has continued with
another node: the two ends then answer each other's segments for ever (an ACK storm).

This file neither mutes nor removes the address. No asyncio: the guard can use it. Listening sockets are never touched.

All states in which the kernel would send a segment are ended, not only established ones: a handshake becomes a
connection, a socket of a closed file retransmits its last data, TIME_WAIT answers unexpected segments. Two exceptions
depend on the kernel, and end by themselves:

- before 6.0 it cannot destroy TIME_WAIT, which lasts a minute;
- before 6.11, a destroyed socket without a file (its process has closed it, and the client has not confirmed the end)
  would be stuck for ever instead of ending after the kernel's own retries (bac76cf89816, "tcp: fix forever orphan
  socket caused by tcp_abort"), so these are left alone.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from locum.connections.sockets import scan
from locum.machine.netlink import core, inet_diag, route
from locum.machine.netlink.core import NetlinkSocket
from locum.machine.netlink.inet_diag import Found

Kernel = Callable[[NetlinkSocket, Sequence[Found]], list[int]]

#: Sockets that one step destroys, in about 3 ms.
CHUNK = 256
#: Connections may appear while others are destroyed, while the address is not mute.
_ROUNDS = 3

_CLOSING = (inet_diag.FIN_WAIT1, inet_diag.FIN_WAIT2, inet_diag.CLOSING, inet_diag.LAST_ACK)
_ORPHANS_SINCE = (6, 11)

UNSUPPORTED = (
    "this kernel cannot destroy TCP connections (it was built without CONFIG_INET_DIAG_DESTROY); "
    "they are reset by forged segments instead, which is slower and misses some"
)


class Progress(NamedTuple):
    """``destroyed`` so far; ``left``: those that the kernel does not destroy.

    ``unsupported``: the kernel lacks SOCK_DESTROY and destroyed none. ``failed``: the kernel did not answer.
    """

    destroyed: int = 0
    left: tuple[Found, ...] = ()
    unsupported: bool = False
    failed: bool = False


def kernel_version() -> tuple[int, int]:
    """Major and minor number of the running kernel."""
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()) or 0)


class Destroyer:
    """Destroys connections in the network namespace in which it was created. One thread at a time may use it.

    ``kernel`` is :func:`locum.machine.netlink.inet_diag.destroy`, or a test's replacement.
    """

    def __init__(self, kernel: Kernel = inet_diag.destroy) -> None:
        self._netlink = inet_diag.open_socket()
        self._kernel = kernel
        self._orphans = kernel_version() >= _ORPHANS_SINCE

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._netlink.close()

    def supported(self) -> bool:
        """Whether this kernel can. Raises PermissionRequired without CAP_NET_ADMIN."""
        # No socket has this identity; the kernel's error distinguishes both cases.
        nowhere = Found(2, inet_diag.ESTABLISHED, bytes(40) + b"\xff" * 8, 0)
        number = self._kernel(self._netlink, [nowhere])[0]
        if number == errno.EPERM:
            raise core.error(number, "cannot destroy TCP connections")
        return not _lacking(number)

    def find(self, addresses: Iterable[str], ports: Collection[int] | None = None) -> list[Found]:
        """The connections to any of ``addresses`` (None: any port). Raises NetlinkError, ValueError."""
        return scan(self._netlink, [route.packed(a) for a in addresses], ports)

    def sweep(
        self, addresses: Iterable[str], ports: Collection[int] | None = None, found: list[Found] | None = None
    ) -> Iterator[Progress]:
        """Destroy the connections to any of ``addresses``, in steps of some milliseconds; the last result is final.

        ``found``: what :meth:`find` has just found. Always yields at least once. Raises NetlinkError,
        PermissionRequired, ValueError (not an address).
        """
        wanted = list(addresses)
        destroyed = 0
        spared: set[bytes] = set()
        for _ in range(_ROUNDS):
            found = self.find(wanted, ports) if found is None else found
            spared.update(f.identity for f in found if self._must_be_spared(f))
            targets = [f for f in found if f.identity not in spared]
            left = tuple(f for f in found if f.identity in spared)
            if not targets:
                break
            for start in range(0, len(targets), CHUNK):
                chunk = targets[start : start + CHUNK]
                for target, number in zip(chunk, self._kernel(self._netlink, chunk), strict=True):
                    if number == 0:
                        destroyed += 1
                    elif _lacking(number):
                        if target.state != inet_diag.TIME_WAIT:
                            yield Progress(destroyed, tuple(found), unsupported=True)
                            return
                        spared.add(target.identity)
                    elif number == errno.EPERM:
                        raise core.error(number, "cannot destroy TCP connections")
                yield Progress(destroyed)
            found = None
        else:
            left = tuple(self.find(wanted, ports))
        yield Progress(destroyed, left)

    def _must_be_spared(self, found: Found) -> bool:
        return not self._orphans and found.inode == 0 and found.state in _CLOSING


def _lacking(number: int) -> bool:
    # EINVAL: kernels before 4.5 do not know the message at all.
    return number in (errno.EOPNOTSUPP, errno.EINVAL)


def destroy(addresses: Iterable[str], ports: Collection[int] | None = None) -> Progress:
    """Destroy all connections to ``addresses`` (or to ``ports`` of them) in the present network namespace.

    Raises NetlinkError, PermissionRequired, ValueError (not an address).
    """
    destroyer = Destroyer()
    try:
        return list(destroyer.sweep(addresses, ports))[-1]
    finally:
        destroyer.close()
