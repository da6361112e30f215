"""The files in which rpc.statd keeps whom it monitors (the ``sm`` directory), brought in line with the cluster's list.

Rules of this file: the directory's contents alone. rpc.statd and sm-notify read it when they start; so after a restart
of the machine they notify those clients that hold locks through the addresses of this node, and no others. The format
is that of nfs-utils (``support/nsm/file.c``): one file for each monitored host, named after it, with one line
``ADDRESS PROGRAM VERSION PROCEDURE COOKIE MON_NAME MY_NAME``, the first four in hexadecimal, the address in the byte
order of the network.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

#: Loopback, program and version of the lock manager, its procedure 16 (NLM_SM_NOTIFY), and a cookie that nobody uses.
_LINE = "0100007f 000186b5 00000003 00000010 {cookie} {client} {server}\n"
_COOKIE = "0" * 32

_USUAL = ("/var/lib/nfs/statd/sm", "/var/lib/nfs/sm")


def find(configured: object = None) -> str | None:
    """The directory: the configured one, or the first of the usual ones that exists; None when there is none."""
    candidates = [str(configured)] if configured else list(_USUAL)
    return next((path for path in candidates if os.path.isdir(path)), None)


def rebuild(directory: str, clients: Mapping[str, str]) -> tuple[int, int]:
    """Make it agree with ``clients`` (client → the address of ours under which it knows us). Returns how many were
    added and removed. A file of a client that is listed is left as it is, rpc.statd knows more. Raises OSError.
    """
    owner = os.stat(directory)
    wanted = {client: server for client, server in clients.items() if _is_name(client)}
    present = {entry.name for entry in os.scandir(directory) if entry.is_file(follow_symlinks=False)}
    added = 0
    for client, server in wanted.items():
        if client in present:
            continue
        temporary = os.path.join(directory, f"{client}.new")
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(_LINE.format(cookie=_COOKIE, client=client, server=server))
        os.chmod(temporary, 0o600)
        # rpc.statd gives up root for the owner of the directory.
        with contextlib.suppress(PermissionError):
            os.chown(temporary, owner.st_uid, owner.st_gid)
        os.replace(temporary, os.path.join(directory, client))
        added += 1
    strangers = present - set(wanted)
    for name in strangers:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, name))
    return added, len(strangers)


def _is_name(client: str) -> bool:
    return bool(client) and "/" not in client and not client.startswith(".") and client.isprintable()
