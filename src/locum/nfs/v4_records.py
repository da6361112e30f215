"""NFS-Ganesha's records of its NFSv4 clients, which may reclaim after their server is gone.

Only the directories of its recovery backend ``fs``, not the server itself. Source: ``src/SAL/recovery/recovery_fs.c``
of NFS-Ganesha 4.3. A client is a directory ``ADDRESS-(LENGTH:NAME)``, where NAME is the client's name for itself; a
name too long for a directory is spread over several nested ones. The server's current clients are in its directory
``v4recov``; those that it was given, or had before it was started, are in ``v4old`` until its grace period ends. Both
lie below its root.

A server reads another server's records from ``ROOT/ARGUMENT/v4recov``. So every node's root is a directory with its
name in a common one, ``../NAME`` is the argument, and ``../NAME/old``, which contains a link, is the argument for the
other directory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator

from locum import hosts
from locum.folder import Folder

_CURRENT, _OLD = "v4recov", "v4old"
_LINK = "old"
#: The most nested directories of a record: NAME has up to 1024 bytes (RFC 7530, section 16.33).
_DEEPEST = 16
_RECORD = re.compile(r"(?P<address>.*?)-\((?P<length>\d+):(?P<name>.*)\)", re.DOTALL)


def prepare(root: str) -> None:
    """Make the directory of a node, so that other nodes can read both kinds of records. Raises OSError."""
    with Folder(os.path.join(root, _LINK), create=0o755) as folder:
        folder.link(os.path.join("..", _OLD), _CURRENT)


def arguments(node: str) -> tuple[str, str]:
    """The arguments that make a server read the records of ``node``. Raises ValueError for an invalid node name."""
    if "/" in node or node.startswith("."):
        raise ValueError(f"invalid node name {node!r}")
    return os.path.join("..", node), os.path.join("..", node, _LINK)


def names(root: str, addresses: Collection[str]) -> list[str]:
    """The names for themselves of the clients at ``addresses`` recorded below ``root``; in hexadecimal, from ``0x``,
    where they are not text. (Records also use that where a slash occurs, as in Linux's names for NFSv4.0.) Raises
    OSError."""
    found = set()
    for record in _records(os.path.join(root, _CURRENT), ""):
        parts = _RECORD.fullmatch(record)
        if parts and len(parts["name"]) == int(parts["length"]) and hosts.host_or_empty(parts["address"]) in addresses:
            found.add(_text(parts["name"]))
    return sorted(found)


def _records(directory: str, before: str, depth: int = 0) -> Iterator[str]:
    for entry in os.scandir(directory):
        # Files are handles of delegations that were revoked.
        if not entry.is_dir(follow_symlinks=False):
            continue
        record = before + entry.name
        if record.endswith(")"):
            yield record
        if depth < _DEEPEST:
            yield from _records(entry.path, record, depth + 1)


def _text(name: str) -> str:
    if not name.startswith("0x"):
        return name
    try:
        text = bytes.fromhex(name[2:]).decode("ascii")
    except ValueError:
        return name
    return text if text.isprintable() else name
