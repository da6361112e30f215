"""News of links and addresses from the real kernel."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from locum.errors import NetlinkError
from locum.machine.addresses import AddressTable
from locum.machine.kernel_monitor import AddressAdded, AddressRemoved, KernelEvent, KernelMonitor, LinkChanged, Resync
from locum.machine.netlink import core, route
from tests.lab.namespaces import Namespace, Network

pytestmark = pytest.mark.lab


@pytest.fixture(name="node")
def node_fixture() -> Iterator[Namespace]:
    network = Network()
    try:
        yield network.host("node", "10.77.0.1/24", "fd77::1/64")
    finally:
        network.delete()


class Heard(list[KernelEvent]):
    """The events so far."""

    async def until(self, what: Callable[[list[KernelEvent]], bool]) -> None:
        async with asyncio.timeout(20):
            while not what(self):  # noqa: ASYNC110 - the condition is the kernel's to fulfil
                await asyncio.sleep(0.002)


@asynccontextmanager
async def listening(node: Namespace) -> AsyncIterator[Heard]:
    heard = Heard()

    def take(event: KernelEvent) -> None:
        if isinstance(event, Resync):
            monitor.learn(monitor.look())
        heard.append(event)

    monitor = KernelMonitor(take)
    with node.entered():
        monitor.start(asyncio.get_running_loop())
        monitor.learn(monitor.look())
    try:
        yield heard
    finally:
        monitor.close()
        monitor.close()


def test_addresses_come_and_go(node: Namespace) -> None:
    async def scenario() -> None:
        async with listening(node) as heard:
            for address, bits in (("10.77.0.10", 24), ("fd77::10", 64)):
                node.run(
                    "ip", "addr", "add", f"{address}/{bits}", "dev", "eth0", *(("nodad",) if ":" in address else ())
                )
                await heard.until(lambda events, a=address, b=bits: AddressAdded(a, b, "eth0") in events)  # type: ignore[misc]
                node.run("ip", "addr", "del", f"{address}/{bits}", "dev", "eth0")
                await heard.until(lambda events, a=address, b=bits: AddressRemoved(a, b, "eth0") in events)  # type: ignore[misc]
            assert len(heard) == 4

    asyncio.run(scenario())


def test_an_expired_address_is_news(node: Namespace) -> None:
    async def scenario() -> None:
        async with listening(node) as heard:
            for address, bits in (("10.77.0.10", 24), ("fd77::10", 64)):
                node.run(
                    "ip", "addr", "add", f"{address}/{bits}", "dev", "eth0", "valid_lft", "1", "preferred_lft", "1"
                )
            await heard.until(lambda events: AddressRemoved("10.77.0.10", 24, "eth0") in events)
            await heard.until(lambda events: AddressRemoved("fd77::10", 64, "eth0") in events)

    asyncio.run(scenario())


def test_renewals_are_no_news_and_cheap(node: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [(f"10.82.0.{n}", 24, "eth0") for n in range(1, 51)] + [(f"fd82::{n:x}", 64, "eth0") for n in range(1, 51)]

    async def scenario() -> None:
        with node.entered():
            table = AddressTable()
        async with listening(node) as heard:
            for address, bits, interface in items:
                table.add(address, bits, interface, 60)
            await heard.until(lambda events: len(events) == len(items))
            parsed: list[bytes] = []
            real = route.parse_address

            def counted(payload: bytes) -> route.AddressMessage | None:
                parsed.append(payload)
                return real(payload)

            monkeypatch.setattr(route, "parse_address", counted)
            for _ in range(20):
                table.renew(items, 60)
            node.run("ip", "addr", "add", "10.83.0.1/24", "dev", "eth0")
            await heard.until(lambda events: AddressAdded("10.83.0.1", 24, "eth0") in events)
            assert len(heard) == len(items) + 1
            assert len(parsed) <= 5, "renewals of known addresses are not taken apart"
            monkeypatch.undo()
        table.close()

    asyncio.run(scenario())


def test_a_secondary_that_becomes_the_primary_is_no_news(node: Namespace) -> None:
    async def scenario() -> None:
        node.sysctl("net.ipv4.conf.eth0.promote_secondaries", "1")
        for n in (1, 2):
            node.run("ip", "addr", "add", f"10.84.0.{n}/24", "dev", "eth0")
        async with listening(node) as heard:
            node.run("ip", "addr", "del", "10.84.0.1/24", "dev", "eth0")
            node.run("ip", "addr", "del", "10.84.0.2/24", "dev", "eth0")
            await heard.until(lambda events: len(events) >= 2)
            assert heard == [AddressRemoved("10.84.0.1", 24, "eth0"), AddressRemoved("10.84.0.2", 24, "eth0")]

    asyncio.run(scenario())


def test_links(node: Namespace) -> None:
    async def scenario() -> None:
        async with listening(node) as heard:
            node.run("ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1")
            await heard.until(lambda events: LinkChanged("v0", False) in events)
            node.run("ip", "link", "set", "v0", "up")
            node.run("ip", "link", "set", "v1", "up")
            await heard.until(lambda events: LinkChanged("v0", True) in events)
            heard.clear()
            node.run("ip", "link", "set", "v1", "down")
            await heard.until(lambda events: LinkChanged("v0", False) in events)
            heard.clear()
            node.run("ip", "link", "set", "v1", "up")
            await heard.until(lambda events: LinkChanged("v0", True) in events)
            heard.clear()
            node.run("ip", "link", "set", "v0", "down")
            node.run("ip", "link", "set", "v0", "name", "w0")
            await heard.until(lambda events: LinkChanged("w0", False) in events)
            node.run("ip", "link", "del", "w0")
            await heard.until(lambda events: events[-1] == LinkChanged("w0", False) and len(events) > 3)

    asyncio.run(scenario())


def test_what_goes_with_an_interface_is_news(node: Namespace) -> None:
    async def scenario() -> None:
        async with listening(node) as heard:
            node.run("ip", "link", "set", "eth0", "down")  # the kernel drops the interface's IPv6 addresses
            await heard.until(lambda events: AddressRemoved("fd77::1", 64, "eth0") in events)
            assert LinkChanged("eth0", False) in heard
            node.run("ip", "link", "del", "eth0")
            await heard.until(lambda events: AddressRemoved("10.77.0.1", 24, "eth0") in events)

    asyncio.run(scenario())


def test_what_is_lost_is_made_up_for(node: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel drops news when the buffer is full and says so: everything is looked at anew."""

    async def scenario() -> None:
        monkeypatch.setattr(core, "widen", lambda sock, _: sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096))
        async with listening(node) as heard:
            monkeypatch.undo()
            script = "".join(f"addr add 10.85.{n // 200}.{n % 200 + 1}/32 dev eth0\n" for n in range(400))
            node.run("ip", "-batch", "-", stdin=script)  # we cannot read meanwhile
            await heard.until(lambda events: Resync() in events)
            heard.clear()
            node.run("ip", "addr", "del", "10.85.1.1/32", "dev", "eth0")
            await heard.until(lambda events: AddressRemoved("10.85.1.1", 32, "eth0") in events)
            node.run("ip", "addr", "add", "10.85.1.1/32", "dev", "eth0")
            await heard.until(lambda events: AddressAdded("10.85.1.1", 32, "eth0") in events)
            assert Resync() not in heard

    asyncio.run(scenario())


def test_dumps_survive_a_table_that_changes(node: Namespace) -> None:
    """Reading 2,000 addresses while another process adds and removes: complete, or an error that says so."""
    node.run(
        "ip",
        "-batch",
        "-",
        stdin="".join(f"addr add 10.{86 + n // 250}.{n % 250}.1/32 dev eth0\n" for n in range(2000)),
    )
    with node.entered():
        table = AddressTable()
    with node.entered():
        churn = subprocess.Popen(
            ["sh", "-c", "while :; do ip addr add 10.77.9.9/32 dev eth0; ip addr del 10.77.9.9/32 dev eth0; done"],
            start_new_session=True,
        )
    try:
        complete = 0
        for _ in range(100):
            try:
                found = table.list("eth0")
            except NetlinkError as problem:
                if problem.errno != errno.EAGAIN:
                    raise
                continue
            assert len([a for a in found if a.bits == 32 and a.address != "10.77.9.9"]) == 2000
            complete += 1
        assert complete
    finally:
        os.killpg(churn.pid, signal.SIGKILL)
        churn.wait()
        table.close()
