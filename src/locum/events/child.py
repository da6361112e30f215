"""The forked child: becomes a script.

Rules of this file: it runs between fork and the script's first instruction. Nothing here may return to the runner's
code, hold on to the runner's descriptors, or start the script before its record is on file.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import sys
import types
from collections.abc import Sequence

from locum.events.python_script import call_event, finish

#: On this signal a Python script writes the stack of each of its threads to the descriptor STACKS.
STACK_SIGNAL = signal.SIGUSR2
#: The descriptor that stacks are written to, in the child.
STACKS = 3

#: Exit statuses of a script that could not be started, as in the shell.
CANNOT_EXECUTE = 126
NOT_FOUND = 127

_IGNORED_BY_RUNNER = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)


class Job:
    """One script to run for one event: everything that the child needs to know."""

    __slots__ = ("arguments", "environment", "event", "name", "path", "python")

    def __init__(
        self,
        *,
        name: str,
        path: str,
        python: bool,
        event: str,
        arguments: Sequence[str],
        environment: dict[str, str],
    ) -> None:
        self.name = name
        self.path = path
        self.python = python
        self.event = event
        self.arguments = list(arguments)
        self.environment = environment


def become(job: Job, code: types.CodeType | None, output: int, go: int, stacks: int) -> None:
    """Run the script in this process and exit with its status. Never returns.

    ``output`` becomes standard output and error; the script starts when a byte arrives on ``go``, and never when
    that is closed instead, because then the runner died before the script was on file.
    """
    status = CANNOT_EXECUTE
    try:
        os.setsid()
        if os.read(go, 1) == b"":
            os._exit(CANNOT_EXECUTE)
        _prepare(output, stacks)
        status = _execute(job) if code is None else _run_python(job, code)
    except BaseException as error:
        os.write(2, f"cannot start {job.path}: {error}\n".encode("utf-8", "backslashreplace"))
    finally:
        os._exit(status)


def _prepare(output: int, stacks: int) -> None:
    """Standard descriptors, nothing else open, default signals, / as working directory, ordinary umask."""
    null = os.open("/dev/null", os.O_RDONLY)
    keep = os.dup2(stacks, max(output, null, stacks) + 1)  # out of the way of what is replaced
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(keep, STACKS, inheritable=False)
    os.closerange(STACKS + 1, os.sysconf("SC_OPEN_MAX"))
    for number in _IGNORED_BY_RUNNER:
        signal.signal(number, signal.SIG_DFL)
    os.chdir("/")
    os.umask(0o022)


def _run_python(job: Job, code: types.CodeType) -> int:
    gc.enable()
    # Streams of its own: what the parent's hold must not come out here, and every line shows at once.
    sys.stdin = os.fdopen(0, encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stdout = os.fdopen(1, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)
    os.environ.clear()
    os.environ.update(job.environment)
    faulthandler.enable(2)
    faulthandler.register(STACK_SIGNAL, STACKS)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as Python has it: a closed pipe is an exception
    return finish(call_event(code, job.path, job.event, job.arguments))


def _execute(job: Job) -> int:
    try:
        os.execve(job.path, [job.path, job.event, *job.arguments], job.environment)
    except FileNotFoundError:
        reason = "its interpreter does not exist" if os.path.exists(job.path) else "it does not exist any more"
        status = NOT_FOUND
    except OSError as error:
        reason, status = error.strerror or str(error), CANNOT_EXECUTE
    os.write(2, f"cannot start {job.path}: {reason}\n".encode("utf-8", "backslashreplace"))
    return status
