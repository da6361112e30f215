"""The program that rpc.statd calls when it begins or ends to monitor a client of the lock manager (``rpc.statd -H``).

Only light imports, and fast, because rpc.statd waits for its end and the client for its lock. The program is called
as ``add-client CLIENT SERVER`` and ``del-client CLIENT SERVER`` (nfs-utils, ``support/nsm`` and
``utils/statd/callout.c``; further arguments are ignored). SERVER is the server's name for itself: an address or, with
NFS-Ganesha and most kernels, only the host name. Then the client is recorded for every public address that this node
serves, as CTDB does.

The daemon records it in the cluster's store. When it cannot, or does not answer in time, the change goes to the
*journal*, a file that :func:`deliver` (called by ``60.nfs``) delivers later. The journal's changes are older than new
ones, so while a journal exists, all changes go there. rpc.statd may have given up root, but root delivers the journal:
the files belong to the owner of their directory, who may be an attacker (:mod:`locum.folder`). The journal's contents
are checked like the arguments of a call.

While the lock manager is restarted, or gives up the locks of an address that leaves, it ceases to monitor its clients.
They must still be notified, so ``del-client`` is ignored then: see :func:`keep`. It also does so when an administrator
restarts it, of which there is no warning. So ``del-client`` is only *noted*, in a second file. ``monitor`` delivers it
some time later (:func:`deliver_ends`), unless the server was restarted meanwhile (:func:`forget_ends`). Until then the
client is on record, and a needless notification does no harm.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import sys
import time

from locum import escape, hosts
from locum.control_socket import Refused, ask
from locum.errors import LocumError
from locum.folder import Folder

DEFAULT_STATE = "/var/lib/locum"

#: How long rpc.statd may wait for the daemon, in seconds.
PATIENCE = 1.0
#: For how many seconds a server that was stopped, or gave up an address, may end the monitoring of its clients.
KEEP = 10.0
#: Lines delivered at once, bytes in which they are looked for, and how often in one call.
_BATCH, _PIECE, _ROUNDS = 500, 1 << 18, 100
#: The longest journal, bytes: some ten thousand changes.
_LONGEST_JOURNAL = 1 << 22
#: How long to wait for the lock of the directory, in seconds: its owner may keep it for ever.
_LOCK_PATIENCE = 5.0
#: For how many seconds the end of a client's monitoring is only noted. A lock manager that ends takes a call-out's time
#: for each client.
NOTED = 60.0
_JOURNAL, _ENDS, _KEEP = "journal", "ends", "keep"
_NAMES = {"add-client": "add", "del-client": "del"}


class Wrong(Exception):
    """The arguments are not those of a call-out."""


def directory(state: str | None = None) -> str:
    """The directory of journal and marks: below the daemon's state directory, LOCUM_STATE or the default."""
    return os.path.join(state or os.environ.get("LOCUM_STATE") or DEFAULT_STATE, "statd")


def record(arguments: list[str], *, state: str | None = None, path: str | None = None) -> str:
    """Carry out one call. Returns the action: ``recorded``, ``journal``, ``noted``, ``kept``. Raises Wrong and
    OSError."""
    if len(arguments) < 2 or arguments[0] not in _NAMES:
        raise Wrong("usage: locum statd-callout add-client|del-client CLIENT [SERVER [STATE]]")
    place = directory(state)
    change = _change(
        {
            "do": _NAMES[arguments[0]],
            "client": arguments[1],
            "server": arguments[2] if len(arguments) > 2 else "",
            "at": time.time(),
        }
    )
    if change["do"] == "del":
        if is_kept(place):
            return "kept"
        _append(place, _ENDS, change)
        return "noted"
    if not _pending(place):
        try:
            ask({"op": "statd-record", "changes": [change]}, path=path, timeout=PATIENCE)
            return "recorded"
        except Refused as error:
            if error.kind == "usage":
                raise Wrong(str(error)) from None
        except LocumError:
            pass
    _append(place, _JOURNAL, change)
    return "journal"


def _append(place: str, name: str, change: dict[str, object]) -> None:
    with Folder(place, create=0o755) as folder, folder.locked(_LOCK_PATIENCE):
        folder.append(name, json.dumps(change).encode() + b"\n", _LONGEST_JOURNAL)


def deliver(*, state: str | None = None, path: str | None = None, timeout: float = 5.0) -> int:
    """Deliver the journal to the daemon; return the number of its changes. Raises LocumError and OSError.

    A change that the daemon does not understand is skipped: it must not block later ones.
    """
    return _deliver(_JOURNAL, math.inf, state, path, timeout)


def deliver_ends(before: float, *, state: str | None = None, path: str | None = None, timeout: float = 5.0) -> int:
    """Deliver what was noted before ``before`` (unix time): these clients are monitored no longer. Returns how many.
    Raises LocumError and OSError.

    A client that was recorded again after that stays on record, because its record is newer.
    """
    return _deliver(_ENDS, before, state, path, timeout)


