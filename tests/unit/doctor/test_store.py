"""The doctor's verdict on a store, and that it leaves nothing behind in it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from locum.config.load import parse
from locum.config.model import Settings
from locum.doctor import Finding
from locum.doctor.store import examine
from locum.errors import StoreUnavailable
from locum.store.base import CommitResult, Condition, Operation, Snapshot
from locum.store.memory import MemoryStore


def settings(hold: float) -> Settings:
    return parse(f'[node]\nname = "n1"\n[cluster]\nstore = "memory:"\nhold = {hold}\n', "test.toml")


class SlowStore(MemoryStore):
    """A store whose commits take ``delay`` seconds."""

    def __init__(self, delay: float) -> None:
        super().__init__()
        self._delay = delay

    async def commit(self, conditions: Sequence[Condition], operations: Sequence[Operation]) -> CommitResult:
        await asyncio.sleep(self._delay)
        return await super().commit(conditions, operations)


class DeadStore(MemoryStore):
    """A store that nobody reaches."""

    async def read(self, prefix: str) -> Snapshot:
        raise StoreUnavailable("no endpoint answers")


def levels(findings: list[Finding]) -> set[str]:
    return {finding.level for finding in findings}


def test_a_quick_store_is_good_for_a_long_hold_and_nothing_is_left_in_it() -> None:
    async def run() -> None:
        store = MemoryStore()
        assert levels(await examine(store, settings(60.0))) == {"good"}
        assert (await store.read("")).entries == ()

    asyncio.run(run())


def test_a_store_slower_than_the_beats_is_a_problem_and_the_advice_names_a_hold() -> None:
    findings = asyncio.run(examine(SlowStore(0.03), settings(0.1)))
    problems = [finding for finding in findings if finding.level == "problem"]
    assert problems
    assert "a hold of" in problems[0].advice


def test_a_store_that_does_not_answer_is_a_problem_with_the_reason() -> None:
    [finding] = asyncio.run(examine(DeadStore(), settings(2.0)))
    assert finding.level == "problem"
    assert "no endpoint answers" in finding.text
