"""What rpc.statd calls when a client of the lock manager begins or ends to be monitored (``rpc.statd -H``).

Rules of this file: the standard library alone, and quick, because rpc.statd waits for its end and the client for its
lock. The program is called as ``add-client CLIENT SERVER`` and ``del-client CLIENT SERVER`` (nfs-utils,
``support/nsm`` and ``utils/statd/callout.c``; further arguments are ignored). SERVER is the name under which the
server asked: an address or, with NFS-Ganesha and most kernels, only the name of the host. Then the client is recorded
for every public address that this node serves, as CTDB does.

The daemon is asked to record it in the cluster's store. When it cannot, or does not answer within a moment, the
change goes to the *journal*, a file that :func:`deliver` (``60.nfs`` calls it) hands over later. What is in the
journal is older than what comes now, so while there is one everything goes there. rpc.statd may have given up root, and
the journal is handed over by root: the files belong to the owner of their directory.

While the lock manager is restarted, or gives up the locks of an address that moves away, it stops to monitor its
clients. They still need to be told, so ``del-client`` means nothing then: see :func:`keep`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator

from locum.nfs.daemon import NoDaemon, Refused, ask

DEFAULT_STATE = "/var/lib/locum"

#: Seconds that rpc.statd may have to wait for the daemon.
PATIENCE = 1.0
#: Seconds for which a server that was stopped, or gave up an address, may go on to end the monitoring of its clients.
KEEP = 10.0
#: Lines handed over at once.
_BATCH = 500
#: The longest name of a client, in characters. Longer ones are no names of hosts (RFC 1035, section 2.3.4).
_LONGEST_NAME = 255

_NAMES = {"add-client": "add", "del-client": "del"}


class Wrong(Exception):
    """The arguments are not those of a call-out."""


def directory(state: str | None = None) -> str:
    """The directory of journal and marks: below the daemon's state directory, LOCUM_STATE or the default."""
    return os.path.join(state or os.environ.get("LOCUM_STATE") or DEFAULT_STATE, "statd")


def record(arguments: list[str], *, state: str | None = None, path: str | None = None) -> str:
    """Carry out one call. Returns what was done: ``recorded``, ``journal``, ``kept``. Raises Wrong and OSError."""
    if len(arguments) < 2 or arguments[0] not in _NAMES:
        raise Wrong("usage: locum statd-callout add-client|del-client CLIENT [SERVER [STATE]]")
    if not 0 < len(arguments[1]) <= _LONGEST_NAME or not arguments[1].isprintable():
        raise Wrong(f"{arguments[1][:_LONGEST_NAME]!r} is no name of a client")
    place = directory(state)
    change = {
        "do": _NAMES[arguments[0]],
        "client": arguments[1],
        "server": arguments[2] if len(arguments) > 2 else "",
        "at": time.time(),
    }
    if change["do"] == "del" and is_kept(place):
        return "kept"
    if not _pending(place):
        try:
            ask({"op": "statd-record", "changes": [change]}, path=path, timeout=PATIENCE)
            return "recorded"
        except Refused as error:
            if error.kind == "usage":
                raise Wrong(str(error)) from None
        except NoDaemon:
            pass
    os.makedirs(place, exist_ok=True)
    with _locked(place), open(_journal(place), "ab") as file:
        _give(file.fileno(), place)
        file.write(json.dumps(change).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return "journal"


def deliver(*, state: str | None = None, path: str | None = None, timeout: float = 5.0) -> int:
    """Hand the journal over to the daemon; returns how many changes it had. Raises NoDaemon and Refused.

    A change that the daemon does not understand is left out: it must not keep back those after it.
    """
    place = directory(state)
    count = 0
    while _pending(place):
        # The lock is not held while the daemon is asked: rpc.statd goes on adding lines at the end.
        with _locked(place), open(_journal(place), "rb") as file:
            lines = [line for _, line in zip(range(_BATCH), file, strict=False)]
        changes = []
        for line in lines:
            with contextlib.suppress(ValueError):  # half a line, of a machine that lost power
                changes.append(json.loads(line))
        count += _hand_over(changes, path, timeout)
        with _locked(place):
            with open(_journal(place), "rb") as file:
                file.seek(sum(map(len, lines)))
                rest = file.read()
            temporary = _journal(place) + ".new"
            with open(temporary, "wb") as file:
                _give(file.fileno(), place)
                file.write(rest)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, _journal(place))
    return count


def _hand_over(changes: list[object], path: str | None, timeout: float) -> int:
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
    """For ``seconds`` from now, ``del-client`` changes nothing."""
    place = directory(state)
    os.makedirs(place, exist_ok=True)
    temporary = os.path.join(place, "keep.new")
    with open(temporary, "w", encoding="ascii") as file:
        file.write(f"{time.clock_gettime(time.CLOCK_BOOTTIME) + seconds}\n")
    os.replace(temporary, os.path.join(place, "keep"))


def is_kept(place: str) -> bool:
    """Whether ``del-client`` changes nothing at present."""
    try:
        with open(os.path.join(place, "keep"), encoding="ascii") as file:
            left = float(file.read()) - time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, ValueError):
        return False
    return 0 < left < 3600  # more is of another boot


def main(arguments: list[str]) -> int:
    """``locum statd-callout``. rpc.statd takes no notice of the status; an admin who tries it does."""
    try:
        record(arguments)
    except (Wrong, OSError) as error:
        print(f"locum statd-callout: {error}", file=sys.stderr)
        return 2 if isinstance(error, Wrong) else 1
    return 0


def _journal(place: str) -> str:
    return os.path.join(place, "journal")


def _pending(place: str) -> bool:
    try:
        return os.path.getsize(_journal(place)) > 0
    except OSError:
        return False


@contextlib.contextmanager
def _locked(place: str) -> Iterator[None]:
    descriptor = os.open(os.path.join(place, "lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        _give(descriptor, place)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _give(descriptor: int, place: str) -> None:
    """Have an open file belong to the owner of its directory, when this process may say so."""
    owner = os.stat(place)
    with contextlib.suppress(OSError):
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
