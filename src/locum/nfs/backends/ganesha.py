"""NFS-Ganesha as the NFS server: one process for NFS, mount and lock manager.

Only Ganesha's specifics. It is notified of a move over the system's message bus: ``admin.grace`` with an event number,
see ``src/include/sal_data.h`` and ``src/support/nfs_admin_thread.c`` of NFS-Ganesha, and CTDB's
``nfs-ganesha-callout``. Its grace period drops no lock, so a node where no address moved loses none.

NFSv4 clients may reclaim from a server that has them on record. With the setting ``recovery`` the records of all nodes
are in one directory, and the server receives the name of the one to read. A client's state at its old server must be
given up as soon as the address leaves. Otherwise it would block the client itself: the file system knows the state by
server, not by client.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterator, Sequence

from locum.nfs import v4_records
from locum.nfs.backends.base import Backend
from locum.nfs.services import Daemon
from locum.script import Fail, log, node_name, run, settings
from locum.script.commands import as_words

DEFAULT_CONFIG = "/etc/ganesha/ganesha.conf"

#: Events of ``admin.grace``. All begin or prolong a grace period. ``RELEASE`` with an address gives up the NFSv3 locks
#: that came by it, and the state of every NFSv4 client whose name for itself contains the argument (of all clients when
#: it is empty). ``OWN`` and ``OTHERS`` let clients reclaim that are on record here, or elsewhere.
_JUST_GRACE, _RELEASE, _OWN, _OTHERS = 0, 2, 3, 5

#: How long a grace period waits for a server that was restarted for it, seconds.
_RESTARTED_WITHIN = 5.0

#: How long dbus-send may wait for a reply, and for a hanging message bus, seconds.
_SENT_WITHIN = 5.0

#: With more clients they are not released one by one: each release runs a program.
_ONE_BY_ONE = 20

_SEND = (
    "dbus-send --print-reply --system --reply-timeout=3000 --dest=org.ganesha.nfsd"
    " /org/ganesha/nfsd/admin org.ganesha.nfsd.admin.grace"
)

_PATH = re.compile(r"(?:^|[\s;{])Path\s*=\s*\"?([^\";]+)\"?\s*;", re.IGNORECASE)
_EXPORT = re.compile(r"(?:^|[\s;}])EXPORT\s*\{", re.IGNORECASE)
_NAME = re.compile(r"(?:^|[\s;{])Name\s*=\s*\"?(\w+)\"?\s*;", re.IGNORECASE)

#: FSALs that reach another system by its library, or keep files in memory: an export's path is not local there.
ELSEWHERE = frozenset({"ceph", "gluster", "rgw", "proxy", "proxy_v3", "proxy_v4", "mem", "lizardfs", "saunafs"})


def local_paths(text: str) -> list[str]:
    """The paths of exports that are directories of this machine, in a configuration without comments."""
    found: set[str] = set()
    for begin in _EXPORT.finditer(text):
        block = _block(text, begin.end())
        if ELSEWHERE.isdisjoint(name.lower() for name in _NAME.findall(block)):
            found.update(os.path.normpath(path.strip()) for path in _PATH.findall(block))
    return sorted(found)


def _block(text: str, start: int) -> str:
    """The text between the brace before ``start`` and its closing brace."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start:place]
    return text[start:]


