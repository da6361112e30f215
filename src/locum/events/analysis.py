"""Analyses one script by its bytes alone, without running it.

Rules of this file: it reads no directory and runs nothing of the script. A shell parses it (``sh -n``): a
script that an upgrade broke should be detected before it fails an event. For the content of a file it determines how
the file would be started (shebang), which events it handles as far as that can be determined, and its problems.
"""

from __future__ import annotations

import os
import re
import shutil

import msgspec

from locum.events.model import Event, Kind
from locum.programs import run_over

#: The interpreter name that marks a Python script of event functions: ``#!/usr/bin/env locum-script``.
PYTHON_INTERPRETER = "locum-script"

#: Length of a script that is searched for the events that it mentions, bytes.
READ_LIMIT = 1 << 20

#: Shells that parse a script without running it when they get ``-n`` (POSIX, sh(1)).
_SHELLS = ("sh", "dash", "ash", "bash", "ksh", "mksh")
#: Longest time that a shell may take for that, seconds.
_PARSE_LIMIT = 5.0
_LINE = re.compile(r"^(?:line )?([0-9]+): ")

_EVENT_WORDS = {
    event.value: re.compile(rb"(?<![A-Za-z0-9_])" + event.value.encode() + rb"(?![A-Za-z0-9_])") for event in Event
}


class Analysis(msgspec.Struct, frozen=True):
    """The result of an analysis.

    ``events`` are the events it handles: for Python functions exactly these, for text those that it mentions; None
    means unknown, so any. ``problems`` make an enabled script unusable; ``remarks`` do not.
    """

    kind: Kind
    events: tuple[str, ...] | None
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def analyse(content: bytes, path: str, search_path: str, parse: bool = True) -> Analysis:
    """Analyse a script's ``content``; ``search_path`` is the PATH that scripts get, for ``#!/usr/bin/env``.

    Without ``parse`` no shell is started: for content that other users could have written.
    """
    if not content.startswith(b"#!"):
        if content.startswith(b"\x7fELF"):
            return Analysis(Kind.BINARY, None)
        if not content.strip():
            return Analysis(Kind.TEXT, (), ("is empty: write a script, or remove the file",))
        return Analysis(Kind.TEXT, None, ("starts with neither '#!' nor a program header: begin it with '#!/bin/sh'",))
    words = _shebang_words(content)
    if any(os.path.basename(word.rstrip("\r")) == PYTHON_INTERPRETER for word in words[:3]):
        from locum.events.python_analysis import analyse_python  # imports ast, 10 ms that shell scripts need not cost  # noqa: PLC0415

        events, problems, remarks = analyse_python(content, path)
        return Analysis(Kind.PYTHON, events, problems, remarks)
    problem = _interpreter_problem(words, search_path)
    if problem is None and parse and len(content) < READ_LIMIT:
        problem = _shell_problem(words, content, search_path)
    mentioned = tuple(name for name, word in _EVENT_WORDS.items() if word.search(content))
    # A script that names no event at all chooses its action in another way: expect it to handle any event.
    return Analysis(Kind.TEXT, mentioned or None, (problem,) if problem else ())


def _shebang_words(content: bytes) -> list[str]:
    line = content[2:].split(b"\n", 1)[0]
    return re.split("[ \t]+", line.decode("utf-8", "replace").strip(" \t"))


def _interpreter_problem(words: list[str], search_path: str) -> str | None:
    """Why the kernel or env(1) could not find the interpreter named by the words of a ``#!`` line."""
    if words == [""]:
        return "its '#!' line names no interpreter"
    if words[-1].endswith("\r"):
        return "has Windows line ends: convert it, for example with sed -i 's/\\r$//'"
    interpreter = words[0]
    if not interpreter.startswith("/"):
        return f"its interpreter {interpreter} is not an absolute path"
    if (program := _started_by_env(words)) and os.access(interpreter, os.X_OK):
        found = shutil.which(program, path=search_path)
        return None if found else f"its interpreter {program} is not found in {search_path}"
    if os.path.isdir(interpreter) or not os.access(interpreter, os.X_OK):
        return f"its interpreter {interpreter} does not exist or is not executable"
    return None


def _started_by_env(words: list[str]) -> str:
    """The program that env(1) starts, "" when the ``#!`` line names another interpreter."""
    if os.path.basename(words[0]) != "env":
        return ""
    return next((word for word in words[1:] if not word.startswith("-") and "=" not in word), "")


def _shell_problem(words: list[str], content: bytes, search_path: str) -> str | None:
    """Why the shell named by the words of a ``#!`` line cannot parse the script; None also when the shell cannot
    run."""
    program = _started_by_env(words)
    name = os.path.basename(program or words[0])
    shell = shutil.which(name, path=search_path) if program else words[0]
    if name not in _SHELLS or not shell or b"\0" in content:  # with NUL: something packed behind an 'exit'
        return None
    try:
        environment = {"PATH": search_path, "LANG": "C.UTF-8"}
        status, complaint = run_over(content, [shell, "-n"], _PARSE_LIMIT, environment)
    except OSError:
        return None
    if status == 0 or not complaint:
        return None
    # dash: "/bin/sh: 3: Syntax error: …"; bash: "bash: line 3: syntax error …".
    text = complaint.splitlines()[0].removeprefix(f"{shell}: ").removeprefix(f"{name}: ")
    return f"{name} cannot parse it: {_LINE.sub(_line, text)}"


def _line(match: re.Match[str]) -> str:
    return f"line {match[1]}: "
