"""Run other programs from a script."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from locum.script.failure import Fail

TIMED_OUT = 124

#: How much of a log is read, in bytes.
_LARGEST = 1 << 16


class Completed(NamedTuple):
    """A program that has ended: its exit ``status`` (128 + signal, 124 after a time-out) and its ``output``."""

    status: int
    output: str


def as_words(command: object) -> list[str]:
    """Convert a command, text or a list of words, to a list of words. Text is split as the shell does, without any
    other shell syntax. Raises Fail for a value of another kind."""
    if isinstance(command, str):
        return shlex.split(command)
    if isinstance(command, Sequence):
        return [str(word) for word in command]
    raise Fail(f"a command is text or a list of words, not {command!r}")


def run(
    command: str | Sequence[str],
    *,
    check: bool = True,
    timeout: float | None = None,
    environment: Mapping[str, str] | None = None,
    log: str | None = None,
) -> Completed:
    """Run a program, wait for its end, return its output on standard output and error.

    It runs without a shell: write ``["sh", "-c", text]`` for one. Raises Fail when it does not exist, or, with
    ``check``, when its status is not 0 or it did not end within ``timeout`` seconds (it is killed then).

    ``log``: a file to which the output is appended, for a program that leaves a service behind. Such a service keeps
    its output open; without a file, this is a pipe whose end :func:`run` would wait for.
    """
    import subprocess  # noqa: PLC0415

    words = as_words(command)
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open(log, "a+b")) if log else None
            begin = file.seek(0, os.SEEK_END) if file else 0
            try:
                done = subprocess.run(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=file or subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    timeout=timeout,
                    env=None if environment is None else dict(environment),
                    check=False,
                )
                status, data = done.returncode, done.stdout
            except subprocess.TimeoutExpired as error:
                status, data = TIMED_OUT, error.output or b""
            if file:
                file.seek(begin)
                data = file.read(_LARGEST)
    except (OSError, IndexError) as error:
        raise Fail(f"cannot run {shlex.join(words)!r}: {error}") from None
    output = data.decode("utf-8", "backslashreplace")
    if status < 0:
        status = 128 - status
    if check and status != 0:
        ended = f"did not end within {timeout:g} s" if timeout and status == TIMED_OUT else f"failed: {_name(status)}"
        raise Fail(f"{shlex.join(words)} {ended}" + (f"\n{output.rstrip()}" if output.strip() else ""))
    return Completed(status, output)


def _name(status: int) -> str:
    if status > 128:
        try:
            return signal.Signals(status - 128).name
        except ValueError:
            pass
    return f"status {status}"
