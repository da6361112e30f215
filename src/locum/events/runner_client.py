"""The agent's end of the runner: starts the process, talks to it, notices its death.

Rules of this file: it knows the runner's protocol (:mod:`locum.events.runner.protocol`), but no directories. It never
starts a second runner before the first has ended.

Nothing here blocks the event loop: a thread executes the runner's program (its file system may hang), a descriptor
reports its end, and a pipe carries its standard error, so that the runner never waits for the reader of the daemon's
log.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from locum import tasks
from locum.events.runner.protocol import Answer, Cancel, Greeting, Job, Lines, Request, encode
from locum.events.runner.results import ScriptResult
from locum.threads import Worker

#: A runner without an expected message for this long is stopped or stuck, seconds.
ANSWER_MARGIN = 15.0
#: How long a runner may take to begin: it may have to wait for an earlier one and for processes to die, seconds.
START_LIMIT = 30.0
#: How long a runner whose socket was closed may take to kill its script and exit, seconds.
STOP_LIMIT = 7.0
#: Longest wait for the end of a runner that was killed, or whose socket has closed, seconds.
KILL_LIMIT, REASON_LIMIT = 2.0, 0.2
#: Bytes of one line on its standard error.
_LONGEST_LINE = 4096

_OPTIONS = ("-I", "-S", "-X", "utf8")
_MAIN = Path(__file__).with_name("runner") / "entry.py"


class Run:
    """One run of an event that was handed to the runner.

    ``answers``: the results of its jobs so far. ``finished`` gets None when the runner has finished, or the reason why
    it could not finish.
    """

    def __init__(self, request: Request, finished: asyncio.Future[str | None]) -> None:
        self.request = request
        self.finished = finished
        self.answers: list[ScriptResult] = []

    @property
    def limit(self) -> float:
        """How long the job that runs now may take, seconds."""
        return self.request.jobs[len(self.answers)].limit


class RunnerClient(asyncio.Protocol):
    """One runner process. Create it with :meth:`start`; it is unusable once ``ended`` is set."""

    def __init__(
        self, on_end: Callable[[RunnerClient], None], log: Callable[[str, str], None] = lambda _text, _level: None
    ) -> None:
        """``on_end`` is called when it has ended; ``log`` takes its lines on standard error, and a level."""
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._on_end = on_end
        self._log = log
        self._conclusion: asyncio.Task[None] | None = None
        self._lines: Lines[Greeting | Answer] = Lines(Greeting | Answer)
        self._transport: asyncio.Transport | None = None
        self._spawning: asyncio.Future[subprocess.Popen[bytes]] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._run: Run | None = None
        self._counter = 0
        self._cause = ""
        #: None when it is ready, else the reason why it will never be.
        self.ready: asyncio.Future[str | None] = loop.create_future()
        #: Set when its socket has closed: it is dead or dying.
        self.closed = False
        #: Why its socket has closed.
        self.end_reason = ""
        #: The script of an earlier runner that it had to end before it could begin.
        self.had_to_end: str | None = None

    @property
    def pid(self) -> int:
        """The runner's process number, 0 before it is started."""
        return self._process.pid if self._process is not None else 0

    async def start(self, runtime: str, environment: Mapping[str, str]) -> None:
        """Start the process; ``ready`` tells when it is. Raises OSError, NoAnswer.

        When the awaiting task is cancelled, :meth:`end` ends a process that has been started, or still is. One that is
        executed after NoAnswer finds its socket closed and ends by itself.
        """
        ours, theirs = socket.socketpair()
        said, stderr = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(stderr, True)

        def spawn() -> subprocess.Popen[bytes]:
            try:
                return subprocess.Popen(
                    [sys.executable, *_OPTIONS, str(_MAIN), str(theirs.fileno()), runtime, str(os.getpid())],
                    env={**environment, "LOCUM_RUNNER_PATH": ":".join(path for path in sys.path if path)},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                    cwd="/",
                )
            finally:
                theirs.close()
                os.close(stderr)

        self._spawning = asyncio.ensure_future(_spawner.run("starting the event runner", START_LIMIT, spawn))
        try:
            self._process = await asyncio.shield(self._spawning)
        except BaseException:
            ours.close()
            os.close(said)
            raise
        ours.setblocking(False)
        await self._loop.connect_read_pipe(lambda: _Remarks(self._log), os.fdopen(said, "rb", buffering=0))
        await self._loop.create_unix_connection(lambda: self, sock=ours)
        self._watch(START_LIMIT)

    def submit(self, jobs: tuple[Job, ...]) -> Run:
        """Run ``jobs``. No other run may be under way."""
        assert self._run is None
        assert self._transport is not None
        self._counter += 1
        run = self._run = Run(Request(self._counter, jobs), self._loop.create_future())
        self._transport.write(encode(run.request))
        self._watch(run.limit + ANSWER_MARGIN)
        return run

    def cancel(self, run: Run) -> None:
        """Kill the script of ``run``; ``run.finished`` follows."""
        if self._run is run and self._transport is not None and not self.closed:
            self._transport.write(encode(Cancel(run.request.run)))
            self._watch(ANSWER_MARGIN)

    async def end(self) -> None:
        """Close the socket, wait until the process has ended, kill it if it does not. One that cannot be killed, in
        uninterruptible sleep, is left alone: the next runner starts no script before it has gone."""
        if self._transport is not None:
            self._transport.close()
        if self._process is None and self._spawning is not None:
            await asyncio.wait([self._spawning], timeout=STOP_LIMIT)
            if self._spawning.done() and self._spawning.exception() is None:
                self._process = self._spawning.result()
        if self._process is not None and not await self._ended(STOP_LIMIT):
            self._process.kill()
            if not await self._ended(KILL_LIMIT):
                self._log(f"the event runner (process {self.pid}) cannot be ended: the kernel keeps it", "error")
        if self._conclusion is not None:
            await asyncio.wait([self._conclusion])

    async def _ended(self, limit: float) -> bool:
        """Whether the process has ended within ``limit`` seconds; it is reaped then."""
        assert self._process is not None
        if self._process.poll() is not None:
            return True
        try:
            handle = os.pidfd_open(self._process.pid)
        except OSError:  # no descriptor is free; or it has just ended
            await asyncio.sleep(0.05)
            return self._process.poll() is not None
        ended: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(handle, ended.cancel)
        try:
            await asyncio.wait([ended], timeout=limit)
        finally:
            self._loop.remove_reader(handle)
            os.close(handle)
        return self._process.poll() is not None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is set up."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take messages; each shows that the runner lives."""
        for message in self._lines.feed(data):
            self._take(message)

    def connection_lost(self, _exc: Exception | None) -> None:
        """The runner is gone, or we closed the socket."""
        self.closed = True
        self._unwatch()
        self._conclusion = tasks.start(self._conclude(), "finding out why the event runner ended")

    # internals

    async def _conclude(self) -> None:
        """Its socket has closed: say why, once it has ended or after a moment."""
        if self._process is not None and not self._cause:
            await self._ended(REASON_LIMIT)
        self.end_reason = reason = self._reason()
        if not self.ready.done():
            self.ready.set_result(reason)
        self._finish(reason)
        self._on_end(self)

    def _take(self, message: Greeting | Answer) -> None:
        if isinstance(message, Greeting):
            self._unwatch()
            if not self.ready.done():
                self.had_to_end = message.ended
                self.ready.set_result(message.refused)
        elif self._run is not None and message.run == self._run.request.run:
            self._run.answers.append(message.result)
            if message.last:
                self._unwatch()
                self._finish(None)
            else:
                self._watch(self._run.limit + ANSWER_MARGIN)

    def _finish(self, reason: str | None) -> None:
        run, self._run = self._run, None
        if run is not None and not run.finished.done():
            run.finished.set_result(reason)

    def _watch(self, seconds: float) -> None:
        self._unwatch()
        self._watchdog = self._loop.call_later(seconds, self._silent, seconds)

    def _unwatch(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def _silent(self, seconds: float) -> None:
        """The runner is overdue: it is stopped, or the machine is. The next runner ends the leftovers of this one."""
        self._cause = f"the event runner (process {self.pid}) gave no sign of life for {seconds:g} s and was killed"
        if self._process is not None:
            self._process.kill()

    def _reason(self) -> str:
        if self._cause or self._process is None:
            return self._cause or "the event runner was not started"
        status = self._process.returncode
        if status is None:
            return f"the event runner (process {self.pid}) closed its socket"
        if status < 0:
            return f"the event runner (process {self.pid}) was ended by {signal.Signals(-status).name}"
        return f"the event runner (process {self.pid}) exited with status {status}"


class _Remarks(asyncio.Protocol):
    """The runner's standard error, line by line."""

    def __init__(self, log: Callable[[str, str], None]) -> None:
        self._log = log
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        """Log whole lines, and parts that are too long for a line."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            self._log(f"event runner: {line[:_LONGEST_LINE].decode('utf-8', 'replace')}", "error")

    def connection_lost(self, _exc: Exception | None) -> None:
        """Log the rest without an end of line."""
        if self._rest:
            self.data_received(b"\n")


#: Two, so that a start that hangs does not block the next attempt.
_spawner = Worker("spawner", threads=2, room=2)
