"""The tracker of connections on two nodes: what real clients see of moves, and what stands in the store meanwhile."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from locum.connections.destroy import Destroyer
from locum.connections.sockets import Connection
from locum.connections.tickle_store import TickleStore
from locum.connections.tracker import ConnectionTracker, TrackerSettings
from locum.errors import StoreUnavailable
from locum.machine.netlink.core import NetlinkSocket
from locum.machine.netlink.inet_diag import Found
from locum.store.base import CommitResult, Condition, Delete, Operation, Put, Snapshot
from locum.store.memory import MemoryStore
from tests.lab.connection_scene import (
    P4,
    P6,
    PORT,
    BlockedReader,
    Stage,
    Talk,
    sockets,
    stage_fixture,  # noqa: F401
)
from tests.lab.namespaces import Namespace

pytestmark = pytest.mark.lab

BOTH = pytest.mark.parametrize("address", [P4, P6])
OTHER_PORT = 4460


def without_destroy(_netlink: NetlinkSocket, found: Sequence[Found]) -> list[int]:
    """A kernel built without CONFIG_INET_DIAG_DESTROY."""
    return [errno.EOPNOTSUPP] * len(found)


class Unsteady(MemoryStore):
    """A store that can be out of reach, and counts what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.out_of_reach = False
        self.commits = 0
        self.bulk_reads = 0

    async def commit(self, conditions: Sequence[Condition], operations: Sequence[Operation]) -> CommitResult:
        if self.out_of_reach:
            raise StoreUnavailable("nobody answers")
        self.commits += any(".bulk/" in operation.key for operation in operations)
        return await super().commit(conditions, operations)

    async def read(self, prefix: str) -> Snapshot:
        if self.out_of_reach:
            raise StoreUnavailable("nobody answers")
        return await super().read(prefix)


class Node:
    """A tracker in its namespace, and what the daemon does around it."""

    def __init__(self, stage: Stage, name: str, namespace: Namespace, store: Unsteady, **options: object) -> None:
        self.stage, self.name, self.namespace, self.store = stage, name, namespace, store
        self.claims: dict[str, int] = {}
        self.said: list[str] = []
        self.settings = TrackerSettings(ports=frozenset({PORT}), interval=0.1, tickle_count=4, tickle_interval=0.2)
        with namespace.entered():
            destroyer = Destroyer(without_destroy) if options.get("cannot_destroy") else Destroyer()
            self.tracker = ConnectionTracker(
                TickleStore(store, "c"),
                claim=lambda address: self.claims.get(address, 0),
                settings=lambda: self.settings,
                log=lambda text, level: self.said.append(f"{level}: {text}"),
                destroyer=destroyer,
            )
            self.tracker.start()

    async def claim(self, address: str) -> None:
        result = await self.store.commit([], [Put(f"c/claim/{address}", self.name.encode())])
        self.claims[address] = result.revision

    async def take(self, address: str, *, configure: bool = True) -> None:
        await self.claim(address)
        await self.tracker.taking(address)
        if configure:
            self.stage.configure(self.namespace, address)
            self.stage.announce(self.namespace, address)
        self.tracker.taken(address, "eth0")

    async def release(self, address: str) -> int:
        await self.tracker.releasing(address)
        # The gate's work in this test: nothing comes in, nothing goes out.
        family = "ip6" if ":" in address else "ip"
        hook = "type filter hook {} priority 0;"
        self.namespace.run(
            "nft",
            "-f",
            "-",
            stdin=f"""table {family} mute {{
                chain i {{ {hook.format("prerouting")} {family} daddr {address} drop; }}
                chain o {{ {hook.format("output")} {family} saddr {address} drop; }}
            }}""",
        )
        ended = await self.tracker.released(address)
        self.namespace.run("ip", "addr", "del", f"{address}/{64 if ':' in address else 24}", "dev", "eth0")
        self.namespace.run("nft", "delete", "table", family, "mute")
        await self.store.commit([], [Delete(f"c/claim/{address}")])
        del self.claims[address]
        return ended

    async def listed(self, address: str) -> set[bytes]:
        return (await self.tracker.lists.read(address)).entries()


