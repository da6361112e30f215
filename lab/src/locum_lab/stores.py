"""The lab's stores: where one runs, how a node reaches it, and how a cut affects that path.

One small interface hides the kind of store from the rest of the lab. The path differs: no network carries the traffic
to a store on a Unix socket, so a relay process represents it; for a store on TCP the private network itself is the
path, and cutting that suffices.
"""

from __future__ import annotations

import shutil
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Protocol

from locum.errors import LocumError, UsageError
from locum_lab import processes, relay
from locum_lab.etcd_store import EtcdLabStore, end
from locum_lab.layout import Layout
from locum_lab.processes import Children, Process


class LabStore(Protocol):
    """The operations of a store in the lab."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """The nodes with a process of the store; none when one process serves all of them."""
        ...

    def start(self) -> tuple[Process, ...]:
        """Start the store; return its processes. It need not be ready yet."""
        ...

    def wait_ready(self) -> None:
        """Wait until it serves, if its users must not start before. Raises LocumError."""
        ...

    def process(self, node: str, running: tuple[Process, ...]) -> Process:
        """The one of the processes ``running`` that is the node's, or that all nodes share."""
        ...

    def restart(self, node: str, running: tuple[Process, ...]) -> tuple[Process, ...]:
        """Start that process again, if it does not run; returns ``running`` with the new one."""
        ...

    def copy(self, target: Path) -> None:
        """Write a copy of the store's content to ``target``, as an admin's backup does. Raises LocumError."""
        ...

    def go_back(self, copy: Path | None, running: tuple[Process, ...]) -> tuple[Process, ...]:
        """Kill the whole store, put ``copy`` (None: nothing) in its place, start it again. Raises LocumError."""
        ...

    def url(self, node: str) -> str:
        """The ``store`` of that node's configuration."""
        ...

    def open_path(self, node: str) -> Process | None:
        """Start the process that carries the node's traffic to the store, if any."""
        ...

    def cut(self, path: Process | None) -> None:
        """Drop all traffic between the node and the store, silently."""
        ...

    def heal(self, path: Process | None) -> None:
        """Undo :meth:`cut`."""
        ...


class EmbeddedLabStore:
    """One store server for all nodes (``locum.store.server``), with a relay per node as its path.

    ``keeps``: it has a file, so that it survives a kill.
    """

    def __init__(self, layout: Layout, directory: Path, children: Children, *, keeps: bool = False) -> None:
        self._layout = layout
        self._directory = directory
        self._children = children
        self._keeps = keeps

    @property
    def hosts(self) -> tuple[str, ...]:
        return ()

    @property
    def _socket(self) -> Path:
        return self._directory / "store.sock"

    def start(self) -> tuple[Process, ...]:
        data = ["--data", str(self._data)] if self._keeps else []
        return (
            self._spawn(
                [sys.executable, "-m", "locum.store.server", "--socket", str(self._socket), *data],
                self._directory / "store.log",
            ),
        )

    def wait_ready(self) -> None:
        pass  # it serves long before a daemon has started

    def process(self, node: str, running: tuple[Process, ...]) -> Process:
        return running[0]

    def restart(self, node: str, running: tuple[Process, ...]) -> tuple[Process, ...]:
        return running if processes.alive(running[0]) else self.start()

    def copy(self, target: Path) -> None:
        self._need_file()
        source = sqlite3.connect(f"file:{self._data}?mode=ro", uri=True)
        backup = sqlite3.connect(target)
        try:
            source.backup(backup)
        except sqlite3.Error as error:
            raise LocumError(f"cannot copy {self._data}: {error}") from error
        finally:
            source.close()
            backup.close()

    def go_back(self, copy: Path | None, running: tuple[Process, ...]) -> tuple[Process, ...]:
        if copy is not None:
            self._need_file()
        end(running)
        for left in self._directory.glob(f"{self._data.name}*"):
            left.unlink()
        if copy is not None:
            shutil.copyfile(copy, self._data)
        return self.start()

    def _need_file(self) -> None:
        if not self._keeps:
            raise UsageError("a store in memory has no copies; --store embedded-file has")

    @property
    def _data(self) -> Path:
        return self._directory / "store.db"

    def url(self, node: str) -> str:
        return f"unix:{self._relay_socket(node)}"

    def open_path(self, node: str) -> Process | None:
        return self._spawn(
            [sys.executable, "-S", "-E", relay.__file__, str(self._relay_socket(node)), str(self._socket)],
            self._directory / "nodes" / node / "relay.log",
        )

    def cut(self, path: Process | None) -> None:
        if path is not None:
            processes.send(path, signal.SIGSTOP)

    def heal(self, path: Process | None) -> None:
        if path is not None:
            processes.send(path, signal.SIGCONT)

    def _relay_socket(self, node: str) -> Path:
        return self._directory / "nodes" / node / "store.sock"

    def _spawn(self, argv: list[str], log: Path) -> Process:
        return self._children.spawn(argv, namespace=self._layout.hub, log=log)


#: Kind → description. The second is for faults that the first does not survive by design.
KINDS = {
    "embedded": "one store in memory for all nodes",
    "embedded-file": "the same, kept in a file",
    "etcd": "an etcd member on each of the first nodes",
}


def make(kind: str, layout: Layout, directory: Path, children: Children) -> LabStore:
    """The store of that kind; raises UsageError for an unknown one."""
    if kind == "etcd":
        return EtcdLabStore(layout, directory, children)
    if kind in KINDS:
        return EmbeddedLabStore(layout, directory, children, keeps=kind == "embedded-file")
    raise UsageError(f"--store {kind}: a lab runs on {', '.join(KINDS)}")
