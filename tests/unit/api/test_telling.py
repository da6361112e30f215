"""The history in sentences."""

from __future__ import annotations

import re

import pytest

from locum.api.telling import sentences, stamp
from locum.rules.occurrences import Moves, Occurrence


def of(**fields: object) -> Occurrence:
    return Occurrence(**{"key": "1.moves", "kind": "moves", "at": 0.0, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "told"),
    [
        (
            of(moves=(Moves("n2", "n0", ("10.0.0.7",), (38,)),), cause="50.samba's monitor failed on n2"),
            ["10.0.0.7 moved from n2 to n0, 38 ms unserved, because 50.samba's monitor failed on n2"],
        ),
        (
            of(moves=(Moves("n2", "n0", ("a", "b", "c", "d", "e"), (1, 2, 4200, 3, -1)),), cause="x"),
            ["a, b, c and 2 more moved from n2 to n0, up to 4.2 s unserved, because x"],
        ),
        (
            of(moves=(Moves("", "n1", ("a",), (-1,)), Moves("n2", "", ("b",), (-1,))), cause="x"),
            ["a came to n1, because x", "b went from n2 to no node, because x"],
        ),
        (of(moves=(Moves("n1", "n1", ("a",), (150_000,)),), cause=""), ["a returned at n1, 2 min unserved"]),
        (
            of(epoch=7, cause="n3 joined", open=True),
            ["plan 7: no address moved, because n3 joined; it had not ended when this was written"],
        ),
        (of(epoch=7, replaced=True), ["plan 7: no address moved; another plan came before it had ended"]),
        (
            of(kind="state", node="n2", was="OK", state="UNHEALTHY", cause="port 445"),
            ["n2 became UNHEALTHY (was OK): port 445"],
        ),
        (of(kind="state", node="n2", was="BANNED", state="OK"), ["n2 became OK (was BANNED)"]),
        (of(kind="refused", node="n2", addresses=("a",), cause="no route"), ["n2 did not take a: no route"]),
        (of(kind="leader", node="n2"), ["n2 became the leader"]),
        (
            of(kind="command", node="n2", command="n1 is disabled", by="alice as root on pts/3"),
            ["command at n2: n1 is disabled (by alice as root on pts/3)"],
        ),
    ],
)
def test_each_kind_is_told_with_its_cause(one: Occurrence, told: list[str]) -> None:
    assert sentences(one) == told


def test_times_have_milliseconds_and_round_up_to_the_next_second() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.512", stamp(1.7e9 + 0.512))
    assert stamp(1.7e9 + 0.9996) == stamp(1.7e9 + 1.0)
