"""Tables, wrapping and colours."""

from __future__ import annotations

import json

import pytest

from locum.cli import output
from locum.cli.output import Cell, Screen

PLAIN = Screen()
COLOUR = Screen(colour=True, width=80)


def test_columns_are_as_wide_as_their_widest_cell_and_no_line_ends_in_spaces() -> None:
    lines = output.table(["N", "NAME", "WHY"], [["1", "a", ""], ["20", "longer", "because"]], PLAIN, right=["N"])
    assert lines == [
        " N  NAME    WHY",
        " 1  a",
        "20  longer  because",
    ]


def test_a_last_column_of_numbers_is_aligned_right() -> None:
    assert output.table(["A", "N"], [["x", "1"], ["y", "20"]], PLAIN, right=["N"]) == ["A   N", "x   1", "y  20"]


def test_colour_does_not_disturb_the_columns() -> None:
    rows: list[list[output.Content]] = [[Cell("OK", "green"), "x"], [Cell("UNHEALTHY", "red"), "y"]]
    lines = output.table(["S", "T"], rows, COLOUR)
    assert lines[1] == "\x1b[32mOK\x1b[0m         x"
    assert lines[2] == "\x1b[31mUNHEALTHY\x1b[0m  y"
    assert output.table(["S", "T"], rows, PLAIN)[1] == "OK         x"


def test_the_last_column_wraps_below_itself_on_a_terminal_only() -> None:
    rows = [["n1", "one two three four five six seven eight"]]
    assert output.table(["A", "WHY"], rows, Screen(width=30)) == [
        "A   WHY",
        "n1  one two three four five",
        "    six seven eight",
    ]
    assert len(output.table(["A", "WHY"], rows, PLAIN)) == 2


def test_text_of_several_lines_does_not_break_a_table() -> None:
    assert output.table(["A", "B"], [["x", "one\ntwo"]], PLAIN) == ["A  B", "x  one two"]


def test_nothing_that_comes_from_a_script_commands_the_terminal() -> None:
    evil = "\x1b[2Jgone\x07\ttab"
    good = "\\x1b[2Jgone\\x07 tab"
    assert output.table(["A"], [[Cell(evil, "red")]], PLAIN)[1] == good
    assert output.items([evil], PLAIN) == [f"- {good}"]
    assert output.facts([("A", evil)], PLAIN) == [f"A  {good}"]


def test_a_terminal_that_is_too_narrow_is_left_to_wrap_by_itself() -> None:
    rows = [["x" * 60, "one two three four five six"]]
    assert len(output.table(["A", "B"], rows, Screen(width=70))) == 2


def test_facts_and_items() -> None:
    assert output.facts([("A", "1"), ("Longer", Cell("2", "red")), ("Empty", "")], PLAIN) == ["A       1", "Longer  2"]
    assert output.items(["one two three four five six"], Screen(width=26)) == ["- one two three four five", "  six"]


def test_count() -> None:
    assert output.count(1, "node") == "1 node"
    assert output.count(2, "public address", "public addresses") == "2 public addresses"


def test_pick_keeps_the_order_asked_for() -> None:
    assert output.pick(b'{"b":[1,2],"a":{"x":1},"c":3}', ("a", "b", "missing")) == b'{"a":{"x":1},"b":[1,2]}'


def test_json_is_indented_for_people_and_on_one_line_for_streams(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit_json({"a": [1]})
    text = capsys.readouterr().out
    assert text.count("\n") > 1
    assert json.loads(text) == {"a": [1]}
    output.emit_json(b'{"a":[1]}', compact=True)
    assert capsys.readouterr().out == '{"a":[1]}\n'


def test_no_colour_and_no_width_without_a_terminal() -> None:
    assert output.screen() == Screen(colour=False, width=None)


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert output.screen().colour
    monkeypatch.setenv("NO_COLOR", "1")
    assert not output.screen().colour
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not output.screen().colour
