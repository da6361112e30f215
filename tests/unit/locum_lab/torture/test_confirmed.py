"""Which values may be there after what admins asked for (I9)."""

from __future__ import annotations

from locum_lab.torture.confirmed import LATE, ConfirmedWrites, Value, Write, writes_of


def recorded(*writes: tuple[Value, float, float | None]) -> ConfirmedWrites:
    """Of (value, begun, confirmed at or never) of one key."""
    made = ConfirmedWrites()
    for value, begun, ended in writes:
        write = Write("key", value, begun)
        made.begin(write)
        if ended is not None:
            made.end(write, ended)
    return made


def lost(made: ConfirmedWrites, value: Value) -> bool:
    return bool(made.lost({"key": value}, 1000.0))


def test_what_was_confirmed_must_be_there() -> None:
    made = recorded(("n1", 1.0, 2.0))
    assert not lost(made, "n1")
    assert lost(made, "n2")
    assert lost(made, None)
    assert made.lost({}, 1000.0) == ("key: n1 was confirmed, and it is None",)


def test_a_later_one_replaces_it() -> None:
    made = recorded(("n1", 1.0, 2.0), ("n2", 3.0, 4.0))
    assert lost(made, "n1")
    assert not lost(made, "n2")


def test_of_two_at_once_either_may_be_last() -> None:
    made = recorded(("n1", 1.0, 5.0), ("n2", 2.0, 4.0))
    assert not lost(made, "n1")
    assert not lost(made, "n2")
    assert lost(made, "n3")


def test_what_was_not_confirmed_may_be_there_or_not() -> None:
    made = recorded(("n1", 1.0, 2.0), ("n2", 3.0, None))
    assert not lost(made, "n1")
    assert not lost(made, "n2")
    assert lost(made, None)
    assert not lost(recorded(("n2", 3.0, None)), "anything")


def test_a_confirmation_does_not_outdo_what_may_come_late() -> None:
    made = recorded(("n1", 1.0, None), ("n2", 3.0, 4.0))
    assert not lost(made, "n1")
    assert not lost(made, "n2")


def test_what_was_refused_is_nothing() -> None:
    made = recorded(("n1", 1.0, 2.0))
    write = Write("key", "n2", 3.0)
    made.begin(write)
    made.refused(write)
    assert lost(made, "n2")


def test_going_on_from_what_is_seen() -> None:
    made = recorded(("n1", 1.0, 2.0), ("n2", 3.0, None))
    made.take({"key": "n1"}, 10.0)
    assert not lost(made, "n2"), "it may still come"
    made.take({"key": "n1"}, 4.0 + LATE)
    assert lost(made, "n2")
    assert not lost(made, "n1")


def test_bans_end_by_time_and_may_be_longer() -> None:
    def seen(until: float, now: float) -> bool:
        made = ConfirmedWrites()
        write = Write("banned n1", 60.0, 0.0)
        made.begin(write)
        made.end(write, 1.0)
        return not made.lost({"banned n1": until}, now)

    assert seen(60.5, 10.0)
    assert seen(300.0, 10.0)
    assert not seen(0.0, 10.0)
    assert not seen(30.0, 10.0)
    assert seen(0.0, 60.0)


def test_what_commands_write() -> None:
    assert writes_of(("node", "stop", "n1"), 5.0) == (Write("stopped n1", True, 5.0),)
    assert writes_of(("node", "enable", "n1"), 5.0) == (Write("disabled n1", False, 5.0),)
    assert writes_of(("node", "ban", "n1", "--seconds", "3"), 5.0) == (Write("banned n1", 8.0, 5.0),)
    assert writes_of(("ip", "auto", "fd77::2"), 5.0) == (Write("preferred fd77::2", None, 5.0),)
    assert writes_of(("tunable", "set", "TickleCount", "4"), 5.0) == (Write("tunable TickleCount", 4.0, 5.0),)
    assert writes_of(("event", "run", "monitor"), 5.0) == ()


def test_a_store_that_went_back_owes_nothing_that_was_confirmed_before() -> None:
    made = recorded(("n1", 1.0, 2.0), ("n2", 3.0, None))
    made.forget()
    assert not lost(made, None)
    write = Write("key", "n3", 5.0)
    made.begin(write)
    made.end(write, 6.0)
    assert lost(made, None)
