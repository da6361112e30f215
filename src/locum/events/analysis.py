"""What can be learned about one script from its bytes alone, without running it.

Rules of this file: it reads no directory and runs nothing. Given the content of a file it says how the file would be
started (shebang), which events it handles as far as that can be known, and what is wrong with it.
"""

from __future__ import annotations

import enum
import os
import re
import shutil

import msgspec

from locum.events.model import Event

#: The interpreter name that marks a Python script of event functions: ``#!/usr/bin/env locum-script``.
PYTHON_INTERPRETER = "locum-script"

#: Only this much of a script is read to see which events it mentions, bytes.
READ_LIMIT = 1 << 20

_EVENT_WORDS = {
    event.value: re.compile(rb"(?<![A-Za-z0-9_])" + event.value.encode() + rb"(?![A-Za-z0-9_])") for event in Event
}


class Kind(enum.StrEnum):
    """How a script is run."""

    #: Functions called in a child forked from the warm interpreter.
    PYTHON = "python"
    #: Text with a ``#!`` line, executed.
    TEXT = "script"
    #: A program, executed.
    BINARY = "program"


class Analysis(msgspec.Struct, frozen=True):
    """What a script's content says.

    ``events`` are the events it handles: for Python functions exactly these, for text those that it mentions; None
    means that nothing can be said, so any. ``problems`` make an enabled script unusable; ``remarks`` do not.
    """

    kind: Kind
    events: tuple[str, ...] | None
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def analyse(content: bytes, path: str, search_path: str) -> Analysis:
    """Analyse a script's ``content``; ``search_path`` is the PATH that scripts get, for ``#!/usr/bin/env``."""
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
    mentioned = tuple(name for name, word in _EVENT_WORDS.items() if word.search(content))
    # A script that names no event at all chooses what to do in some other way: expect it to handle anything.
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
    if os.path.basename(interpreter) == "env":
        arguments = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
        if arguments and os.access(interpreter, os.X_OK):
            if shutil.which(arguments[0], path=search_path) is None:
                return f"its interpreter {arguments[0]} is not found in {search_path}"
            return None
    if os.path.isdir(interpreter) or not os.access(interpreter, os.X_OK):
        return f"its interpreter {interpreter} does not exist or is not executable"
    return None
