"""Files in directories that another user may own: nothing outside them is opened, changed or given away.

Rules of this file: a few modules of the standard library only, because rpc.statd waits for a program that uses it.

A root process that works by name in another user's directory can be abused by that user: a symbolic link, a hard link,
a FIFO or a device in place of root's expected file, also placed between a check and the use. Therefore:

- a directory is opened once, step by step from the root, and used by its descriptor. A symbolic link on the way is
  followed only out of directories in which only root (or the caller) can create one;
- an existing file is first examined by an ``O_PATH`` descriptor, which does not open it, and then opened through that
  descriptor: it must be a plain file with one name, and belong to the owner of the directory;
- a new file gets a random name that must not exist (``O_EXCL``), and its final name by a rename;
- reads have a size limit, and waits for locks have a time limit.

The owner can still change the files of the directory at will, so their contents are only as trustworthy as the owner.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple, Self

#: Maximum of symbolic links in a path (path_resolution(7)).
_MOST_LINKS = 40
#: Maximum of names that :meth:`Folder.names` examines.
_MOST_NAMES = 200_000
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Folder:
    """An open directory, and operations on its files. ``uid`` and ``gid`` are its owner's.

    Every method raises OSError; ``strerror`` states the file's problem. Close it, or use it with ``with``.
    """

    def __init__(self, path: str, *, create: int | None = None) -> None:
        """``create``: the mode of missing directories; they are created only where no other user can write the parent.

        Raises OSError: the directory does not exist, users other than its owner can write it, or a directory of a third
        user is on the way to it.
        """
        self.path = path
        found = _walk(path, create)
        try:
            self._handle = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=found.handle)
        finally:
            os.close(found.handle)
        if found.problem:
            os.close(self._handle)
            raise OSError(errno.EPERM, found.problem, path)
        status = os.fstat(self._handle)
        self.uid, self.gid = status.st_uid, status.st_gid

    def close(self) -> None:
        """Close the directory."""
        os.close(self._handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def size(self, name: str) -> int:
        """The size of a file in bytes; 0 if it does not exist."""
        try:
            handle = self._look(name)
        except FileNotFoundError:
            return 0
        try:
            return os.fstat(handle).st_size
        finally:
            os.close(handle)

    def read(self, name: str, limit: int, begin: int = 0) -> bytes:
        """At most ``limit`` bytes of a file, from ``begin`` on."""
        handle = self._open(name, os.O_RDONLY)
        with open(handle, "rb") as file:
            file.seek(begin)
            return file.read(limit)

    def append(self, name: str, data: bytes, limit: int) -> None:
        """Append ``data`` to a file, which is created if missing, and sync it to the disk. The file must not have more
        than ``limit`` bytes before."""
        try:
            handle = self._open(name, os.O_WRONLY | os.O_APPEND)
        except FileNotFoundError:
            self.replace(name, data)
            return
        with open(handle, "ab") as file:
            if os.fstat(handle).st_size > limit:
                raise OSError(errno.EFBIG, f"has more than {limit} bytes; remove it", self._full(name))
            file.write(data)
            file.flush()
            os.fsync(handle)

    def replace(self, name: str, data: bytes, *, mode: int = 0o600, sync: bool = True) -> None:
        """Replace the file ``name`` by ``data`` in one step; the new file belongs to the directory's owner."""
        temporary = f".{os.urandom(12).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(temporary, flags, 0o600, dir_fd=self._handle)
        try:
            with open(handle, "wb") as file:
                # The descriptor is of a file that was just created, so no other file can be given away by it.
                with contextlib.suppress(PermissionError):
                    os.fchown(handle, self.uid, self.gid)
                os.fchmod(handle, mode)
                file.write(data)
                file.flush()
                if sync:
                    os.fsync(handle)
            os.rename(temporary, name, src_dir_fd=self._handle, dst_dir_fd=self._handle)
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=self._handle)
            if isinstance(error, OSError):
                raise OSError(error.errno, error.strerror, self._full(name)) from None
            raise

    def link(self, target: str, name: str) -> None:
        """Make ``name`` a symbolic link to ``target``; no error when the name exists."""
        with contextlib.suppress(FileExistsError):
            os.symlink(target, name, dir_fd=self._handle)

    def remove(self, name: str) -> None:
        """Remove the name of a file; no error when it does not exist."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._handle)

    def names(self) -> list[str]:
        """The names of the plain files, unsorted."""
        with os.scandir(self._handle) as entries:
            return [entry.name for entry in islice(entries, _MOST_NAMES) if entry.is_file(follow_symlinks=False)]

    @contextlib.contextmanager
    def locked(self, patience: float) -> Iterator[None]:
        """Hold the lock of the directory itself (flock(2)); wait for it up to ``patience`` seconds."""
        limit = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > limit:
                    text = f"another process has kept the lock of the directory for {patience:g} s"
                    raise OSError(errno.ETIMEDOUT, text, self.path) from None
                time.sleep(0.01)
        try:
            yield
        finally:
            fcntl.flock(self._handle, fcntl.LOCK_UN)

    def _full(self, name: str) -> str:
        return os.path.join(self.path, name)

    def _look(self, name: str) -> int:
        """A descriptor of the checked file that can only be opened through /proc."""
        handle = os.open(name, _LOOK, dir_fd=self._handle)
        problem = _flaw(os.fstat(handle), self.uid)
        if problem:
            os.close(handle)
            raise OSError(errno.EPERM, problem, self._full(name))
        return handle

    def _open(self, name: str, flags: int) -> int:
        handle = self._look(name)
        try:
            # The descriptor's file, whichever file has its name by now (proc(5)).
            return os.open(f"/proc/self/fd/{handle}", flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        finally:
            os.close(handle)


def private_folder(path: str) -> None:
    """Make ``path`` a directory that only this user can use, if it is missing. Raises OSError when it is another's."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    found = _walk(path, None)
    try:
        status = os.fstat(found.handle)
    finally:
        os.close(found.handle)
    if found.problem:
        raise OSError(errno.EPERM, found.problem, path)
    if status.st_uid != os.geteuid():
        raise OSError(errno.EPERM, f"it belongs to user {status.st_uid}", path)
    if status.st_mode & 0o077:
        raise OSError(errno.EPERM, f"others can use it (mode {stat.S_IMODE(status.st_mode):04o})", path)


