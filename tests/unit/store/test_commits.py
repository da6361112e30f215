"""I8: a write that is not conditional on what its decision read does not exist (:class:`locum.store.base.Commit`)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import locum
from locum.store.base import Commit, Condition, Delete, Put

SOURCE = Path(locum.__file__).parent
#: What is a store, or stands in for one, and what measures one with keys of its own.
STORES = ("store/", "sim/", "store/prefixed.py")


def test_i8_a_key_without_a_condition_on_it_cannot_be_written() -> None:
    condition = Condition("member/n1", 7)
    for operation in (Put("claim/10.0.0.1", b"{}"), Delete("claim/10.0.0.1")):
        with pytest.raises(ValueError, match=r"claim/10\.0\.0\.1"):
            Commit((condition,), (operation,))


def test_i8_an_empty_reason_is_no_reason() -> None:
    with pytest.raises(ValueError, match="beat/n1"):
        Commit((), (Put("beat/n1", b"{}"),), {"beat/n1": ""})


def test_i8_a_condition_or_a_reason_lets_a_write_pass() -> None:
    Commit((Condition("a", 0),), (Put("a", b""), Delete("b")), {"b": "known to this test alone"})


def test_i8_everything_that_decides_writes_through_a_commit() -> None:
    """``await store.commit(conditions, operations)`` bypasses the check: only stores themselves contain it."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        place = path.relative_to(SOURCE).as_posix()
        if place.startswith(STORES):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "commit":
                receiver = ast.unparse(node.func.value)
                if receiver.endswith(("store", "bulk", "Store")):
                    found.append(f"{place}:{node.lineno}: {ast.unparse(node)}")
    assert not found
