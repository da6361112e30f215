"""Which events a script handles, found without running it."""

from __future__ import annotations

import pytest

from locum.events.analysis import analyse
from locum.events.environment import STANDARD_PATH
from locum.events.model import Kind

PYTHON = b"#!/usr/bin/env locum-script\n"


def events(text: bytes) -> tuple[str, ...] | None:
    return analyse(text, "50.web", STANDARD_PATH).events


@pytest.mark.parametrize(
    "text",
    [
        b"def monitor(): pass",
        b"def check(): pass\nmonitor = check",
        b"monitor = startup = lambda: None",
        b"monitor: object = print",
        b"from somewhere import monitor",
        b"from somewhere import check as monitor",
        b"import monitor",
        b"if True:\n    def monitor(): pass",
        b"try:\n    from a import monitor\nexcept ImportError:\n    def monitor(): pass",
        b"try:\n    pass\nexcept ValueError:\n    def monitor(): pass",
        b"with open('x') as f:\n    def monitor(): pass",
        b"match 1:\n    case 1:\n        def monitor(): pass",
        b"class monitor: pass",
        b"(check, monitor) = (1, 2)",
    ],
)
def test_every_way_to_bind_a_name_at_the_top_level_counts(text: bytes) -> None:
    found = events(PYTHON + text)
    assert found is not None
    assert "monitor" in found


@pytest.mark.parametrize(
    "text",
    [
        b"# monitor",
        b"'''monitor'''",
        b"class A:\n    def monitor(self): pass",
        b"def startup():\n    def monitor(): pass",
        b"print(monitor)",
        b"x = monitor",
        b"monitor()",
    ],
)
def test_what_does_not_bind_it_does_not(text: bytes) -> None:
    found = events(PYTHON + text)
    assert found is not None
    assert "monitor" not in found


def test_a_star_import_may_bind_anything() -> None:
    assert events(PYTHON + b"from common import *\n") is None


def test_decorated_and_variadic_functions_can_take_anything() -> None:
    text = b"@wrap\ndef takeip(): pass\ndef releaseip(*a): pass\ndef updateip(a, b, c, d, e=1): pass\n"
    assert analyse(PYTHON + text, "x", STANDARD_PATH).remarks == ()


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        (b"def takeip(interface): pass", "line 2: takeip(interface) cannot be called with the event's arguments"),
        (b"def monitor(x): pass", "line 2: monitor(x) cannot be called with the event's arguments ()"),
        (b"def takeip(a, b, c, d): pass", "takeip(a, b, c, d) cannot be called"),
        (b"def monitor(*, x): pass", "monitor(*, x) cannot be called"),
        (b"async def monitor(): pass", "line 2: monitor is an async function"),
        (b"def moniter(): pass", "defines no function for any event"),
    ],
)
def test_mistakes_that_would_show_only_when_the_event_comes(text: bytes, remark: str) -> None:
    (found,) = analyse(PYTHON + text, "x", STANDARD_PATH).remarks
    assert remark in found


@pytest.mark.parametrize(
    "shebang", [b"#!/usr/bin/env locum-script", b"#! /usr/bin/env -S locum-script", b"#!/opt/locum/bin/locum-script"]
)
def test_what_marks_a_python_script(shebang: bytes) -> None:
    assert analyse(shebang + b"\ndef monitor(): pass\n", "x", STANDARD_PATH).kind is Kind.PYTHON


def test_a_python_program_is_not_a_script_of_functions() -> None:
    found = analyse(b"#!/usr/bin/env python3\nimport sys # monitor\n", "x", "/usr/bin:/bin:/usr/local/bin")
    assert found.kind is Kind.TEXT
    assert found.events == ("monitor",)


def test_events_are_found_in_text_as_words() -> None:
    assert events(b"#!/bin/sh\ncase $1 in takeip|releaseip) ;; esac # monitoring restartup\n") == (
        "releaseip",
        "takeip",
    )


def test_an_encoding_that_does_not_exist_is_a_syntax_error() -> None:
    (problem,) = analyse(b"#!/usr/bin/env locum-script\n# coding: klingon\n", "x", STANDARD_PATH).problems
    assert "unknown encoding" in problem