def entries(*talks: Talk, port: int = PORT) -> set[bytes]:
    remote = "fd78::9" if ":" in talks[0].address else "10.78.0.9"
    return {Connection(talk.address, port, remote, talk.client_port).entry for talk in talks}


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    limit = time.monotonic() + 20
    while not await condition():
        assert time.monotonic() < limit, f"waited for: {what}"
        await asyncio.sleep(0.005)


@asynccontextmanager
async def nodes(stage: Stage, **old_options: object) -> AsyncIterator[tuple[Node, Node, Unsteady]]:
    store = Unsteady()
    old, new = Node(stage, "old", stage.old, store, **old_options), Node(stage, "new", stage.new, store)
    for node in (old, new):
        await node.tracker.known.wait()
    try:
        yield old, new, store
    finally:
        await old.tracker.close()
        await new.tracker.close()


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await story()

    asyncio.run(main())


@BOTH
def test_connections_are_registered_and_taken_off(stage: Stage, address: str) -> None:
    async def story() -> None:
        async with nodes(stage) as (old, _, store):
            await old.take(address, configure=False)
            listener, unlisted = stage.listen(stage.old, address), stage.listen(stage.old, address, OTHER_PORT)
            talks = [stage.connect(listener, address) for _ in range(3)]
            stage.connect(unlisted, address, OTHER_PORT)

            async def all_there() -> bool:
                return await old.listed(address) == entries(*talks)

            await until(all_there, "the connections to be registered")
            commits = store.commits
            passes = old.tracker.recorder.costs.passes

            async def looked() -> bool:
                return old.tracker.recorder.costs.passes > passes + 3

            await until(looked, "some passes")
            assert store.commits == commits, "nothing has changed, and something was written"
            for talk in talks[:2]:
                talk.client.close()
                talk.server.close()

            async def one_left() -> bool:
                return await old.listed(address) == entries(talks[2])

            await until(one_left, "the others to be taken off the list")

    run(story)


@BOTH
def test_clients_of_a_node_that_died_silently_are_woken(stage: Stage, address: str) -> None:
    async def story() -> None:
        async with nodes(stage) as (old, new, _):
            await old.take(address, configure=False)
            listener = stage.listen(stage.old, address)
            talks = [stage.connect(listener, address) for _ in range(20)]
            for talk in talks:
                talk.client.settimeout(None)

            async def all_there() -> bool:
                return await old.listed(address) == entries(*talks)

            await until(all_there, "the connections to be registered")
            readers = [BlockedReader(talk.client) for talk in talks]
            stage.die(stage.old)
            await new.claim(address)
            await new.tracker.taking(address)
            stage.configure(stage.new, address)
            stage.announce(stage.new, address)
            taken = time.monotonic()
            new.tracker.taken(address, "eth0")
            for reader in readers:
                assert await asyncio.to_thread(reader.wait, 20)
                assert isinstance(reader.error, ConnectionResetError)
            latest = max(reader.woken_at or 0 for reader in readers)
            print(f"all 20 clients woken {1000 * (latest - taken):.1f} ms after the take")

            # Their connections leave the list, those of the new holder enter it.
            fresh = stage.connect(stage.listen(stage.new, address), address)

            async def renewed() -> bool:
                return await new.listed(address) == entries(fresh)

            await until(renewed, "the list to be renewed")

    run(story)


@BOTH
def test_nothing_survives_a_planned_move_and_every_client_hears_of_it(stage: Stage, address: str) -> None:
    async def story() -> None:
        async with nodes(stage) as (old, new, _):
            await old.take(address, configure=False)
            listener, unlisted = stage.listen(stage.old, address), stage.listen(stage.old, address, OTHER_PORT)
            talks = [stage.connect(listener, address) for _ in range(5)]
            # Neither seen by a pass, nor on a port that is registered.
            talks.append(stage.connect(unlisted, address, OTHER_PORT))
            for talk in talks:
                talk.client.settimeout(None)
            readers = [BlockedReader(talk.client) for talk in talks]
            assert await old.release(address) == 6
            assert sockets(stage.old, address) == []
            for talk in talks:
                with pytest.raises(ConnectionAbortedError):
                    talk.server.recv(1)
            # Nobody can be reached yet, so nobody was told.
            assert not any(reader.wait(0) for reader in readers)
            await new.take(address)
            for reader in readers:
                assert await asyncio.to_thread(reader.wait, 20)
                assert isinstance(reader.error, ConnectionResetError)

    run(story)


