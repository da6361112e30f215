"""Text from outside in logs and on terminals: it commands no terminal and forges no line."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from pathlib import Path

import pytest

from locum import escape
from locum.cli import output
from locum.lines import LineStream, LineWriter
from locum.node.log import Log

#: Every character that is none to be seen, and what begins with one.
WICKED = (
    "\x00\x07\x08\x0b\x0c\r\x1b[2J\x1b]0;title\x07\x7f",
    "".join(map(chr, range(0x80, 0xA0))),
    "\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u061c",
    "\u2028\u2029\x85\ufeff\U000e0001",
    "\ud800\udc80",
)
ALLOWED = re.compile(r"[ -~\n]*")


@pytest.mark.parametrize("text", WICKED)
def test_no_control_character_gets_through(text: str) -> None:
    for shown in (escape.one_line(text), escape.paragraph(text), *escape.lines(text), escape.in_json(text)):
        assert ALLOWED.fullmatch(shown)
    assert "\n" not in escape.one_line(text + "\n")


def test_what_is_to_be_seen_stays_and_codes_tell_which_character_it_was() -> None:
    assert escape.one_line("Grüße, 東京 ✓") == "Grüße, 東京 ✓"
    assert escape.one_line("a\tb\nc\x1b\x9b\u202e\U000e0001") == "a b c\\x1b\\x9b\\u202e\\U000e0001"
    assert escape.paragraph("one\r\n\ttwo\x85still two\n\nfour\n") == "one\n    \ttwo\\x85still two\n    \n    four"


def test_json_for_people_means_the_same() -> None:
    value = {"text": "".join(WICKED[:4]) + "ü\n", "\x9b31m": ["\u202e"]}
    shown = escape.in_json(json.dumps(value, ensure_ascii=False, indent=1))
    assert shown.replace("\n", "").isprintable()
    assert json.loads(shown) == value


FORGED = "failed\n2026-01-01 00:00:00.000 info    n1: all is well\r2026-01-01 info n1: really\x1b[1A"


def test_a_text_cannot_forge_a_line_of_the_log() -> None:
    stream = io.StringIO()
    Log("n1", stream=stream)(FORGED, "error")
    first, second = stream.getvalue().splitlines()
    assert first.endswith("error   n1: failed")
    assert second == "    2026-01-01 00:00:00.000 info    n1: all is well\\x0d2026-01-01 info n1: really\\x1b[1A"


def test_a_log_in_json_has_one_line_for_each_text() -> None:
    stream = io.StringIO()
    Log("n1", form="json", stream=stream)(FORGED + "".join(WICKED[:4]))
    (line,) = stream.getvalue().split("\n")[:-1]
    assert ALLOWED.fullmatch(line)
    assert json.loads(line)["text"].startswith(FORGED)


def test_whatever_a_process_prints_to_standard_error_is_escaped(tmp_path: Path) -> None:
    """Prints and tracebacks as well, whose messages may come from anywhere."""
    handle = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)
    writer = LineWriter(handle)
    stream = LineStream(writer, handle)
    print(f"ValueError: {FORGED}", file=stream)
    stream.write("half ")
    stream.write("a line\x1b[0m\nand ")
    stream.write("the rest\n")
    assert writer.drain(60)
    os.close(handle)
    assert (tmp_path / "log").read_text().split("\n") == [
        "ValueError: failed",
        "    2026-01-01 00:00:00.000 info    n1: all is well\\x0d2026-01-01 info n1: really\\x1b[1A",
        "half a line\\x1b[0m",
        "    and the rest",
        "",
    ]


def test_what_a_command_forgot_to_clean_is_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    on = output.Screen(colour=True)
    output.emit([on.paint("served", "green") + f" by {WICKED[0]}{WICKED[2]}", FORGED])
    shown = capsys.readouterr().out
    assert shown.startswith("\x1b[32mserved\x1b[0m by \\x00\\x07")
    assert shown.count("\x1b") == 2
    assert "\n    2026-01-01" in shown
    output.emit_json({"reason": WICKED[1] + WICKED[2]})
    assert ALLOWED.fullmatch(capsys.readouterr().out)


def test_errors_of_commands_are_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    from locum.cli.main import main  # noqa: PLC0415

    assert main(["node", "disable", "a\x1b[2J\nb", "--socket", "/nowhere\x9b\u202e"]) != 0
    shown = capsys.readouterr().err
    assert ALLOWED.fullmatch(shown)
    assert main(["no\x1b[2Jsuch"]) == 2
    assert ALLOWED.fullmatch(capsys.readouterr().err)
    assert sys.exc_info() == (None, None, None)
