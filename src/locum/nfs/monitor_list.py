"""The files in which rpc.statd records monitored clients (the ``sm`` directory), synchronised with the cluster's list.

Only the directory's contents, through :mod:`locum.folder`, because it belongs to rpc.statd's user. rpc.statd and
sm-notify read it when they start. So after a restart of the machine they notify exactly the clients that hold locks
through this node's addresses. The format is that of nfs-utils (``support/nsm/file.c``): one file for each monitored
host, named after it, with one line ``ADDRESS PROGRAM VERSION PROCEDURE COOKIE MON_NAME MY_NAME``, the first four in
hexadecimal, the address in network byte order.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from locum import hosts
from locum.folder import Folder

#: Loopback, program and version of the lock manager, its procedure 16 (NLM_SM_NOTIFY), and an unused cookie.
_LINE = "0100007f 000186b5 00000003 00000010 {cookie} {client} {server}\n"
_COOKIE = "0" * 32

_USUAL = ("/var/lib/nfs/statd/sm", "/var/lib/nfs/sm")


def find(configured: object = None) -> str | None:
    """The configured directory, or the first usual one that exists; None without one."""
    candidates = [str(configured)] if configured else list(_USUAL)
    return next((path for path in candidates if os.path.isdir(path)), None)


class Rebuilt(NamedTuple):
    """The numbers of files added and removed, and a text for each failure."""

    added: int
    removed: int
    problems: tuple[str, ...] = ()


def rebuild(directory: str, clients: Mapping[str, str]) -> Rebuilt:
    """Make it agree with ``clients`` (client → our address by which it knows us). The file of a listed client is left
    unchanged: rpc.statd knows more. Raises OSError when the directory cannot be used.
    """
    added = removed = 0
    problems: list[str] = []
    with Folder(directory) as folder:
        # An invalid name is also invalid as a file name.
        wanted = {host: server for client, server in clients.items() if (host := hosts.host_or_empty(client))}
        present = {name: hosts.host_or_empty(name) for name in folder.names()}
        for client in wanted.keys() - set(present.values()):
            line = _LINE.format(cookie=_COOKIE, client=client, server=wanted[client])
            try:
                folder.replace(client, line.encode("ascii"), sync=False)
                added += 1
            except OSError as error:
                problems.append(str(error))
        for name, client in present.items():
            if client in wanted:
                continue
            try:
                folder.remove(name)
                removed += 1
            except OSError as error:
                problems.append(str(error))
    return Rebuilt(added, removed, tuple(problems))
