"""Runs one script: fork, watch, time-out, end, output. Used by the runner and by ``locum event run --dir``.

Rules of this file: one script at a time and nothing asynchronous, so that it can be read from top to bottom. It knows
neither directories nor events' meaning. Only light imports: the runner should stay small.

A script has ended when its process has. Processes that it left running in its session stay when it ended by itself;
when it was killed, timed out or was cancelled, its whole session is killed. Daemons (with a session of their own) are
left alone in any case. Processes that still hold the script's output may continue to write there: a cat(1) reads it,
so that a service does not die of SIGPIPE at its first message.
"""

from __future__ import annotations

import math
import os
import select
import signal
import time
import types
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from locum.events.runner.capture import Capture
from locum.events.runner.child import REASON, STACK_SIGNAL, Child, become_parent
from locum.events.runner.dump import clip, dump_session
from locum.events.runner.last_words import last_words
from locum.events.runner.protocol import Job
from locum.events.runner.python_script import compile_script
from locum.events.runner.reason import first_line, reason_of_output
from locum.events.runner.results import CANNOT_EXECUTE, TIMED_OUT, Outcome, ScriptResult
from locum.events.runner.run_lock import RunLock
from locum.events.runner.spawn import CannotStart, Spawned
from locum.processes import kill_session, process

_CHUNK = 65536
#: Maximum length that is read after a script's end: more than a pipe holds, so that a writer cannot delay the runner.
_REST = 1 << 20
#: How long what a script leaves behind may take to let go of its output ("service >/dev/null &" has just forked),
#: milliseconds.
_LET_GO = 50
#: The most children that are forked ahead; each has 2 MB of its own.
_SPARES = 3
#: How long a Python script may take to write its stack, seconds.
_STACK_LIMIT = 0.5


class Interruption(NamedTuple):
    """Interruption of a script: a descriptor to watch, and a function that decides to stop when it is readable."""

    descriptor: int
    stop: Callable[[], bool]


