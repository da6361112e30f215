"""The lists of connections in the store: restarts, a stale holder, a store out of reach, commands."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from tests.lab.connections.scene import (
    P4,
    PORT,
    BlockedReader,
    Stage,
    sockets,
    stage_fixture,  # noqa: F401
)
from tests.lab.connections.tracker_scene import OTHER_PORT, Node, entries, nodes, run, until

pytestmark = pytest.mark.lab


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
                return again.tracker.recorder.passes > 3

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
            passes = old.tracker.recorder.passes

            async def looked() -> bool:
                return old.tracker.recorder.passes > passes + 3

            await until(looked, "some passes of the old node")
            assert await new.listed(P4) == entries(fresh)

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
            passes = old.tracker.recorder.passes

            async def looked() -> bool:
                return old.tracker.recorder.passes > passes + 5

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