def _deliver(name: str, before: float, state: str | None, path: str | None, timeout: float) -> int:
    """Deliver the changes at the begin of a file that are older than ``before``."""
    count = 0
    try:
        folder = Folder(directory(state))
    except FileNotFoundError:
        return 0
    with folder:
        for _ in range(_ROUNDS):
            size = folder.size(name)
            if size == 0:
                break
            if size > 2 * _LONGEST_JOURNAL:
                text = f"the journal has more than {2 * _LONGEST_JOURNAL} bytes, so it is not ours; remove it"
                raise OSError(errno.EFBIG, text, os.path.join(folder.path, name))
            # The lock is not held while the daemon is asked: rpc.statd continues to append lines.
            with folder.locked(_LOCK_PATIENCE):
                lines = folder.read(name, _PIECE).splitlines(keepends=True)[:_BATCH]
            # A line that fills the whole piece is not a change, and the piece may end within a line.
            if len(lines) > 1 and not lines[-1].endswith(b"\n"):
                lines.pop()
            length, changes = _older(lines, before)
            if length == 0:
                break
            count += _hand_over(changes, path, timeout)
            with folder.locked(_LOCK_PATIENCE):
                folder.replace(name, folder.read(name, 2 * _LONGEST_JOURNAL, length))
    return count


def forget_ends(*, state: str | None = None) -> None:
    """Discard what was noted: the server was restarted, so these clients must still be notified. Raises OSError."""
    with contextlib.suppress(FileNotFoundError), Folder(directory(state)) as folder, folder.locked(_LOCK_PATIENCE):
        folder.remove(_ENDS)


def _older(lines: list[bytes], before: float) -> tuple[int, list[dict[str, object]]]:
    """The changes up to the first one that is not older than ``before``, and how many bytes their lines have."""
    length, changes = 0, []
    for line in lines:
        # Half a line, after a loss of power; or an attacker's lines, nested too deeply for the reader.
        with contextlib.suppress(ValueError, RecursionError, Wrong):
            change = _change(json.loads(line))
            if float(str(change["at"])) >= before:
                break
            changes.append(change)
        length += len(line)
    return length, changes


def _change(found: object) -> dict[str, object]:
    """The change in the daemon's form, client and server in canonical form. Raises Wrong."""
    if not isinstance(found, dict):
        raise Wrong("not a change")
    do, client, server, at = (found.get(key) for key in ("do", "client", "server", "at"))
    if do not in _NAMES.values():
        raise Wrong(f"not a change: {do!r}")
    host = hosts.host_or_empty(str(client))
    if not host:
        raise Wrong(f"invalid client name {str(client)[:255]!r}: expected an address or a host name")
    server = hosts.host_or_empty(str(server))  # it only says which address the client used, if any
    if isinstance(at, bool) or not isinstance(at, int | float) or not math.isfinite(at):
        at = 0.0
    # A future time would be newer than every later change.
    return {"do": do, "client": host, "server": server, "at": min(float(at), time.time())}


def _hand_over(changes: list[dict[str, object]], path: str | None, timeout: float) -> int:
    if not changes:
        return 0
    try:
        ask({"op": "statd-record", "changes": changes}, path=path, timeout=timeout)
    except Refused as error:
        if error.kind != "usage":
            raise
        if len(changes) > 1:
            return sum(_hand_over([change], path, timeout) for change in changes)
        print(f"left out: {error}", flush=True)
        return 0
    return len(changes)


def keep(seconds: float, *, state: str | None = None) -> None:
    """For ``seconds`` from now, ``del-client`` changes nothing. A failure to note this is only
    printed: the owner of the directory must not be able to fail an event."""
    until = f"{time.clock_gettime(time.CLOCK_BOOTTIME) + seconds}\n"
    try:
        with Folder(directory(state), create=0o755) as folder:
            folder.replace(_KEEP, until.encode())
    except OSError as error:
        print(f"clients that the lock manager gives up now will not be notified: {error}", flush=True)


def is_kept(place: str) -> bool:
    """Whether ``del-client`` is currently ignored."""
    try:
        with Folder(place) as folder:
            left = float(folder.read(_KEEP, 64)) - time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, ValueError):
        return False
    return 0 < left < 3600  # a larger value is from another boot


def main(arguments: list[str]) -> int:
    """``locum statd-callout``. rpc.statd ignores the status; an administrator who runs it by hand sees it."""
    try:
        record(arguments)
    except (Wrong, OSError) as error:
        print(f"locum statd-callout: {escape.one_line(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, Wrong) else 1
    return 0


def _pending(place: str) -> bool:
    try:
        with Folder(place) as folder:
            return folder.size(_JOURNAL) > 0
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
