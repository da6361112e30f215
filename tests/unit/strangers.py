"""Directories of an attacker, and files outside that notice every touch."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

#: A user that no machine has. The attacker.
STRANGER = 64123

_LIBC = ctypes.CDLL(None, use_errno=True)
#: Every event but IN_ATTRIB, which the removal of a hard link is as well; what it tells of is compared.
_EVENTS, _IN_NONBLOCK = 0xFFF & ~0x4, 0o4000

#: What root expects to be a file of its own, and is not: name → how it is made at a path, given a file outside.
PLANTS: dict[str, Callable[[Path, Path], None]] = {
    "symbolic link": lambda path, secret: path.symlink_to(secret),
    "dangling link": lambda path, secret: path.symlink_to(secret.with_name("made")),
    "link to a directory": lambda path, secret: path.symlink_to(secret.parent),
    "hard link": lambda path, secret: path.hardlink_to(secret),
    "FIFO": lambda path, _: os.mkfifo(path),
    "directory": lambda path, _: path.mkdir(),
    "directory with a file": lambda path, _: (path / "x").mkdir(parents=True),
    "socket": lambda path, _: _socket(path),
    "huge file": lambda path, _: _huge(path),
    "file of root": lambda path, _: path.touch(),
}


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        here = os.open(path.parent, os.O_PATH)
        opened.bind(f"/proc/self/fd/{here}/{path.name}")  # however long the path
        os.close(here)


def _huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)
    os.chown(path, STRANGER, STRANGER)


class Outside:
    """A file of root's, ``secret``, in a directory of its own. ``touched``: whether anything was done to either."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.secret = directory / "secret"
        self.secret.write_text("root's alone\n")
        self.secret.chmod(0o600)
        self._directory = directory
        self._handle = -1

    def watch(self) -> None:
        """From now on nobody has any business here."""
        self._handle = _LIBC.inotify_init1(_IN_NONBLOCK)
        for path in (self.secret, self._directory):
            # A directory is opened by those who walk through it only if they list it.
            assert _LIBC.inotify_add_watch(self._handle, os.fsencode(path), _EVENTS) > 0
        self._before = self._state()

    def touched(self) -> str:
        """What was done, empty when nothing was."""
        found = []
        try:
            data = os.read(self._handle, 65536)
        except BlockingIOError:
            data = b""
        while data:
            _, mask, _, length = struct.unpack_from("iIII", data)
            found.append(f"event {mask:#x} {data[16 : 16 + length].rstrip(bytes(1)).decode()}")
            data = data[16 + length :]
        if self._state() != self._before:
            found.append(f"{self._before} became {self._state()}")
        return "; ".join(found)

    def close(self) -> None:
        os.close(self._handle)

    def _state(self) -> tuple[object, ...]:
        # By lstat alone, which the watch does not see.
        status = self.secret.lstat()
        size = status.st_size
        return (
            status.st_uid,
            status.st_gid,
            status.st_mode,
            size,
            status.st_mtime_ns,
            os.lstat(self._directory).st_nlink,
        )


@contextmanager
def limited(seconds: int = 60) -> Iterator[None]:
    """What blocks for good becomes an error."""

    def over(*_: object) -> None:
        raise AssertionError(f"still at it after {seconds} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def attacker(act: Callable[[], None]) -> Iterator[None]:
    """``act``, again and again, in a process of the attacker's."""
    pid = os.fork()
    if not pid:
        try:
            os.setgroups([])
            os.setgid(STRANGER)
            os.setuid(STRANGER)
            while os.getppid() != 1:
                try:
                    act()
                except OSError:
                    continue
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