class ScriptRunner:
    """Runs scripts, one at a time, under a :class:`RunLock`.

    The process with such an object changes its working directory, its umask and the buffering of its output: scripts
    inherit them.
    """

    def __init__(self, run_lock: RunLock) -> None:
        self._run_lock = run_lock
        self._stacks = os.memfd_create("stacks")
        self._compiled: dict[str, tuple[tuple[int, ...], types.CodeType]] = {}
        self._spares: list[Child] = []
        self._spares_wanted = 0
        self._python_runs = 0
        self._unreaped: list[int] = []
        self._runs = 0
        os.chdir("/")
        os.umask(0o022)
        become_parent(self._stacks)

    def prepare(self, idle: Callable[[], bool]) -> None:
        """Fork children for the next event, as many as Python scripts ran since the last call: while ``idle`` says that
        no request waits. Forking, and the first steps of a process, are most of the cost of a Python script."""
        self._spares_wanted = max(self._spares_wanted, min(self._python_runs, _SPARES))
        self._python_runs = 0
        while len(self._spares) < self._spares_wanted and idle():
            try:
                self._spares.append(Child(self._code, self._stacks))
            except OSError:
                return  # tried again when there is a script to run, and reported then

    def run_in_order(self, jobs: Sequence[Job], interruption: Interruption | None = None) -> Iterator[ScriptResult]:
        """Run ``jobs``, one when the result of the one before has been taken, up to the first that ends the event."""
        for job in jobs:
            result = self.run(job, interruption)
            yield result
            if result.outcome.ends_event:
                return

    def run(self, job: Job, interruption: Interruption | None = None) -> ScriptResult:
        """Run ``job``, for as long as its limit at most. Returns when its process has ended in any way."""
        self._reap()
        started, begin = time.time(), time.monotonic()

        def ended(outcome: Outcome, status: int, output: str, reason: str | None = None) -> ScriptResult:
            why = first_line(output) if reason is None else reason
            return ScriptResult(job.script, outcome, status, started, time.monotonic() - begin, output, why)

        left = self._run_lock.still_running(job.script)
        if left:
            names = ", ".join(str(pid) for pid in left)
            return ended(Outcome.FAILED, 1, f"not started: process {names} of an earlier run cannot be killed")
        child: Child | Spawned | None = None
        try:
            state = job.environment["LOCUM_SCRIPT_STATE"]
            if not os.path.isdir(state):
                os.makedirs(state)
            child = self._start(job)
            run = _Run(child, job.python, self._stacks)
            outcome, status = run.watch(begin + job.limit, interruption)
            if outcome is Outcome.TIMEOUT:
                run.reason = f"did not end within {job.limit:g} s"
                run.note(f"{run.reason}; killed while it was doing this:")
                run.note_hang()
            if not run.ended_by_itself:
                self._end_session(job, run)
            run.drain()
            drain = run.hand_over()
            self._unreaped += [pid for pid in (drain, child.pid if run.running else None) if pid is not None]
            self._run_lock.ended()
            if outcome is Outcome.OK:
                return ended(outcome, status, run.text(), "")
            # A monitor that failed may have started its service again already.
            words = last_words(job.script, job.environment, started if job.event == "monitor" else math.inf)
            for one in words:
                run.note(one.note)
            return ended(outcome, status, run.text(), "; ".join(filter(None, [run.why(), *(w.reason for w in words)])))
        except CannotStart as error:
            return ended(Outcome.FAILED, error.status, str(error))
        except BaseException as error:
            if child is not None:
                kill_session(child.pid)
                self._unreaped.append(child.pid)
            if not isinstance(error, OSError | UnicodeError):
                raise
            return ended(Outcome.FAILED, CANNOT_EXECUTE, f"cannot run {job.path}: {error}")
        finally:
            if child is not None:
                child.close()

    def close(self) -> None:
        """End the spare children."""
        for spare in self._spares:
            spare.close()
            self._unreaped.append(spare.pid)
        self._spares.clear()
        os.close(self._stacks)

    def _start(self, job: Job) -> Child | Spawned:
        """Start ``job``. It is on file before its first instruction: a Python script under its process number, an
        executable, which runs when we learn that number, under a token in its environment until then."""
        if not job.python:
            self._runs += 1
            token = f"{os.getpid()}.{self._runs}"
            self._run_lock.starting(job.script, job.event, token, job.command)
            spawned = Spawned(job, token)
            self._run_lock.begun(job.script, job.event, spawned.pid)
            return spawned
        self._python_runs += 1
        os.ftruncate(self._stacks, 0)
        child = self._python_child()
        self._run_lock.begun(job.script, job.event, child.pid)
        child.start(job)
        try:
            self._code(job.path)  # for the children to come; this one may have been forked before
        except (OSError, SyntaxError, ValueError):
            pass  # the child says so
        return child

    def _python_child(self) -> Child:
        """A waiting child that has not been killed, or a new one."""
        while self._spares:
            spare = self._spares.pop(0)
            if spare.is_waiting():
                return spare
            spare.close()
            self._unreaped.append(spare.pid)
        return Child(self._code, self._stacks)

    def _end_session(self, job: Job, run: _Run) -> None:
        left = kill_session(run.pid)
        if left:
            self._run_lock.stuck(job.script, [(one.pid, one.start) for one in left])
            names = ", ".join(f"{one.pid} ({one.name}, state {one.state})" for one in left)
            run.note(f"these processes cannot be killed: {names}")
        run.reap()

    def _code(self, path: str) -> types.CodeType:
        status = os.stat(path)
        signature = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
        known = self._compiled.get(path)
        if known is None or known[0] != signature:
            known = self._compiled[path] = (signature, compile_script(path))
        return known[1]

    def _reap(self) -> None:
        """Collect processes that ended since: drains, and processes that could not be killed then."""
        self._unreaped = [pid for pid in self._unreaped if _still_runs(pid)]