def test_clients_of_chosen_ports_are_reset_by_the_node_that_releases(stage: Stage) -> None:
    async def story() -> None:
        async with nodes(stage) as (old, _, _store):
            old.settings = TrackerSettings(ports=frozenset({PORT}), reset_ports=frozenset({OTHER_PORT}), interval=0.1)
            await old.take(P4, configure=False)
            told = stage.connect(stage.listen(stage.old, P4, OTHER_PORT), P4, OTHER_PORT)
            waits = stage.connect(stage.listen(stage.old, P4), P4)
            await old.release(P4)
            assert sockets(stage.old, P4) == []
            with pytest.raises(ConnectionResetError):
                told.client.recv(1)
            waits.client.settimeout(0.2)
            with pytest.raises(TimeoutError):
                waits.client.recv(1)
            assert await old.listed(P4) == entries(waits)

    run(story)


@BOTH
def test_a_kernel_without_socket_destruction(stage: Stage, address: str) -> None:
    async def story() -> None:
        async with nodes(stage, cannot_destroy=True) as (old, _, _store):
            assert any("CONFIG_INET_DIAG_DESTROY" in line for line in old.said)
            await old.take(address, configure=False)
            listener = stage.listen(stage.old, address)
            talks = [stage.connect(listener, address) for _ in range(5)]
            await old.release(address)
            assert sockets(stage.old, address) == []
            for talk in talks:
                with pytest.raises(ConnectionResetError):
                    talk.server.recv(1)
                talk.client.settimeout(0.05)
                with pytest.raises(TimeoutError):
                    talk.client.recv(1)
            assert await old.listed(address) == entries(*talks)

    with stage.old.entered():
        run(story)


def test_without_socket_destruction_leftovers_are_reset_when_the_address_is_back(stage: Stage) -> None:
    async def story() -> None:
        async with nodes(stage, cannot_destroy=True) as (old, _, _store):
            talk = stage.connect(stage.listen(stage.old, P4), P4)
            old.tracker.dropped([P4])
            assert any("may live on" in line for line in old.said)
            await old.take(P4, configure=False)

            async def gone() -> bool:
                return sockets(stage.old, P4) == []

            await until(gone, "the leftover to be reset")
            with pytest.raises(ConnectionResetError):
                talk.server.recv(1)

    with stage.old.entered():
        run(story)


def test_an_address_that_changes_its_interface_keeps_its_connections(stage: Stage) -> None:
    async def story() -> None:
        async with nodes(stage) as (old, _, _store):
            await old.take(P4, configure=False)
            talk = stage.connect(stage.listen(stage.old, P4), P4)

            async def there() -> bool:
                return await old.tracker.recorder.live(P4) == entries(talk)

            await until(there, "the connection to be registered")
            rules = f"table ip watch {{ chain i {{ type filter hook prerouting priority 0; tcp sport {PORT} \
                tcp flags == ack @th,32,32 0 counter; }}; }}"
            stage.client.run("nft", "-f", "-", stdin=rules)
            old.tracker.updated(P4, "eth0")

            async def tickled() -> bool:
                return "packets 0 " not in stage.client.run("nft", "list", "table", "ip", "watch")

            await until(tickled, "a tickle to arrive")
            assert talk.works()

    run(story)


