"""Listening sockets: what the kernel tells of those that go."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from locum.connections.listeners import ListenerWatch, listening_ports
from locum.machine.netlink import sock_diag
from tests.lab.namespaces import Namespace

pytestmark = pytest.mark.lab


def listening() -> set[tuple[int, int]]:
    with sock_diag.open_socket() as netlink:
        return listening_ports(netlink)


@pytest.fixture(name="node")
def node_fixture() -> Iterator[Namespace]:
    made = Namespace("node")
    try:
        yield made
    finally:
        made.delete()


class Closed(list[int]):
    """The ports reported so far; ``woken`` counts how often the watch was woken at all."""

    woken = 0

    async def until(self, what: Callable[[list[int]], bool]) -> None:
        async with asyncio.timeout(20):
            while not what(self):  # noqa: ASYNC110 - the condition is the kernel's to fulfil
                await asyncio.sleep(0.002)


async def looked(watch: ListenerWatch) -> None:
    """Wait until ``watch`` has looked at what it suspects by now."""
    if watch._looking is not None:
        await asyncio.wait([watch._looking])


@asynccontextmanager
async def watching(node: Namespace, *ports: int) -> AsyncIterator[Closed]:
    closed = Closed()
    watch = ListenerWatch(closed.append)
    readable = watch._readable

    def counted() -> None:
        closed.woken += 1
        readable()

    watch._readable = counted  # type: ignore[method-assign]
    watch.watch(ports)
    with node.entered():
        watch.start(asyncio.get_running_loop())
    await looked(watch)
    try:
        yield closed
    finally:
        watch.close()
        watch.close()


def listen(node: Namespace, address: str, port: int, *, reuse: bool = False, only6: bool = False) -> socket.socket:
    with node.entered():
        made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    if reuse:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if ":" in address:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only6))
    made.bind((address, port))
    made.listen(128)
    return made


def test_the_list_agrees_with_ss(node: Namespace) -> None:
    sockets = [
        listen(node, "127.0.0.1", 7001),
        listen(node, "::", 7002),
        listen(node, "::", 7003, only6=True),
        listen(node, "::1", 7004),
        listen(node, "0.0.0.0", 7005),
    ]
    with node.entered():
        found = listening()
    assert found == {(4, 7001), (4, 7002), (6, 7002), (6, 7003), (6, 7004), (4, 7005)}
    told = node.run("ss", "-Hltn")
    assert {port for _, port in found} == {int(line.split()[3].rsplit(":", 1)[1]) for line in told.splitlines()}
    for each in sockets:
        each.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_a_closed_listener_is_told(node: Namespace, address: str) -> None:
    async def scenario() -> None:
        other = listen(node, "127.0.0.1", 7002)
        sock = listen(node, address, 7001)
        async with watching(node, 7001) as closed:
            other.close()
            sock.close()
            await closed.until(bool)
            assert closed == [7001]

    asyncio.run(scenario())


@pytest.mark.skipif(not os.path.exists("/proc/sys/net/mptcp/enabled"), reason="this kernel has no Multipath TCP")
def test_a_listener_of_multipath_tcp_is_seen_and_its_end_is_told(node: Namespace) -> None:
    """Servers written in Go listen so by default."""

    async def scenario() -> None:
        with node.entered():
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
            sock.bind(("127.0.0.1", 7001))
            sock.listen(8)
            assert listening() == {(4, 7001)}
        async with watching(node, 7001) as closed:
            sock.close()
            await closed.until(bool)
            assert closed == [7001]

    asyncio.run(scenario())


def test_a_killed_service_is_told_once_its_last_process_is_gone(node: Namespace) -> None:
    """As with nginx: the workers share the master's socket; while one of them lives, clients connect."""
    code = (
        "import os, socket, time\n"
        "s = socket.create_server(('127.0.0.1', 7001))\n"
        "worker = os.fork()\n"
        "if worker: print(worker, flush=True)\n"
        "time.sleep(1000)\n"
    )

    async def scenario() -> None:
        with node.entered():
            master = subprocess.Popen(  # noqa: ASYNC220
                [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
            )
        assert master.stdout is not None
        worker = int(master.stdout.readline())
        async with watching(node, 7001) as closed:
            master.kill()
            master.wait()
            with node.entered():
                socket.create_connection(("127.0.0.1", 7001), timeout=10).close()
            assert closed == []
            os.kill(worker, signal.SIGKILL)
            await closed.until(bool)
            assert closed == [7001]
        master.stdout.close()

    asyncio.run(scenario())


def test_another_listener_on_the_port_keeps_it_quiet(node: Namespace) -> None:
    async def scenario() -> None:
        first = listen(node, "127.0.0.1", 7001, reuse=True)
        second = listen(node, "127.0.0.1", 7001, reuse=True)
        async with watching(node, 7001) as closed:
            first.close()
            await closed.until(lambda _: closed.woken > 0)
            assert closed == []
            second.close()
            await closed.until(bool)
            assert closed == [7001]

    asyncio.run(scenario())


def test_it_tells_again_after_a_restart(node: Namespace) -> None:
    async def scenario() -> None:
        async with watching(node, 7001) as closed:
            for number in range(1, 4):
                listen(node, "127.0.0.1", 7001).close()
                await closed.until(lambda ports, n=number: len(ports) == n)  # type: ignore[misc]

    asyncio.run(scenario())


def test_one_that_closed_before_its_port_was_watched_is_told(node: Namespace) -> None:
    """A service may end between its declaration by a script and the moment at which the daemon reads that."""

    async def scenario() -> None:
        sock = listen(node, "127.0.0.1", 7001)
        other = listen(node, "127.0.0.1", 7003)
        closed = Closed()
        watch = ListenerWatch(closed.append)
        watch.watch([7000, 7001])
        with node.entered():
            watch.start(asyncio.get_running_loop())
        try:
            await looked(watch)
            assert closed == [7000]
            watch.watch([7000, 7001, 7002, 7003])
            await looked(watch)
            assert closed == [7000, 7002]
            watch.watch([7000, 7001, 7002])
            await looked(watch)
            assert closed == [7000, 7002]
        finally:
            watch.close()
            sock.close()
            other.close()

    asyncio.run(scenario())


def test_ordinary_connections_do_not_wake_it(node: Namespace) -> None:
    async def scenario() -> None:
        server = listen(node, "127.0.0.1", 7001)
        async with watching(node, 7001) as closed:
            for number in range(300):
                with node.entered():
                    client = socket.create_connection(("127.0.0.1", 7001))
                accepted, _ = server.accept()
                if number % 2:
                    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                accepted.close()
                client.close()
                await asyncio.sleep(0)
            assert closed.woken == 0
            server.close()
            await closed.until(bool)

    asyncio.run(scenario())


def test_other_namespaces_are_not_heard(node: Namespace) -> None:
    elsewhere = Namespace("elsewhere")

    async def scenario() -> None:
        here = listen(node, "127.0.0.1", 7001)
        async with watching(node, 7001) as closed:
            listen(elsewhere, "127.0.0.1", 7001).close()
            here.close()
            await closed.until(bool)
            assert closed.woken == 1

    try:
        asyncio.run(scenario())
    finally:
        elsewhere.delete()


def test_in_a_user_namespace() -> None:
    code = """
import asyncio, json, socket, subprocess
from locum.connections.listeners import ListenerWatch, listening_ports
from locum.machine.netlink import sock_diag
subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)
async def scenario():
    closed = []
    watch = ListenerWatch(closed.append)
    watch.watch([7001])
    watch.start(asyncio.get_running_loop())
    sock = socket.create_server(('127.0.0.1', 7001))
    assert listening_ports(sock_diag.open_socket()) == {(4, 7001)}
    sock.close()
    async with asyncio.timeout(20):
        while not closed:
            await asyncio.sleep(0.01)
    print(json.dumps(closed))
asyncio.run(scenario())
"""
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", code],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    assert json.loads(done.stdout) == [7001]
