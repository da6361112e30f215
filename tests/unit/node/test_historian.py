"""The history in the store: each occurrence once, whichever node led, bounded, and never in the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from locum.errors import StoreUnavailable
from locum.node import historian
from locum.node.historian import Historian
from locum.rules.occurrences import Moves, Occurrence
from locum.store.base import CommitResult, Condition, Operation, Put
from locum.store.memory import MemoryStore


def occurrence(number: int, *, cause: str = "", unfinished: bool = False) -> Occurrence:
    return Occurrence(f"{number:016d}.moves", "moves", float(number), cause=cause, open=unfinished)


class Counting(MemoryStore):
    """Counts commits; ``fails``: how many of the next ones find no store."""

    def __init__(self) -> None:
        super().__init__()
        self.commits = 0
        self.fails = 0

    async def commit(self, conditions: Sequence[Condition], operations: Sequence[Operation]) -> CommitResult:
        if self.fails:
            self.fails -= 1
            raise StoreUnavailable("no store")
        self.commits += 1
        return await super().commit(conditions, operations)


class Node:
    """One node's historian, which leads or not."""

    def __init__(self, store: MemoryStore, *, leads: bool = True) -> None:
        self.leads = leads
        self.remembered: list[Occurrence] = []
        self.log: list[str] = []
        self.historian = Historian(
            store, lambda: self.leads, lambda: self.remembered, lambda text, _: self.log.append(text)
        )

    def sees(self, *occurrences: Occurrence) -> None:
        self.remembered += occurrences
        self.historian.add(occurrences)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GATHER", "PAUSE", "LONGEST_PAUSE"):
        monkeypatch.setattr(historian, name, 0.01)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the store's turn
            await asyncio.sleep(0.005)


async def written(node: Node) -> None:
    """Everything that waits is written."""
    await until(lambda: not node.historian._waiting)


def test_what_happens_together_is_one_commit_and_is_read_in_order() -> None:
    async def scenario() -> None:
        store = Counting()
        node = Node(store)
        node.historian.start()
        node.sees(occurrence(2), occurrence(1))
        node.sees(occurrence(3))
        await written(node)
        assert store.commits == 1
        assert [one.at for one in await node.historian.read()] == [1.0, 2.0, 3.0]
        node.historian.close()

    asyncio.run(scenario())


def test_only_the_leader_writes_but_everyone_writes_commands_given_to_it() -> None:
    async def scenario() -> None:
        store = Counting()
        node = Node(store, leads=False)
        node.historian.start()
        node.sees(occurrence(1))
        node.historian.add([Occurrence("2.command.n1", "command", 2.0, "n1", command="n2 is disabled")], own=True)
        await written(node)
        assert [one.key for one in await node.historian.read()] == ["2.command.n1"]
        node.historian.close()

    asyncio.run(scenario())


def test_a_new_leader_writes_what_the_old_one_did_not_and_nothing_twice() -> None:
    async def scenario() -> None:
        store = Counting()
        old, new = Node(store), Node(store, leads=False)
        old.historian.start()
        new.historian.start()
        for node in (old, new):
            node.sees(occurrence(1), occurrence(2, unfinished=True))
        await written(old)
        old.historian.close()  # dies before it has written this
        for node in (old, new):
            node.sees(occurrence(2), occurrence(3))
        old.leads, new.leads = False, True
        # Its copy of the first one differs: clocks do.
        new.remembered[0] = occurrence(1, cause="seen later")
        new.sees(occurrence(4))
        await written(new)
        found = await new.historian.read()
        assert [(one.at, one.cause, one.open) for one in found] == [
            (number, "", False) for number in (1.0, 2.0, 3.0, 4.0)
        ]
        new.historian.close()

    asyncio.run(scenario())


def test_two_nodes_that_both_lead_for_a_moment_write_each_occurrence_once() -> None:
    async def scenario() -> None:
        store = Counting()
        nodes = [Node(store), Node(store)]
        for node in nodes:
            node.historian.start()
            node.sees(occurrence(1))
            await written(node)
        for number in range(2, 12):
            for node in nodes:
                node.sees(occurrence(number))
        for node in nodes:
            await written(node)
        assert [one.at for one in await nodes[0].historian.read()] == [float(number) for number in range(1, 12)]
        for node in nodes:
            node.historian.close()

    asyncio.run(scenario())


