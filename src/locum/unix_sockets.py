"""Locum's Unix sockets: their files, and the process at the other end.

Rules of this file: it creates and removes socket files and identifies peers. It knows no message. Only light parts of
the standard library, because short commands import it.

The kernel says which process is at the other end (``SO_PEERCRED``, ``SO_PEERGROUPS``, unix(7)), never the peer itself.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from locum.errors import PermissionRequired, UsageError

#: Longest line in bytes, its newline included, that Locum's programs send over these sockets.
FRAME_LIMIT: Final = 16 * 1024 * 1024

#: ``sizeof(sun_path)`` is 108 with the terminating zero (unix(7)).
PATH_LIMIT: Final = 107

#: linux/asm-generic/socket.h; the socket module has no name for it. Since Linux 4.13.
_SO_PEERGROUPS: Final = 59
#: The kernel's limit for the groups of a process (include/uapi/linux/limits.h).
_MOST_GROUPS: Final = 65536


class Peer(NamedTuple):
    """The process at the other end of a Unix socket, as it was when it connected (or listened)."""

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    def may_use(self, group: int | None = None) -> bool:
        """Whether it is root, this process's own user, or a member of ``group``."""
        if self.uid in (0, os.geteuid()):
            return True
        return group is not None and (self.gid == group or group in self.groups)

    def __str__(self) -> str:
        return f"pid {self.pid} (uid {self.uid}, gid {self.gid})"


def peer_of(sock: socket.socket) -> Peer:
    """The process at the other end of the connected Unix socket ``sock``."""
    pid, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return Peer(pid, uid, gid, _groups(sock))


def _groups(sock: socket.socket) -> tuple[int, ...]:
    """The supplementary groups of the process at the other end, from the kernel.

    The system's database is not used: it may ask a directory service that does not answer.
    """
    try:
        # Python returns at most 1024 bytes; the kernel answers ERANGE rather than truncating.
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024)
    except OSError as error:
        raw = _many_groups(sock) if error.errno == errno.ERANGE else b""
    return struct.unpack(f"{len(raw) // 4}I", raw)


def _many_groups(sock: socket.socket) -> bytes:
    """As :func:`_groups`, for more than 256 of them."""
    import ctypes  # noqa: PLC0415  (rarely needed, and every short command imports this module)

    buffer = ctypes.create_string_buffer(4 * _MOST_GROUPS)
    length = ctypes.c_uint32(len(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.getsockopt(sock.fileno(), socket.SOL_SOCKET, _SO_PEERGROUPS, buffer, ctypes.byref(length))
    return b"" if failed else buffer.raw[: length.value]


def check_path(path: str) -> None:
    """Raise UsageError when ``path`` cannot be the path of a Unix socket."""
    length = len(os.fsencode(path))
    if not path or "\0" in path:
        raise UsageError(f"{path!r} is not the path of a socket")
    if length > PATH_LIMIT:
        raise UsageError(f"socket path {path} is too long: {length} bytes, at most {PATH_LIMIT} are possible")


class Listener:
    """A listening socket and its file; ``close`` removes the file if it still is this socket's."""

    def __init__(self, sock: socket.socket, path: str) -> None:
        self.sock = sock
        self.path = path
        self._identity = _identity(path)
        self._closed = False

    def close(self) -> None:
        """Stop listening and remove the file. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self.sock.close()
        with _locked(self.path):
            if _identity(self.path) == self._identity:
                os.unlink(self.path)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """Hold the lock of the socket ``path``: two processes that find the same stale file must not remove each other's
    new one. Errors of the block become errors that name ``path``.

    The lock is a file that only its owner can open. A lock on the directory could be held by every user that may read
    the directory.
    """
    directory = os.path.dirname(path) or "."
    try:
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError:
        raise UsageError(f"cannot use socket {path}: the directory {directory} does not exist") from None
    except NotADirectoryError:
        raise UsageError(f"cannot use socket {path}: {directory} is not a directory") from None
    except PermissionError:
        raise PermissionRequired(
            f"cannot create socket {path}: no permission to open {path}.lock (as uid {os.geteuid()}); "
            f"run as a user that may write {directory}"
        ) from None
    except OSError as error:
        raise UsageError(f"cannot create socket {path}: {path}.lock: {error.strerror or error}") from error
    try:
        status = os.fstat(lock)
        if status.st_uid not in (0, os.geteuid()) or not stat.S_ISREG(status.st_mode):
            raise UsageError(f"cannot create socket {path}: {path}.lock is not a plain file of this user; remove it")
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    except PermissionError as error:
        raise PermissionRequired(
            f"cannot create socket {path}: {error.strerror} (as uid {os.geteuid()}); "
            f"run as a user that may write {directory}"
        ) from None
    except OSError as error:
        raise UsageError(f"cannot create socket {path}: {error.strerror or error}") from error
    finally:
        os.close(lock)


def listen(path: str, *, group: int | None = None, backlog: int = 128) -> Listener:
    """A non-blocking listening socket at ``path``: mode 0600, or 0660 with ``group`` (a gid).

    A socket file without a listener is replaced. Raises UsageError when ``path`` is in use (with the pid), is not a
    socket, is too long, or when its directory is missing; PermissionRequired when the process may not create it.
    """
    check_path(path)
    with _locked(path):
        _remove_stale(path)
        return Listener(_bind(path, group, backlog), path)


def _remove_stale(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise UsageError(f"cannot create socket {path}: it exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except FileNotFoundError:
            return
        except BlockingIOError:
            # The listener does not accept: its backlog is full.
            raise UsageError(f"socket {path} is in use by a process that does not answer") from None
        except OSError as error:
            if error.errno == errno.EPROTOTYPE:
                raise UsageError(f"socket {path} is in use by a program other than Locum") from None
            raise
        pid = peer_of(probe).pid
    raise UsageError(f"socket {path} is in use by pid {pid}{_name_of(pid)}")


def _name_of(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm") as file:
            return f" ({file.read().strip()})"
    except OSError:
        return ""


def _bind(path: str, group: int | None, backlog: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        # The file takes the socket's own mode (net/unix/af_unix.c, unix_bind), so it is never open to others.
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(path)
        if group is not None:
            _give(path, group)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def _give(path: str, group: int) -> None:
    """Let ``group`` connect to the socket at ``path``: to that socket, not to another file with its name."""
    handle = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(handle).st_mode):
            raise UsageError(f"cannot create socket {path}: another process has replaced it")
        os.chown(f"/proc/self/fd/{handle}", -1, group)
        os.chmod(f"/proc/self/fd/{handle}", 0o660)
    finally:
        os.close(handle)