def test_a_restarted_agent_goes_on_with_the_list_and_tells_nobody(stage: Stage) -> None:
    async def story() -> None:
        async with nodes(stage) as (old, _, store):
            await old.take(P4, configure=False)
            talk = stage.connect(stage.listen(stage.old, P4), P4)

            async def there() -> bool:
                return await old.listed(P4) == entries(talk)

            await until(there, "the connection to be registered")
            await old.tracker.close()
            again = Node(stage, "old", stage.old, store)
            again.claims = old.claims
            commits = store.commits
            stage.old.run("nft", "-f", "-", stdin="table ip watch { chain o { type filter hook output priority 0; \
                tcp sport 4450 counter; }; }")  # fmt: skip
            again.tracker.adopted(P4, "eth0")

            async def looked() -> bool:
                return again.tracker.recorder.costs.passes > 3

            await until(looked, "some passes")
            assert store.commits == commits
            assert "packets 0 " in stage.old.run("nft", "list", "table", "ip", "watch")
            await again.tracker.close()

    run(story)


def test_a_stale_holder_does_not_overwrite_the_list_of_the_new_one(stage: Stage) -> None:
    async def story() -> None:
        async with nodes(stage) as (old, new, _):
            await old.take(P4, configure=False)
            before = stage.connect(stage.listen(stage.old, P4), P4)

            async def there() -> bool:
                return await old.listed(P4) == entries(before)

            await until(there, "the connection to be registered")
            stage.die(stage.old)
            # The old node does not know of it, and goes on with its passes.
            await new.take(P4)
            fresh = stage.connect(stage.listen(stage.new, P4), P4)

            async def renewed() -> bool:
                return await new.listed(P4) == entries(fresh)

            await until(renewed, "the list to be renewed")
            before.server.close()
            passes = old.tracker.recorder.costs.passes

            async def looked() -> bool:
                return old.tracker.recorder.costs.passes > passes + 3

            await until(looked, "some passes of the old node")
            assert await new.listed(P4) == entries(fresh)

    run(story)


def test_connections_of_an_earlier_holding_end_before_the_address_speaks_again(stage: Stage) -> None:
    """The agent was killed, and the guard removed the address: nobody has ended them."""

    async def story() -> None:
        async with nodes(stage) as (old, _, _store):
            talk = stage.connect(stage.listen(stage.old, P4), P4)
            stage.old.run("ip", "addr", "del", f"{P4}/24", "dev", "eth0")
            assert len(sockets(stage.old, P4)) == 1
            await old.tracker.taking(P4)
            assert sockets(stage.old, P4) == []
            with pytest.raises(ConnectionAbortedError):
                talk.server.recv(1)

    run(story)


def test_a_lost_hold_ends_connections_in_the_background(stage: Stage) -> None:
    async def story() -> None:
        async with nodes(stage) as (old, _, _store):
            for address in (P4, P6):
                await old.take(address, configure=False)
            talks = [stage.connect(stage.listen(stage.old, address), address) for address in (P4, P6)]
            old.tracker.dropped([P4, P6])
            # A take that follows at once waits for it, and harms no connection of its own.
            await old.tracker.taking(P4)
            assert sockets(stage.old, P4) == []
            assert sockets(stage.old, P6) == []
            for talk in talks:
                with pytest.raises(ConnectionAbortedError):
                    talk.server.recv(1)

    run(story)


def test_a_store_out_of_reach_is_told_once_and_made_up_for(stage: Stage) -> None:
    async def story() -> None:
        async with nodes(stage) as (old, _, store):
            await old.take(P4, configure=False)
            listener = stage.listen(stage.old, P4)
            first = stage.connect(listener, P4)

            async def there() -> bool:
                return await old.listed(P4) == entries(first)

            await until(there, "the connection to be registered")
            store.out_of_reach = True
            second = stage.connect(listener, P4)
            passes = old.tracker.recorder.costs.passes

            async def looked() -> bool:
                return old.tracker.recorder.costs.passes > passes + 5

            await until(looked, "some passes")
            assert [line for line in old.said if "nobody answers" in line] == [
                "error: connections cannot be recorded: nobody answers"
            ]
            store.out_of_reach = False

            async def made_up() -> bool:
                return await old.listed(P4) == entries(first, second)

            await until(made_up, "the second connection to be registered")

    run(story)