def test_the_history_is_bounded_and_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(historian, "KEPT", 10)

    async def scenario() -> None:
        node = Node(Counting())
        node.historian.start()
        for first in range(0, 40, 8):
            node.sees(*(occurrence(number) for number in range(first, first + 8)))
            await written(node)
        assert [one.at for one in await node.historian.read()] == [float(number) for number in range(30, 40)]
        node.historian.close()

    asyncio.run(scenario())


def test_a_thousand_addresses_are_one_entry_and_a_store_that_is_away_is_waited_for() -> None:
    async def scenario() -> None:
        store = Counting()
        node = Node(store)
        addresses = tuple(f"10.1.{number // 250}.{number % 250}" for number in range(1000))
        store.fails = 3
        node.historian.start()
        node.sees(
            Occurrence(occurrence(1).key, "moves", 1.0, moves=(Moves("n1", "n2", addresses, (12,) * 1000),)),
            occurrence(2),
        )
        await written(node)
        assert store.commits == 1
        assert len(node.log) == 1
        assert (await node.historian.read())[0].moves[0].addresses == addresses
        node.historian.close()

    asyncio.run(scenario())


def test_unreadable_entries_are_left_out_or_written_again() -> None:
    async def scenario() -> None:
        store = Counting()
        await store.commit((), [Put(historian.PREFIX + occurrence(number).key, b"{") for number in (0, 1)])
        node = Node(store)
        node.historian.start()
        node.sees(occurrence(1), occurrence(2))
        await written(node)
        assert [one.at for one in await node.historian.read()] == [1.0, 2.0]
        node.historian.close()

    asyncio.run(scenario())


def test_a_new_leader_writes_moves_that_began_before_what_is_there() -> None:
    """A plan's entry is told at its end, when later ones have been written."""

    async def scenario() -> None:
        store = Counting()
        old, new = Node(store), Node(store, leads=False)
        new.historian.start()
        old.historian.start()
        for node in (old, new):
            node.sees(occurrence(5))
        await written(old)
        old.historian.close()
        new.sees(occurrence(3))
        # A command that it wrote itself meanwhile changes nothing.
        new.historian.add([Occurrence("4.command.n2", "command", 4.0)], own=True)
        await written(new)
        new.leads = True
        new.sees(occurrence(6))
        await until(lambda: len(store.core.snapshot("").entries) == 4)
        assert {one.at for one in await new.historian.read()} == {3.0, 4.0, 5.0, 6.0}
        new.historian.close()

    asyncio.run(scenario())


def test_what_no_store_takes_is_left_out_and_a_defect_does_not_end_the_node() -> None:
    async def scenario() -> None:
        store = Counting()
        node = Node(store)
        node.historian.start()
        node.sees(occurrence(1, cause="\udc80"), occurrence(2, cause="x" * 2**20), occurrence(3))
        await written(node)
        assert [one.at for one in await node.historian.read()] == [3.0]

        async def broken(*_: object) -> CommitResult:
            raise ZeroDivisionError("a defect")

        working, store.commit = store.commit, broken  # type: ignore[method-assign, assignment]
        node.sees(occurrence(4))
        await until(lambda: node.log)
        assert node.log == ["the history is not written: unexpected ZeroDivisionError: a defect"]
        store.commit = working  # type: ignore[method-assign]
        await written(node)
        assert [one.at for one in await node.historian.read()] == [3.0, 4.0]
        node.historian.close()

    asyncio.run(scenario())


def test_large_entries_push_out_more_than_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(historian, "MOST_BYTES", 10_000)

    async def scenario() -> None:
        node = Node(Counting())
        node.historian.start()
        for number in range(30):
            node.sees(occurrence(number, cause="x" * 900))
            await written(node)
        found = await node.historian.read()
        assert 5 < len(found) < 12
        assert found[-1].at == 29.0
        node.historian.close()

    asyncio.run(scenario())
