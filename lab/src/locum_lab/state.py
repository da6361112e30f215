"""The state of a lab between two commands: one small file in the lab's directory.

It is written before anything is made, so that a lab that crashed at any moment can still be removed. It identifies the
processes; it need not be complete, because every process in the lab's namespaces belongs to the lab.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from locum.errors import LocumError, UsageError
from locum.folder import foreign_control, private_folder
from locum_lab.layout import Layout
from locum_lab.processes import Process

#: The directory of root's labs, each in a subdirectory; LOCUM_LAB_DIR in the environment replaces it.
_ROOT_BASE = "/run/locum-lab"

# sun_path has 108 bytes with the final zero (unix(7)); the longest name below a lab's directory needs this many.
_LONGEST_SOCKET = len("/nodes/n64/runtime/control.sock")
_SUN_PATH = 107


class AppliedFault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fault that ``heal`` has not undone; ``interface`` is the node's public interface concerned."""

    kind: str
    interface: str


class NodeState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The processes and faults of one node.

    ``daemon`` is the guard process, ``path`` carries its traffic to the store. ``faults`` were applied and not undone.
    """

    daemon: Process | None = None
    path: Process | None = None
    services: dict[str, Process] = {}
    faults: tuple[AppliedFault, ...] = ()


class LabState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole lab. ``complete`` once ``up`` has finished; ``owner``: without this process (a test run) the lab is a
    leftover, None for a lab that outlives its command. ``command`` replaces the daemon's command when not empty.
    ``guests``: in a lab of virtual machines, the QEMU process of each.
    """

    layout: Layout
    services: tuple[str, ...] = ("web",)
    store: str = "embedded"
    command: tuple[str, ...] = ()
    complete: bool = False
    owner: Process | None = None
    store_processes: tuple[Process, ...] = ()
    nodes: dict[str, NodeState] = {}
    guests: dict[str, Process] = {}


def base() -> Path:
    """The directory of all labs of this user: /run/locum-lab for root, else below the temporary directory.

    Below the temporary directory, where others may write, it is created and checked to be this user's alone. Raises
    LocumError when another user could change its contents.
    """
    chosen = os.environ.get("LOCUM_LAB_DIR")
    if chosen:
        if os.path.lexists(chosen) and (reason := foreign_control(chosen)):
            raise LocumError(f"LOCUM_LAB_DIR: {reason}; choose a place that only you and root can change")
        return Path(chosen)
    if os.geteuid() == 0 and os.access("/run", os.W_OK):
        return Path(_ROOT_BASE)
    directory = Path(tempfile.gettempdir()) / f"locum-lab-{os.geteuid()}"
    try:
        private_folder(str(directory))
    except OSError as error:
        raise LocumError(
            f"{directory} cannot be a directory that only you can use: {error.strerror}; remove it or set LOCUM_LAB_DIR"
        ) from None
    return directory


def directory_of(name: str) -> Path:
    """The lab's directory. Raises UsageError when socket names below it would be too long for the kernel."""
    directory = base() / name
    if len(os.fsencode(directory)) + _LONGEST_SOCKET > _SUN_PATH:
        raise UsageError(f"{directory}: too long for Unix socket names below it; set LOCUM_LAB_DIR to a shorter one")
    return directory


def remove_base() -> None:
    """Remove the directory of all labs if it is empty and is the default one."""
    if "LOCUM_LAB_DIR" not in os.environ:
        with contextlib.suppress(OSError):
            base().rmdir()


def known() -> tuple[str, ...]:
    """Names of the labs that have a directory, sorted."""
    try:
        return tuple(sorted(entry.name for entry in base().iterdir() if entry.is_dir()))
    except FileNotFoundError:
        return ()


def read(name: str) -> LabState | None:
    """The lab's state; None without one, or when a crash left it unreadable."""
    try:
        return msgspec.json.decode((directory_of(name) / "state.json").read_bytes(), type=LabState)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def write(state: LabState) -> None:
    """Replace the lab's state in one step."""
    directory = directory_of(state.layout.name)
    temporary = directory / "state.json.new"
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(state), indent=1))
    temporary.replace(directory / "state.json")


@contextlib.contextmanager
def locked(name: str, create: bool = False) -> Iterator[None]:
    """Hold the lab's lock, so that two commands do not change one lab at the same time.

    With ``create`` the lab's directory is created; otherwise a missing one is not locked.
    """
    directory = directory_of(name)
    while True:
        try:
            if create:
                directory.mkdir(mode=0o755, parents=True, exist_ok=True)
                base()  # another user may have made it a moment earlier
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            if create:
                continue
            yield
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Another command may have removed the directory (and a third made it anew) while we waited.
            if _same(descriptor, directory):
                yield
                return
        finally:
            os.close(descriptor)


def _same(descriptor: int, directory: Path) -> bool:
    try:
        one, other = os.fstat(descriptor), directory.stat()
    except FileNotFoundError:
        return False
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