def test_a_store_out_of_reach_at_the_take_delays_telling_only(stage: Stage) -> None:
    async def story() -> None:
        async with nodes(stage) as (old, new, store):
            await old.take(P4, configure=False)
            talk = stage.connect(stage.listen(stage.old, P4), P4)
            talk.client.settimeout(None)

            async def there() -> bool:
                return await old.listed(P4) == entries(talk)

            await until(there, "the connection to be registered")
            reader = BlockedReader(talk.client)
            stage.die(stage.old)
            await new.claim(P4)
            store.out_of_reach = True
            await new.tracker.taking(P4)
            stage.configure(stage.new, P4)
            stage.announce(stage.new, P4)
            new.tracker.taken(P4, "eth0")

            async def complained() -> bool:
                return any("cannot be read" in line for line in new.said)

            await until(complained, "a word about it")
            store.out_of_reach = False
            assert await asyncio.to_thread(reader.wait, 20)
            assert isinstance(reader.error, ConnectionResetError)

    run(story)


def test_connections_added_by_command_are_told_once(stage: Stage) -> None:
    async def story() -> None:
        async with nodes(stage) as (old, new, _):
            await old.take(P4, configure=False)
            talk = stage.connect(stage.listen(stage.old, P4, OTHER_PORT), P4, OTHER_PORT)
            talk.client.settimeout(None)
            reader = BlockedReader(talk.client)
            added = entries(talk, port=OTHER_PORT)
            await new.tracker.lists.change_added(P4, added, ())
            stage.die(stage.old)
            await new.take(P4)
            assert await asyncio.to_thread(reader.wait, 20)
            assert isinstance(reader.error, ConnectionResetError)

            async def gone() -> bool:
                return await new.listed(P4) == set()

            await until(gone, "it to be taken off the list")

    run(story)


def test_kill_and_tickle_by_command(stage: Stage) -> None:
    async def story() -> None:
        async with nodes(stage) as (old, _, _store):
            await old.take(P4, configure=False)
            one, two = stage.listen(stage.old, P4), stage.listen(stage.old, P4, OTHER_PORT)
            talk, other = stage.connect(one, P4), stage.connect(two, P4, OTHER_PORT)

            async def there() -> bool:
                return (await old.tracker.registered(P4))[0] == entries(talk)

            await until(there, "the connection to be registered")
            assert await old.tracker.tickle(P4) == 1
            assert talk.works()
            progress = await old.tracker.kill(P4, [OTHER_PORT])
            assert (progress.destroyed, progress.left) == (1, ())
            with pytest.raises(ConnectionResetError):
                other.client.recv(1)
            assert talk.works()

    run(story)


def test_a_thousand_connections_do_not_hold_up_the_event_loop(stage: Stage) -> None:
    async def story() -> None:
        async with nodes(stage) as (old, _, _store):
            await old.take(P4, configure=False)
            listener = stage.listen(stage.old, P4)
            listener.listen(1024)
            clients = []
            with stage.client.entered():
                for _ in range(1000):
                    client = socket.create_connection((P4, PORT), timeout=20)
                    clients.append(client)
                    server, _ = listener.accept()
                    stage.opened += [client, server]
            gaps: list[float] = []

            async def beat() -> None:
                last = time.perf_counter()
                while True:
                    await asyncio.sleep(0.001)
                    gaps.append((now := time.perf_counter()) - last)
                    last = now

            beating = asyncio.create_task(beat())
            started = time.perf_counter()
            await old.tracker.releasing(P4)
            ended = await old.tracker.released(P4)
            took = time.perf_counter() - started
            beating.cancel()
            assert ended == 1000
            assert sockets(stage.old, P4) == []
            # One step of many, and not all of them: the loop had its turns meanwhile.
            assert len(gaps) > 2
            print(f"1000 connections ended in {1000 * took:.0f} ms, longest gap in the loop {1000 * max(gaps):.1f} ms")

    run(story)
