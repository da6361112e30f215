"""The tracker of connections on two nodes: what real clients see of moves, and what stands in the store meanwhile."""

from __future__ import annotations

import asyncio
import time

import pytest

from locum.connections.tracker import TrackerSettings
from tests.lab.connections.scene import (
    P4,
    P6,
    PORT,
    BlockedReader,
    Stage,
    sockets,
    stage_fixture,  # noqa: F401
)
from tests.lab.connections.tracker_scene import BOTH, OTHER_PORT, entries, nodes, run, until

pytestmark = pytest.mark.lab


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
            passes = old.tracker.recorder.passes

            async def looked() -> bool:
                return old.tracker.recorder.passes > passes + 3

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
