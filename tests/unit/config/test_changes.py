"""What a reload takes up and what it names as needing a restart: every key of the configuration, one by one."""

from __future__ import annotations

import types
import typing

import msgspec
import pytest

from locum.config.changes import NEEDS_RESTART, SECTIONS, TAKEN_UP, differences, needs_restart, taken_up
from locum.config.load import parse
from locum.config.model import Settings

BASE = """
[node]
name = "n1"
[cluster]
store = "etcd://h1"
[[address]]
address = "10.0.0.1/24"
interfaces = ["lo"]
"""


def every_key() -> set[str]:
    """Of the model; a section counts with its keys."""
    found = set()
    for field in Settings.__struct_fields__:
        if field in SECTIONS:
            section = typing.get_type_hints(Settings)[field]
            found |= {f"{field}.{name}" for name in section.__struct_fields__}
        elif field != "source":
            found.add(field)
    return found


def test_every_key_is_either_taken_up_or_needs_a_restart() -> None:
    assert set(TAKEN_UP) | set(NEEDS_RESTART) == every_key()
    assert not set(TAKEN_UP) & set(NEEDS_RESTART)


def another(value: object, kind: object) -> object:
    """A value other than ``value``; for choices, which are checked elsewhere, any."""
    if isinstance(value, float):
        return value + 1
    if isinstance(value, int):
        return value + 1
    if isinstance(value, msgspec.Struct):
        return parse(BASE.replace("h1", "h2"), "x").cluster.store
    return 7 if value is None and kind == (int | None) else f"{value or ''}x"


@pytest.mark.parametrize("key", NEEDS_RESTART)
def test_a_key_that_needs_a_restart_is_named_again_until_there_is_one(key: str) -> None:
    running = parse(BASE, "x")
    section, _, name = key.partition(".")
    before = getattr(running, section)
    changed = msgspec.structs.replace(
        before, **{name: another(getattr(before, name), typing.get_type_hints(type(before))[name])}
    )
    new = msgspec.structs.replace(running, **{section: changed})
    assert new != running
    assert needs_restart(running, new) == (key,)
    after = taken_up(running, new)
    assert getattr(getattr(after, section), name) == getattr(before, name)
    assert needs_restart(after, new) == (key,)
    assert differences(running, after) == ()


def test_what_is_taken_up_is_the_new_and_all_the_rest_the_old() -> None:
    running = parse(BASE, "x")
    text = BASE.replace("10.0.0.1", "10.0.0.2").replace('"etcd://h1"', '"etcd://h2"\nhold = 5')
    new = parse(text + '[cluster.etcd]\nca = "/ca.pem"\n[connections]\nports = [80]\n[log]\nlevel = "debug"\n', "x")
    after = taken_up(running, new)
    assert needs_restart(running, new) == ("cluster.store", "cluster.hold", "log.level")
    assert (after.cluster.store, after.cluster.hold, after.log) == (running.cluster.store, 2.0, running.log)
    assert (after.cluster.etcd, after.addresses, after.connections) == (
        new.cluster.etcd,
        new.addresses,
        new.connections,
    )
    assert differences(running, after) == (
        "address 10.0.0.2 added",
        "address 10.0.0.1 removed",
        "settings of connections changed",
    )


def test_no_value_hides_in_a_section_without_keys() -> None:
    hints = typing.get_type_hints(Settings)
    for field in Settings.__struct_fields__:
        kind = hints[field]
        struct = (
            isinstance(kind, type) and not isinstance(kind, types.GenericAlias) and issubclass(kind, msgspec.Struct)
        )
        # A whole that is compared as one is taken up as one.
        assert not struct or field in SECTIONS or field in TAKEN_UP, field
