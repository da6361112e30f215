"""The key-value core against a model that is too simple to be wrong."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locum.store.base import Batch, Change, CommitResult, Condition, Delete, Entry, Operation, Put, WatchLost
from locum.store.keyvalue import KeyValue

KEYS = st.sampled_from(["a", "a/1", "a/2", "b/1", "b/2", "c"])
PREFIXES = st.sampled_from(["", "a", "a/", "b/", "b/2", "x"])


class Model:
    """Every state that there ever was, by revision."""

    def __init__(self) -> None:
        self.states: list[dict[str, tuple[bytes, int]]] = [{}]

    @property
    def revision(self) -> int:
        return len(self.states) - 1

    def commit(self, conditions: Sequence[Condition], operations: Sequence[Operation]) -> CommitResult:
        state = dict(self.states[-1])
        for condition in conditions:
            if state.get(condition.key, (b"", 0))[1] != condition.revision:
                return CommitResult(False, self.revision)
        effective = False
        for operation in operations:
            if isinstance(operation, Put):
                state[operation.key] = (operation.value, self.revision + 1)
                effective = True
            elif operation.key in state:
                del state[operation.key]
                effective = True
        if effective:
            self.states.append(state)
        return CommitResult(True, self.revision)

    def batches(self, after: int, prefix: str) -> list[Batch]:
        result = []
        for revision in range(after + 1, self.revision + 1):
            old, new = self.states[revision - 1], self.states[revision]
            changed = {k for k in old.keys() | new.keys() if old.get(k) != new.get(k) and k.startswith(prefix)}
            if changed:
                result.append(
                    Batch(
                        revision, tuple(Change(k, new[k][0] if k in new else None, revision) for k in sorted(changed))
                    )
                )
        return result


@st.composite
def commits(draw: st.DrawFn) -> tuple[list[tuple[str, int]], list[Operation]]:
    """Conditions as (key, how: 0 absent, 1 as it is, 2 as it was) and operations on different keys."""
    conditions = draw(st.lists(st.tuples(KEYS, st.integers(0, 2)), max_size=2))
    keys = draw(st.lists(KEYS, unique=True, max_size=4))
    operations: list[Operation] = [
        Put(key, draw(st.binary(max_size=3))) if draw(st.booleans()) else Delete(key) for key in keys
    ]
    return conditions, operations


@settings(deadline=None)
@given(st.lists(commits(), max_size=30), PREFIXES, st.integers(0, 30))
def test_core_does_what_the_model_does(
    steps: list[tuple[list[tuple[str, int]], list[Operation]]], prefix: str, after: int
) -> None:
    core, model = KeyValue(), Model()
    for wanted, operations in steps:
        state = model.states[-1]
        conditions = [
            Condition(key, 0 if how == 0 else max(0, state.get(key, (b"", 0))[1] - (how - 1))) for key, how in wanted
        ]
        assert core.commit(conditions, operations) == model.commit(conditions, operations)
        assert core.revision == model.revision
        snapshot = core.snapshot(prefix)
        assert snapshot.revision == model.revision
        assert list(snapshot.entries) == [
            Entry(key, value, revision)
            for key, (value, revision) in sorted(model.states[-1].items())
            if key.startswith(prefix)
        ]
    after = min(after, model.revision)
    reached, batches = core.history(after, prefix)
    assert reached == model.revision
    assert [Batch(b.revision, tuple(sorted(b.changes, key=lambda c: c.key))) for b in batches] == model.batches(
        after, prefix
    )


@settings(deadline=None)
@given(st.integers(1, 8), st.integers(0, 30), st.lists(st.integers(1, 5), max_size=12))
def test_history_tells_everything_or_that_it_cannot(kept: int, total: int, steps: list[int]) -> None:
    core = KeyValue(history_commits=kept)
    cursor, seen = 0, []
    for number in range(total):
        core.commit((), (Put("k", bytes([number])),))
        if number in steps:
            cursor, batches = core.history(cursor, "", limit=2) if cursor >= core.compacted else (core.revision, [])
            seen += [batch.revision for batch in batches]
    assert core.compacted == max(0, total - kept)
    for after in range(total + 1):
        if after >= core.compacted:
            assert [b.revision for b in core.history(after)[1]] == list(range(after + 1, total + 1))
        else:
            with pytest.raises(WatchLost):
                core.history(after)


def test_history_is_bounded_in_bytes_too() -> None:
    core = KeyValue(history_bytes=1000)
    for _ in range(50):
        core.commit((), (Put("k", bytes(99)),))
    assert core.revision - core.compacted == 10
    core.commit((), (Put("k", bytes(2000)),))
    assert core.compacted == core.revision
    assert core.history(core.revision) == (core.revision, [])


def test_core_that_starts_elsewhere() -> None:
    core = KeyValue(revision=100, entries=[Entry("a", b"1", 7)])
    with pytest.raises(WatchLost):
        core.history(0)
    with pytest.raises(WatchLost):
        core.history(99)
    with pytest.raises(WatchLost):
        core.history(101)
    assert core.commit([Condition("a", 7)], [Put("b", b"")]) == CommitResult(True, 101)
    assert [b.revision for b in core.history(100)[1]] == [101]
    fresh = KeyValue(revision=100)
    fresh.commit((), (Put("a", b""),))
    assert [b.revision for b in fresh.history(0)[1]] == [101]
    with pytest.raises(WatchLost):
        fresh.history(5)


def test_evaluation_changes_nothing() -> None:
    core = KeyValue()
    batch = core.evaluate([], [Put("a", b"1"), Delete("b")])
    assert batch == Batch(1, (Change("a", b"1", 1),))
    assert core.revision == 0
    assert core.get("a") is None
    core.apply(batch)
    assert core.get("a") == Entry("a", b"1", 1)
    assert core.evaluate([Condition("a", 2)], []) is None
