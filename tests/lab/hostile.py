"""What the tests of bad peers and bad input share: a cluster for a module, and proof that nobody was disturbed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from locum.clock import boottime
from locum.errors import LocumError
from locum.store.base import Entry, Operation, Store
from locum.store.etcd_options import EtcdOptions
from locum.store.factory import open_store
from locum_lab import gaps, namespaces, processes
from locum_lab.lab import Lab, down
from locum_lab.layout import Layout
from locum_lab.watching import Watching
from tests.lab.conftest import _LABS

T = TypeVar("T")

#: Longest time that the client may go unanswered where nothing was to happen, in seconds: the machine may be busy.
BUSY = 1.5


@contextlib.contextmanager
def lab_for_module(name: str, *, hold: float = 2.0, **options: object) -> Iterator[Lab]:
    """A lab of three nodes that the tests of a module share."""
    layout = Layout(name=f"{name}{os.getpid()}", nodes=3, addresses=6, hold=hold)
    try:
        lab = Lab.up(layout, owner=processes.find(os.getpid()), **options)  # type: ignore[arg-type]
        lab.wait_served()
        yield lab
    finally:
        down(layout.name)


def report_with(request: pytest.FixtureRequest, lab: Lab) -> None:
    """A failed test shows what the daemons of this lab wrote."""
    request.node.stash[_LABS] = [lab]


@contextlib.contextmanager
def nobody_disturbed(lab: Lab) -> Iterator[None]:
    """No address moves or goes unserved while the block runs, no plan is made, and nobody sees two holders (I1)."""
    before = lab.wait_served()
    with watch(lab) as watching:
        start = boottime()
        yield
        end = boottime()
        last = watching.end()
    assert last.violations == 0
    longest = gaps.longest(watching.attempts, start, end)
    assert {address: gap.seconds for address, gap in longest.items() if gap.failed and gap.seconds > BUSY} == {}
    after = lab.status()
    assert {a.address: a.node for a in after.addresses} == {a.address: a.node for a in before.addresses}
    assert after.epoch == before.epoch, f"needless plan: {after.cause}"


@contextlib.contextmanager
def watch(lab: Lab) -> Iterator[Watching]:
    """The client and the observer, from when every address was answered once; again and again in one lab."""
    for kind in ("probe", "observe"):
        (lab.directory / f"{kind}.jsonl").unlink(missing_ok=True)
    with Watching(lab) as watching:
        lab.wait_for("every address to be answered", lambda: answered(lab, watching))
        yield watching


def answered(lab: Lab, watching: Watching) -> bool:
    """Whether each address was answered at least once."""
    watching.read()
    return len({attempt.address for attempt in watching.attempts if attempt.ok}) == lab.layout.addresses


def connect(path: Path, timeout: float = 30.0) -> socket.socket:
    """A bare connection to a socket of ours."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    end = time.monotonic() + timeout
    while True:
        try:
            sock.connect(str(path))
            return sock
        except BlockingIOError:
            # Those who wait to be accepted are as many as may wait; a socket with a time-out is told so at once.
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def ask_raw(path: Path, data: bytes, timeout: float = 30.0) -> bytes:
    """What comes back for these bytes, up to the end of the first line or of the connection."""
    with connect(path, timeout) as sock:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(data)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while not answer.endswith(b"\n") and (more := sock.recv(65536)):
                answer += more
        return answer


def ask(path: Path, message: object) -> dict[str, object]:
    """What the daemon answers to one request."""
    found = json.loads(ask_raw(path, json.dumps(message).encode() + b"\n"))
    assert isinstance(found, dict)
    return found


def agents(lab: Lab) -> dict[str, processes.Process | None]:
    """The agent of each node; a crash shows in it."""
    return {node: lab.agent(node) for node in lab.layout.node_names}


def memory_of(pid: int) -> int:
    """What the process has in memory, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise LocumError(f"process {pid} says nothing about its memory")


class Stranger:
    """Somebody who writes into the cluster's store. Keys are without the cluster's prefix."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._prefix = f"{lab.layout.name}/"

    def read(self) -> dict[str, Entry]:
        """All that the cluster has there."""
        entries = self._with(lambda store: store.read(self._prefix)).entries
        return {entry.key.removeprefix(self._prefix): entry for entry in entries}

    def commit(self, operation: Callable[[str], Operation], key: str) -> int:
        """Carry out ``operation`` on the whole key, on no condition; the revision of it."""
        whole = self._prefix + key
        return self._with(lambda store: store.commit((), [operation(whole)])).revision

    def _with(self, do: Callable[[Store], Awaitable[T]]) -> T:
        lab = self._lab

        async def run() -> T:
            url = lab.store.url("n1") if lab.state.store == "etcd" else f"unix:{lab.directory / 'store.sock'}"
            store = open_store(url, timeout=30.0, etcd=EtcdOptions(timeout=30.0))
            try:
                return await do(store)
            finally:
                await store.close()

        # Etcd is only reached from inside the lab.
        return namespaces.inside(lab.layout.namespace("n1"), lambda: asyncio.run(run()))