class _Run:
    """A child from the start of its job to its end."""

    def __init__(self, child: Child | Spawned, python: bool, stacks: int) -> None:
        self.pid = child.pid
        self.running = True
        self.ended_by_itself = False
        self._python = python
        self._handle = child.handle
        self._output = child.output
        self._stacks = stacks
        self._capture = Capture()
        self._notes: list[str] = []
        #: Why it failed, when the runner knows.
        self.reason = ""

    def watch(self, deadline: float, interruption: Interruption | None) -> tuple[Outcome, int]:
        """Collect output until the process ends, ``deadline`` (monotonic) passes or an interruption stops it."""
        poll = select.poll()
        poll.register(self._output, select.POLLIN)
        poll.register(self._handle, select.POLLIN)
        if interruption is not None:
            poll.register(interruption.descriptor, select.POLLIN)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return Outcome.TIMEOUT, TIMED_OUT
            ready = {descriptor for descriptor, _ in poll.poll(math.ceil(left * 1000))}
            if interruption is not None and interruption.descriptor in ready and interruption.stop():
                return Outcome.CANCELLED, 128 + signal.SIGKILL
            if self._output in ready and not self._read():
                poll.unregister(self._output)
            if self._handle in ready:
                return self._outcome(self.reap())

    def reap(self) -> int:
        """Take the exit status if the process has ended; 0 while it has not."""
        if not self.running:
            return 0
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            return 0
        self.running = False
        return os.waitstatus_to_exitcode(status)

    def note(self, text: str) -> None:
        """Add a remark of the runner after the script's output."""
        self._notes.append(f"[{text}]" if "\n" not in text else text)

    def note_hang(self) -> None:
        """Add the process tree, and for a Python script its stack."""
        self._notes.append(dump_session(self.pid))
        stack = self._python_stack() if self._python else ""
        if stack:
            self._notes.append(f"Python stack of {self.pid}:\n{clip(stack)}")

    def drain(self) -> None:
        """Read the rest in the pipe, but not later output of a surviving process."""
        limit = self._capture.size + _REST
        while self._capture.size < limit and self._read():
            pass

    def hand_over(self) -> int | None:
        """Let a cat(1) read later output of surviving processes, if there are any. Returns its process number."""
        poll = select.poll()
        poll.register(self._output, 0)
        if any(flags & select.POLLHUP for _, flags in poll.poll(_LET_GO)):
            return None
        self.note("a process that it started still holds its output: redirect the output of services")
        try:
            pid = os.fork()
        except OSError:
            return None
        if pid == 0:
            _become_drain(self._output)
        return pid

    def why(self) -> str:
        """Why it failed: from the runner, from a Python script's report, or from its output."""
        if self.reason:
            return self.reason
        told = os.pread(self._stacks, _CHUNK, 0) if self._python else b""
        if told.startswith(REASON) and told.endswith(b"\n"):
            return told[len(REASON) : -1].decode("utf-8", "replace")
        return reason_of_output(self._capture.text())

    def text(self) -> str:
        """Output and notes."""
        output = self._capture.text()
        if self._notes and output and not output.endswith("\n"):
            output += "\n"
        return output + "".join(f"{note}\n" for note in self._notes)

    def _outcome(self, code: int) -> tuple[Outcome, int]:
        self.ended_by_itself = code >= 0
        if code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:
                name = f"signal {-code}"
            self.note(f"ended by {name}")
            self.reason = f"ended by {name}"
            return Outcome.FAILED, 128 - code
        return (Outcome.OK if code == 0 else Outcome.FAILED), code

    def _read(self) -> bool:
        """Read once. Returns False at the end of the output, and when there is none now."""
        try:
            data = os.read(self._output, _CHUNK)
        except BlockingIOError:
            return False
        self._capture.add(data)
        return data != b""

    def _python_stack(self) -> str:
        """Ask the script for its stack; it writes into a file of the runner, independent of its output."""
        found = process(self.pid)
        if found is None or found.dead or found.state in ("T", "t"):
            return ""
        os.ftruncate(self._stacks, 0)
        os.lseek(self._stacks, 0, os.SEEK_SET)
        try:
            signal.pidfd_send_signal(self._handle, STACK_SIGNAL)
        except OSError:
            return ""
        deadline = time.monotonic() + _STACK_LIMIT
        size = 0
        while time.monotonic() < deadline:
            time.sleep(0.02)
            now = os.fstat(self._stacks).st_size
            if now and now == size:
                break
            size = now
        return os.pread(self._stacks, 1 << 16, 0).decode("utf-8", "replace").rstrip("\n")


def _still_runs(child: int) -> bool:
    try:
        return os.waitpid(child, os.WNOHANG) == (0, 0)
    except ChildProcessError:
        return False


def _become_drain(descriptor: int) -> None:
    """Replace this process by one that reads ``descriptor`` to its end. Never returns."""
    try:
        os.setsid()
        null = os.open("/dev/null", os.O_RDWR)
        os.set_blocking(descriptor, True)
        os.dup2(descriptor, 0)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        os.execvp("cat", ["cat"])
    finally:
        os._exit(1)