def foreign_control(path: str) -> str:
    """Why a user other than root and the caller can change the file at ``path`` (which need not exist yet): a clause
    that begins with the directory in question. Empty when no such user can."""
    try:
        found = _walk(path, None)
    except FileNotFoundError as error:
        # A missing directory can be created only by users who can write its parent.
        return foreign_control(os.path.dirname(str(error.filename))) if error.filename != "/" else ""
    except OSError as error:
        return f"{error.filename}: {error.strerror}" if error.errno == errno.EPERM else ""
    os.close(found.handle)
    return found.problem or found.foreign


class _Found(NamedTuple):
    """``handle`` is the directory's, ``O_PATH``. ``foreign``: the directory of another user, or "". ``problem``: why
    more than one foreign user has control, or ""."""

    handle: int
    problem: str
    foreign: str


def _walk(path: str, create: int | None) -> _Found:
    """Open a directory step by step. Raises OSError, with the path of the step."""
    start = path if path.startswith("/") else os.path.join(os.getcwd(), path)
    steps = [part for part in reversed(start.split("/")) if part not in ("", ".")]
    here = os.open("/", _LOOK | os.O_DIRECTORY)
    # In a user namespace, an owner outside of it appears as user "nobody"; the owner of the root counts as root.
    trusted = {0, os.geteuid(), os.fstat(here).st_uid}
    walked, links = "/", 0
    foreign = problem = ""
    stranger: int | None = None
    try:
        while steps:
            part = steps.pop()
            status = os.fstat(here)
            place = os.path.join(walked, part)
            try:
                entry = os.stat(part, dir_fd=here, follow_symlinks=False)
            except FileNotFoundError:
                if create is None or stranger is not None or _shared(status):
                    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), place) from None
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, create, dir_fd=here)
                entry = os.stat(part, dir_fd=here, follow_symlinks=False)
            if stat.S_ISLNK(entry.st_mode):
                links += 1
                if stranger is not None or _shared(status) or links > _MOST_LINKS:
                    text = (
                        f"is a symbolic link in a directory that user {stranger or status.st_uid} or others can write"
                    )
                    raise OSError(errno.EPERM, text, place)
                target = os.readlink(part, dir_fd=here)
                steps += [step for step in reversed(target.split("/")) if step not in ("", ".")]
                if target.startswith("/"):
                    os.close(here)
                    here, walked = os.open("/", _LOOK | os.O_DIRECTORY), "/"
                continue
            try:
                below = os.open(part, _LOOK | os.O_DIRECTORY, dir_fd=here)
            except OSError as error:
                raise type(error)(error.errno, error.strerror, place) from None
            os.close(here)
            here, walked = below, place
            status = os.fstat(here)
            if status.st_uid not in trusted or stranger is not None:
                foreign = foreign or f"{place} belongs to user {status.st_uid}"
                if stranger not in (None, status.st_uid):
                    problem = f"{place} belongs to user {status.st_uid}, and what is above it to user {stranger}"
                stranger = status.st_uid
            if _shared(status) and not (steps and status.st_mode & stat.S_ISVTX):
                problem = problem or (
                    f"{place} can be written by others than its owner (mode {stat.S_IMODE(status.st_mode):04o})"
                    + ("" if status.st_mode & stat.S_ISVTX else f": chmod go-w {place}")
                )
    except BaseException:
        os.close(here)
        raise
    return _Found(here, problem, foreign)


def _shared(status: os.stat_result) -> bool:
    """Whether users other than the owner and root can write a directory."""
    return bool(status.st_mode & 0o002) or bool(status.st_mode & 0o020 and status.st_gid != 0)


def _flaw(status: os.stat_result, owner: int) -> str:
    """Why a file in a directory of this owner must not be opened; empty when it may."""
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO"}
        return f"is {kinds.get(stat.S_IFMT(status.st_mode), 'a special file')}, not a plain file; remove it"
    if status.st_uid != owner:
        return f"belongs to user {status.st_uid}, the directory to user {owner}; remove it"
    if status.st_nlink != 1:
        return f"has {status.st_nlink} names (hard links); remove it"
    return ""
