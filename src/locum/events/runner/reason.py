"""Why a script failed, in one line: for tables, for the log, and as the reason of an unhealthy node.

Rules of this file: pure, and light to import: it runs in the runner and in scripts. A Python script knows its reason:
the message of its failure, or the exception with the line of the script that it came from. Of any other script only the
output is known. By convention (``docs/events.md``) its first line names the problem, unless a later line is marked as
the error or is the end of a Python traceback.
"""

from __future__ import annotations

import os
import re

#: The name under which a Python script's code runs; ``__name__`` in it.
MODULE = "locum_event_script"
#: Longer reasons are cut, characters.
_LONGEST = 400

_MARKED = re.compile(r"(error|fatal|critical|emerg|alert)\b", re.IGNORECASE)
_TRACEBACK = "Traceback (most recent call last):"
_FRAME = re.compile(r'\s+File "([^"]*)", line ([0-9]+)')


def first_line(text: str) -> str:
    """The first line of ``text`` that is not blank, "" when there is none."""
    return next((line.strip()[:_LONGEST] for line in text.splitlines() if line.strip()), "")


def reason_of_output(output: str) -> str:
    """The line of a failed script's ``output`` that gives the reason, "" without output."""
    lines = [line for line in output.splitlines() if line.strip()]
    found = _end_of_traceback(lines) or next((line for line in lines if _MARKED.match(line.strip())), "")
    return (found or (lines[0] if lines else "")).strip()[:_LONGEST]


def reason_of_exception(error: BaseException, path: str) -> str:
    """``ValueError: invalid literal (50.web line 12)``: the exception, and the line of the script at ``path`` that
    raised it or called what did. Only the first line of the message."""
    kind = type(error)
    name = (
        kind.__qualname__
        if kind.__module__ in ("builtins", "__main__", MODULE)
        else f"{kind.__module__}.{kind.__qualname__}"
    )
    if isinstance(error, SyntaxError):
        return _said(name, error.msg or "", _place(error.filename or path, error.lineno))
    line = None
    frame = error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == path:
            line = frame.tb_lineno
        frame = frame.tb_next
    try:
        message = str(error)
    except Exception:
        message = ""
    return _said(name, message, _place(path, line))


def _said(name: str, message: str, place: str) -> str:
    message = first_line(message)
    return (f"{name}: {message}" if message else name) + place


def _place(path: str, line: int | None) -> str:
    return f" ({os.path.basename(path).removesuffix('.script')} line {line})" if line is not None else ""


def _end_of_traceback(lines: list[str]) -> str:
    """The exception that the last traceback among ``lines`` ends with, and where it was raised."""
    starts = [number for number, line in enumerate(lines) if line.strip() == _TRACEBACK]
    if not starts:
        return ""
    place = ""
    for line in lines[starts[-1] + 1 :]:
        frame = _FRAME.match(line)
        if frame is not None:
            place = _place(frame[1], int(frame[2]))
        elif not line[0].isspace():
            return line.strip()[:_LONGEST] + place
    return ""
