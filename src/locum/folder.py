"""Files in directories that another user may own: nothing outside them is opened, changed or given away.

Rules of this file: the standard library alone and little of it, because rpc.statd waits for a program that uses it.

A process of root that works by name in a directory of another user does what that user wants: he puts a symbolic link,
a hard link, a FIFO or a device where root expects its file, also between a check and the use. So here

- a directory is opened once, step by step from the root, and used by its descriptor. A symbolic link on the way is
  followed only out of directories in which nobody but root (or the caller) can put one;
- an existing file is looked at by an ``O_PATH`` descriptor first, which opens nothing, and opened through it: it must
  be a plain file with one name, that belongs to the owner of the directory;
- a new file gets a random name that must not exist (``O_EXCL``), and its place by a rename;
- what is read has a limit, and so has the time for which a lock is waited for.

An owner can still do to the files of his directory whatever he likes, so what they say is as good as his word.
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
from types import TracebackType
from typing import NamedTuple, Self

#: Symbolic links that a path may have (path_resolution(7)).
_MOST_LINKS = 40
#: Names that :meth:`Folder.names` looks at.
_MOST_NAMES = 200_000
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Folder:
    """An open directory, and what is done to the files in it. ``uid`` and ``gid`` are its owner's.

    Every method raises OSError; ``strerror`` says what is wrong with the file. Close it, or use it with ``with``.
    """

    def __init__(self, path: str, *, create: int | None = None) -> None:
        """``create``: the mode with which missing directories are made, as far as nobody else can write their parents.

        Raises OSError: it is not there, others than its owner can write it, or a directory of another owner than its
        own is on the way to it.
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

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def size(self, name: str) -> int:
        """Bytes of a file; 0 when there is none."""
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
        """Add ``data`` to the end of a file, which is made if need be, and have it on disk. It must not have more than
        ``limit`` bytes before."""
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
        """Have ``data`` in the file ``name``, whatever was there, in one step; it belongs to the directory's owner."""
        temporary = f".{os.urandom(12).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(temporary, flags, 0o600, dir_fd=self._handle)
        try:
            with open(handle, "wb") as file:
                # The descriptor is of a file that was made just now: no other can be given away by it.
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
        """Make ``name`` a symbolic link to ``target``; no error when there is something of that name."""
        with contextlib.suppress(FileExistsError):
            os.symlink(target, name, dir_fd=self._handle)

    def remove(self, name: str) -> None:
        """Remove the name of a file; no error when there is none."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._handle)

    def names(self) -> list[str]:
        """The names of the plain files, unsorted."""
        with os.scandir(self._handle) as entries:
            return [entry.name for entry in islice(entries, _MOST_NAMES) if entry.is_file(follow_symlinks=False)]

    @contextlib.contextmanager
    def locked(self, patience: float) -> Iterator[None]:
        """Hold the lock of the directory itself (flock(2)), which is waited for ``patience`` seconds."""
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
        """A descriptor of the checked file that can be opened through /proc, and nothing else."""
        handle = os.open(name, _LOOK, dir_fd=self._handle)
        problem = _flaw(os.fstat(handle), self.uid)
        if problem:
            os.close(handle)
            raise OSError(errno.EPERM, problem, self._full(name))
        return handle

    def _open(self, name: str, flags: int) -> int:
        handle = self._look(name)
        try:
            # The descriptor's file, whatever has its name by now (proc(5)).
            return os.open(f"/proc/self/fd/{handle}", flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        finally:
            os.close(handle)


def private_folder(path: str) -> None:
    """Make ``path`` if it is missing, a directory that only this user can use. Raises OSError when it is another's."""
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


def in_strange_hands(path: str) -> str:
    """Why a user other than root and the caller can change what is at ``path`` (which need not exist yet): a clause
    that begins with the directory in question. Empty when none can."""
    try:
        found = _walk(path, None)
    except FileNotFoundError as error:
        # What is missing can be made only by those who can write the directory above.
        return in_strange_hands(os.path.dirname(str(error.filename))) if error.filename != "/" else ""
    except OSError as error:
        return f"{error.filename}: {error.strerror}" if error.errno == errno.EPERM else ""
    os.close(found.handle)
    return found.problem or found.foreign


class _Found(NamedTuple):
    """``handle`` is the directory's, ``O_PATH``. ``foreign`` says which directory is another user's, if one is;
    ``problem``, why more than one stranger has a say."""

    handle: int
    problem: str
    foreign: str


def _walk(path: str, create: int | None) -> _Found:
    """Open a directory step by step. Raises OSError, with the path of the step."""
    start = path if path.startswith("/") else os.path.join(os.getcwd(), path)
    steps = [part for part in reversed(start.split("/")) if part not in ("", ".")]
    here = os.open("/", _LOOK | os.O_DIRECTORY)
    # In a user namespace the owner of everything that is not the user's shows as nobody; he who owns the root is root.
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
    """Whether others than the owner and root can write a directory."""
    return bool(status.st_mode & 0o002) or bool(status.st_mode & 0o020 and status.st_gid != 0)


def _flaw(status: os.stat_result, owner: int) -> str:
    """Why a file of a directory with this owner must not be opened; empty when it may."""
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO"}
        return f"is {kinds.get(stat.S_IFMT(status.st_mode), 'a special file')}, not a plain file; remove it"
    if status.st_uid != owner:
        return f"belongs to user {status.st_uid}, the directory to user {owner}; remove it"
    if status.st_nlink != 1:
        return f"has {status.st_nlink} names (hard links); remove it"
    return ""