class Ganesha(Backend):
    """Settings: ``nfs_…`` (the server, unit ``nfs-ganesha``), ``bus_…`` (its own message bus, none by default),
    ``config`` (its configuration, for the exported directories), ``grace_command`` (runs instead of dbus-send, with
    ``string:EVENT:ARGUMENT`` appended), ``recovery`` (a directory of the cluster's file system with the
    ``RecoveryRoot`` of each node, under the node's name)."""

    def __init__(self) -> None:
        super().__init__()
        self._server = Daemon("nfs", "nfs-ganesha")
        self._bus = Daemon("bus")
        self._recovery = str(settings().get("recovery") or "")

    def directories(self) -> list[str]:
        """Includes the directory of the records."""
        return [*super().directories(), *filter(None, [self._recovery])]

    def start(self) -> None:
        """See :class:`Backend`."""
        if not self._server.tells:
            raise Fail("nfs_start needs nfs_status: a command that succeeds while NFS-Ganesha runs")
        if self._recovery:
            try:
                v4_records.prepare(self._root())
            except OSError as error:
                raise Fail(f"{self._recovery}: {error.strerror}") from None
        self._bus.start()
        self._server.start()

    def stop(self) -> None:
        """See :class:`Backend`."""
        self._server.stop()
        self._bus.stop()

    def kill(self) -> None:
        """See :class:`Backend`."""
        self._server.kill()

    def running(self) -> bool:
        """See :class:`Backend`."""
        return self._server.running()

    def begin_grace(self, nodes: Sequence[str] = ()) -> bool:
        """Over the bus; if that fails, by a restart, after which Ganesha is in its grace period anyway."""
        try:
            self._send(_JUST_GRACE, "")
        except Fail as failure:
            log(f"{failure}\nthe grace period cannot be begun over the message bus: restarting NFS-Ganesha")
            self._server.kill()  # it may hang
            try:
                self.restart(_RESTARTED_WITHIN)
            except Fail as problem:
                log(problem)  # monitor will report it as well; the whole cluster waits for this node now
            return True
        return False

    def release(self, address: str, clients: Collection[str] = ()) -> None:
        """See :class:`Backend`. Of NFSv4 clients only connected ones, whose records others can read."""
        with self._or_end():
            self._release(address, clients)

    def lose(self, addresses: Sequence[str]) -> None:
        """See :class:`Backend`."""
        with self._or_end():
            for address in addresses:
                self._send(_RELEASE, address)
            if self._recovery:
                self._send(_RELEASE, "")

    @contextlib.contextmanager
    def _or_end(self) -> Iterator[None]:
        """End a server that cannot give up locks on request: it would keep clients from their locks elsewhere, and
        gives them up when it ends. "recovered" starts it again."""
        try:
            yield
        except Fail as failure:
            log(f"{failure}\nits locks cannot be given up over the message bus: ending NFS-Ganesha")
            self._server.kill()

    def _release(self, address: str, clients: Collection[str]) -> None:
        self._send(_RELEASE, address)
        if not self._recovery:
            return
        try:
            names = v4_records.names(self._root(), clients)
        except OSError as error:
            raise Fail(f"{self._recovery}: {error.strerror}") from None
        if len(names) > _ONE_BY_ONE or any(name.startswith("0x") for name in names):
            names = [""]
        for name in names:
            self._send(_RELEASE, name)
        # This may release too much: a client that also uses other addresses, or whose name contains another's.
        self._send(_OWN, "")

    def welcome(self, nodes: Sequence[str]) -> None:
        """See :class:`Backend`."""
        if not self._recovery:
            return
        for node in nodes:
            if node == node_name():
                self._send(_OWN, "")
                continue
            for argument in v4_records.arguments(node):
                self._send(_OTHERS, argument)

    def export_directories(self) -> list[str]:
        """The ``Path`` of every export in the configuration whose FSAL works on this machine's file systems."""
        path = str(settings().get("config", DEFAULT_CONFIG))
        try:
            with open(path, encoding="utf-8") as file:
                text = re.sub(r"#.*", "", file.read())
        except OSError as error:
            raise Fail(f"{path}: {error.strerror}") from None
        return local_paths(text)

    def _root(self) -> str:
        return os.path.join(self._recovery, node_name())

    def _send(self, event: int, argument: str) -> None:
        command = as_words(settings().get("grace_command") or _SEND)
        done = run([*command, f"string:{event}:{argument}"], check=False, timeout=_SENT_WITHIN)
        # The reply has a truth value: an understood call may still have failed.
        if done.status != 0 or "boolean false" in done.output:
            raise Fail(f"NFS-Ganesha: grace {event}:{argument} failed: {done.output.strip()}")
