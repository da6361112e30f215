"""The forked child: waits for its job, then becomes a Python script.

Rules of this file: it runs between fork and the script's first instruction. Nothing here may return to the runner's
code, keep the runner's descriptors, or start a script without a job.

The job comes as one JSON line over a pipe, so that a child can be forked before there is a job for it, while no
event waits. If the runner dies first, the pipe ends, and the child with it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import io
import os
import select
import signal
import sys
import types
from collections.abc import Callable

import msgspec

from locum.events.runner.descriptors import Descriptors
from locum.events.runner.protocol import Job, encode
from locum.events.runner.python_script import call_event, finish
from locum.events.runner.reason import reason_of_exception
from locum.events.runner.results import CANNOT_EXECUTE

#: On this signal a Python script writes the stack of each of its threads to the descriptor STACKS.
STACK_SIGNAL = signal.SIGUSR2
#: Ignored by a runner, at their default in a Python script, which ignores the others of IGNORED_BY_RUNNER as well.
_RUNNER_ALONE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_READ = 1 << 16
#: A Python script that fails writes this and the reason to the beginning of STACKS.
REASON = b"reason: "

#: Returns the compiled script; raises OSError, SyntaxError, ValueError.
Compiler = Callable[[str], types.CodeType]


_decoder = msgspec.json.Decoder(Job)
_EMPTY = compile("def monitor(): print(end='')", "", "exec")
_REHEARSAL = encode(Job("", "", True, "monitor", (), {}, 0.0))


class Child:
    """A child that waits for its job, as the runner sees it.

    ``pid`` leads a session of its own; ``handle`` is a pidfd; ``output`` the reading end of its standard output and
    error. The owner of the object calls :meth:`close`.
    """

    def __init__(self, compiler: Compiler, stacks: int) -> None:
        """Fork. Raises OSError when that fails, without leftovers."""
        self._descriptors = Descriptors()
        try:
            self.output, output = self._descriptors.pipe()
            jobs, self._jobs = self._descriptors.pipe()
            os.set_blocking(self.output, False)
            self.pid = os.fork()
            if self.pid == 0:
                _live(compiler, jobs, output, stacks)
            self._descriptors.shut(output)
            self._descriptors.shut(jobs)
            try:
                self.handle = self._descriptors.keep(os.pidfd_open(self.pid))
            except OSError:
                self._descriptors.shut(self._jobs)
                os.waitpid(self.pid, 0)
                raise
        except OSError:
            self.close()
            raise

    def is_waiting(self) -> bool:
        """Whether it still waits, and has not been killed."""
        poll = select.poll()
        poll.register(self.handle, select.POLLIN)
        return not poll.poll(0)

    def start(self, job: Job) -> None:
        """Give it its job. Nothing happens when it is gone: its end is noticed elsewhere."""
        data = memoryview(encode(job))
        try:
            while data:
                data = data[os.write(self._jobs, data) :]
        except BrokenPipeError:
            pass
        finally:
            self._descriptors.shut(self._jobs)

    def close(self) -> None:
        """Close every descriptor; a child that still waits for a job then ends."""
        self._descriptors.close()


def become_parent(stacks: int) -> None:
    """Set up, once, what every child inherits: output line by line, in UTF-8, and stacks written to ``stacks`` (on
    STACK_SIGNAL) and to standard error (in a crash)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    faulthandler.enable(2)
    faulthandler.register(STACK_SIGNAL, stacks)


def _live(compiler: Compiler, jobs: int, output: int, stacks: int) -> None:
    """The whole life of the child. Never returns."""
    status = CANNOT_EXECUTE
    try:
        os.setsid()
        _prepare(jobs, output, stacks)
        _rehearse()
        line = b""
        while not line.endswith(b"\n"):
            data = os.read(jobs, _READ)
            if not data:
                os._exit(CANNOT_EXECUTE)
            line += data
        os.close(jobs)
        job = _decoder.decode(line)
        status = _run_python(job, compiler, stacks)
    except BaseException as error:
        _say(f"cannot start the script: {error!r}")
    finally:
        os._exit(status)


def _prepare(jobs: int, output: int, stacks: int) -> None:
    """Standard descriptors, nothing else open but ``jobs`` and ``stacks``, default signals.

    All other set-up is done before the fork (:func:`become_parent`): every page that is written to here is copied.
    """
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    first = 3
    for keep in sorted((jobs, stacks)):
        os.closerange(first, keep)
        first = keep + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))
    for number in _RUNNER_ALONE:
        signal.signal(number, signal.SIG_DFL)


def _rehearse() -> None:
    """Run an empty script. The memory that this touches is copied from the runner's now and not during an event."""
    job = _decoder.decode(_REHEARSAL)
    environment = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    finish(call_event(_EMPTY, job.path, job.event, job.arguments))


def _run_python(job: Job, compiler: Compiler, stacks: int) -> int:
    def tell(reason: str) -> None:
        with contextlib.suppress(OSError):  # the script closed everything: its output must suffice
            os.pwrite(stacks, REASON + reason.encode("utf-8", "backslashreplace") + b"\n", 0)

    try:
        code = compiler(job.path)
    except SyntaxError as error:
        _say(f"{job.path}, line {error.lineno}: {error.msg}")
        tell(reason_of_exception(error, job.path))
        return CANNOT_EXECUTE
    except (OSError, ValueError) as error:
        _say(f"cannot read {job.path}: {error}")
        return CANNOT_EXECUTE
    gc.enable()
    os.environ.clear()
    os.environ.update(job.environment)
    return finish(call_event(code, job.path, job.event, job.arguments, tell))


def _say(text: str) -> None:
    os.write(2, text.encode("utf-8", "backslashreplace") + b"\n")
