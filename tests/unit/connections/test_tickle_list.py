"""The list of an address: whatever happens to connections, the store ends up with what is there, in few writes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from locum.connections import tickle_list
from locum.connections.tickle_list import BUCKET_SIZE, TIDY_AFTER, TickleList
from locum.errors import StoreCorrupt


def entry(number: int) -> bytes:
    return struct.pack("!HHI", 445, number % 65536, 0x0A000000 + number)


def entries(*numbers: int) -> set[bytes]:
    return {entry(number) for number in numbers}


class Shelf(dict[int, frozenset[bytes]]):
    """The store's side: bucket number → entries."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.operations = 0

    def take(self, listed: TickleList, limit: int | None = None) -> None:
        done = []
        for number, value in listed.writes()[:limit]:
            self.operations += 1
            if value is None:
                self.pop(number, None)
            else:
                self.bytes += len(value)
                self[number] = frozenset(tickle_list.unpack("key", value, 8))
            done.append(number)
        listed.written(done)

    def all(self) -> set[bytes]:
        return set().union(*self.values())


class Life(RuleBasedStateMachine):
    """Connections come and go, writes fail or are cut short, the agent starts anew."""

    def __init__(self) -> None:
        super().__init__()
        self.listed = TickleList()
        self.shelf = Shelf()
        self.there: set[bytes] = set()
        self.now = 100.0

    numbers = st.sets(st.integers(0, 600), max_size=300)

    @rule(come=numbers, gone=numbers)
    def change(self, come: set[int], gone: set[int]) -> None:
        gone_entries = entries(*gone) & self.there
        come_entries = entries(*come)
        self.there = (self.there - gone_entries) | come_entries
        self.listed.update(come_entries, gone_entries, self.now)

    @rule(seconds=st.sampled_from([0.1, 1.0, 20.0]))
    def tidy(self, seconds: float) -> None:
        self.now += seconds
        self.listed.tidy(self.now)

    @rule(limit=st.none() | st.integers(0, 5))
    def write(self, limit: int | None) -> None:
        self.shelf.take(self.listed, limit)

    @rule(seen=numbers)
    def restart(self, seen: set[int]) -> None:
        self.listed = TickleList(dict(self.shelf))
        self.there = entries(*seen)
        self.listed.replace(self.there, self.now)

    @invariant()
    def the_list_knows_what_is_there(self) -> None:
        assert self.listed.live() == self.there
        assert len(self.listed) == len(self.there)

    @invariant()
    def the_store_can_be_brought_to_the_truth(self) -> None:
        """A copy, so that the check changes nothing."""
        later = TickleList(dict(self.shelf))
        later.replace(self.there, self.now)
        shelf = Shelf()
        shelf.update(self.shelf)
        later.tidy(self.now + TIDY_AFTER)
        shelf.take(later)
        assert shelf.all() == self.there
        assert sum(map(len, shelf.values())) == len(self.there), "an entry is in two buckets"


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_nothing_is_missing_from_the_store_at_any_moment_while_buckets_are_merged() -> None:
    listed, shelf = TickleList(), Shelf()
    listed.update(entries(*range(1000)), (), 0.0)
    shelf.take(listed)
    stay = entries(*range(0, 1000, 10))
    listed.update((), entries(*range(1000)) - stay, 0.0)
    listed.tidy(0.0)
    assert len(listed.writes()) > 3
    while listed.pending:
        shelf.take(listed, 1)
        assert shelf.all() >= stay
    assert shelf.all() == stay
    assert len(shelf) <= 2


def test_what_has_gone_stays_listed_for_some_seconds_only() -> None:
    listed, shelf = TickleList(), Shelf()
    listed.update(entries(*range(100)), (), 0.0)
    shelf.take(listed)
    listed.update((), entries(1), 5.0)
    listed.tidy(5.0 + TIDY_AFTER - 0.1)
    assert not listed.pending
    listed.tidy(5.0 + TIDY_AFTER)
    shelf.take(listed)
    assert shelf.all() == entries(*range(100)) - entries(1)


def test_of_few_connections_one_that_goes_is_taken_off_at_once() -> None:
    listed, shelf = TickleList(), Shelf()
    listed.update(entries(1, 2), (), 0.0)
    shelf.take(listed)
    listed.update((), entries(1), 0.0)
    listed.tidy(0.0)
    shelf.take(listed)
    assert shelf.all() == entries(2)
    listed.update((), entries(2), 0.0)
    listed.tidy(0.0)
    shelf.take(listed)
    assert not shelf


def test_a_connection_that_comes_back_costs_nothing() -> None:
    listed, shelf = TickleList(), Shelf()
    listed.update(entries(*range(100)), (), 0.0)
    shelf.take(listed)
    listed.update((), entries(7), 0.0)
    listed.tidy(1.0)
    listed.update(entries(7), (), 2.0)
    listed.tidy(100.0)
    assert not listed.pending


def test_a_change_of_one_in_a_hundred_is_cheap() -> None:
    """10,000 connections, a hundred of which go and a hundred new ones come every second."""
    listed, shelf = TickleList(), Shelf()
    listed.update(entries(*range(10_000)), (), 0.0)
    shelf.take(listed)
    first = shelf.bytes
    assert first < 90_000
    shelf.bytes = shelf.operations = 0
    seconds = 60
    for second in range(seconds):
        come = range(10_000 + 100 * second, 10_100 + 100 * second)
        # From all over the list, as connections end in no order.
        gone = [(100 * second + n) * 7919 % 10_000 for n in range(100)]
        listed.update(entries(*come), entries(*gone), float(second))
        listed.tidy(float(second))
        shelf.take(listed)
    assert shelf.bytes / seconds < 15_000
    assert shelf.operations / seconds < 25


def test_the_same_entry_in_two_buckets_is_cleaned_up() -> None:
    """An interrupted merge leaves that."""
    shelf = Shelf()
    shelf.update({3: frozenset(entries(1, 2)), 4: frozenset(entries(2, 3))})
    listed = TickleList(dict(shelf))
    listed.replace(entries(1, 2, 3), 0.0)
    shelf.take(listed)
    assert shelf.all() == entries(1, 2, 3)
    assert sum(map(len, shelf.values())) == 3


def test_values_are_read_back() -> None:
    wanted = entries(*range(BUCKET_SIZE))
    assert tickle_list.unpack("k", tickle_list.pack(wanted), 8) == wanted
    assert tickle_list.unpack("k", tickle_list.pack(()), 20) == set()


@pytest.mark.parametrize("value", [b"", b"\2" + bytes(8), b"\1" + bytes(7), b"{}"])
def test_a_value_that_is_none_of_ours_is_named(value: bytes) -> None:
    with pytest.raises(StoreCorrupt, match="'some/key'"):
        tickle_list.unpack("some/key", value, 8)


def test_keys_are_outside_of_what_nodes_watch() -> None:
    for key in (tickle_list.bucket_prefix("locum", "10.0.0.1"), tickle_list.added_key("locum", "10.0.0.1")):
        assert key.startswith("locum.bulk/")
        assert not key.startswith("locum/")


@pytest.mark.parametrize(("key", "number"), [("a/b/17", 17), ("a/b/", None), ("a/b/x1", None), ("a/b/-1", None)])
def test_numbers_of_buckets(key: str, number: int | None) -> None:
    assert tickle_list.bucket_number(key) == number
