"""NFS-Ganesha as the NFS server: one process that is NFS, mount and lock manager.

Rules of this file: Ganesha's ways alone. It is told of a move over the system's message bus: ``admin.grace`` with an
event number, see ``src/include/sal_data.h`` and ``src/support/nfs_admin_thread.c`` of NFS-Ganesha, and CTDB's
``nfs-ganesha-callout``. Its grace period drops no lock, so a node in which nothing moved loses none.
"""

from __future__ import annotations

import os
import re

from locum.events.toolbox.commands import as_words
from locum.nfs.backends.base import Backend
from locum.nfs.services import Daemon
from locum.script import Fail, log, run, settings

DEFAULT_CONFIG = "/etc/ganesha/ganesha.conf"

#: Events of ``admin.grace``: begin a grace period; with an address, release what it held; load who had state there.
_JUST_GRACE, _RELEASE_IP, _TAKE_IP = 0, 2, 5

_SEND = (
    "dbus-send --print-reply --system --reply-timeout=3000 --dest=org.ganesha.nfsd"
    " /org/ganesha/nfsd/admin org.ganesha.nfsd.admin.grace"
)

_PATH = re.compile(r"(?:^|[\s;{])Path\s*=\s*\"?([^\";]+)\"?\s*;", re.IGNORECASE)


class Ganesha(Backend):
    """Settings: ``nfs_…`` (the server, unit ``nfs-ganesha``), ``bus_…`` (a message bus of its own, none by default),
    ``config`` (its configuration, for the exported directories), ``grace_command`` (what is run instead of dbus-send,
    with ``string:EVENT:ADDRESS`` after it), ``recovery`` (``true``: load NFSv4 clients of an address that comes)."""

    def __init__(self) -> None:
        super().__init__()
        self._server = Daemon("nfs", "nfs-ganesha")
        self._bus = Daemon("bus")

    def start(self) -> None:
        """See :class:`Backend`."""
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

    def begin_grace(self) -> bool:
        """Over the bus; when that is not possible, by a restart, after which Ganesha is in its grace period anyway."""
        try:
            self._send(_JUST_GRACE, "")
        except Fail as failure:
            log(f"{failure}\nthe grace period cannot be begun over the message bus: restarting NFS-Ganesha")
            self._server.kill()  # it may hang
            self.restart(float(str(settings().get("timeout", 20))))
            return True
        return False

    def release(self, address: str) -> None:
        """NFSv3 locks and NFSv4 clients of the address are given up."""
        self._send(_RELEASE_IP, address)

    def take(self, address: str) -> None:
        """NFSv4 clients of the former holder may reclaim, where Ganesha's recovery directory is shared."""
        if settings().get("recovery"):
            self._send(_TAKE_IP, address)

    def export_directories(self) -> list[str]:
        """The ``Path`` of every export in the configuration."""
        path = str(settings().get("config", DEFAULT_CONFIG))
        try:
            with open(path, encoding="utf-8") as file:
                text = re.sub(r"#.*", "", file.read())
        except OSError as error:
            raise Fail(f"{path}: {error.strerror}") from None
        return sorted({os.path.normpath(found.strip()) for found in _PATH.findall(text)})

    def _send(self, event: int, address: str) -> None:
        command = settings().get("grace_command") or _SEND
        words = [str(word) for word in command] if isinstance(command, list | tuple) else as_words(str(command))
        done = run([*words, f"string:{event}:{address}"], check=False, timeout=10)
        # The reply has a truth value: a call that was understood may have failed all the same.
        if done.status != 0 or "boolean false" in done.output:
            raise Fail(f"NFS-Ganesha: grace {event}:{address} failed: {done.output.strip()}")
