"""``locum history``: the times that people write, and lines that fit."""

from __future__ import annotations

import time

import click
import pytest

from locum.cli.history import moment, render
from locum.cli.output import Screen
from locum.rules.occurrences import Moves, Occurrence

NOW = 1.7e9


def local(text: str) -> float:
    return time.mktime(time.strptime(text, "%Y-%m-%d %H:%M:%S"))


@pytest.mark.parametrize(
    ("text", "ago"), [("90s", 90), ("15m", 900), ("2h", 7200), ("3d ago", 259200), ("1.5 h", 5400)]
)
def test_a_time_may_be_a_duration(text: str, ago: float) -> None:
    assert moment(text, NOW) == NOW - ago


def test_a_time_may_be_a_date_or_a_time_of_day_which_is_never_to_come() -> None:
    assert moment("", NOW) == 0.0
    assert moment("2023-11-14 09:18", NOW) == local("2023-11-14 09:18:00")
    assert moment("2023-11-14", NOW) == local("2023-11-14 00:00:00")
    for text in ("00:00", "09:18", "12:00:30", "23:59"):
        assert NOW - 86400 <= moment(text, NOW) <= NOW


@pytest.mark.parametrize("text", ["yesterday", "25:99", "2h3m", "-1h", "2023-13-01"])
def test_what_is_no_time_is_refused_with_examples(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no time: 15m"):
        moment(text, NOW)


def test_lines_fold_under_their_text_and_show_no_control_characters() -> None:
    moves = tuple(Moves("n1", "n2", (f"10.0.0.{number}",), (5,)) for number in (1, 2))
    one = Occurrence("1.moves", "moves", NOW, cause="it was \x1b[31mred " + 10 * "and long ", moves=moves)
    lines = render([one], Screen(width=80, colour=False))
    assert all(len(line) <= 80 for line in lines)
    assert "\x1b" not in "".join(lines)
    assert sum(line.startswith("20") for line in lines) == 1
    assert len(lines) > 4
