"""The agent's end of the runner: starts the process, talks to it, notices its death.

Rules of this file: it knows the runner's protocol (:mod:`locum.events.runner`) and nothing of directories. It never
starts a second runner before the first has ended.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from locum.events.directory import Script
from locum.events.model import ScriptResult

#: A runner that says nothing for this long after it should have is stopped or stuck, seconds.
GRACE = 15.0
#: How long a runner may take to begin: it may have to wait for an earlier one and for processes to die, seconds.
START_LIMIT = 30.0
#: How long a runner whose socket was closed may take to kill its script and exit, seconds.
STOP_LIMIT = 7.0

_MAIN = Path(__file__).with_name("runner_main.py")


class Message(msgspec.Struct):
    """Any message of the runner."""

    run: int = 0
    result: ScriptResult | None = None
    startup: ScriptResult | None = None
    done: bool = False
    ready: str | msgspec.UnsetType | None = msgspec.UNSET
    refused: str | None = None


_decoder = msgspec.json.Decoder(Message)


class Run:
    """One run of an event that was handed to the runner.

    ``finished`` gets None when the runner is through, or the reason why it could not be.
    """

    def __init__(self, number: int, finished: asyncio.Future[str | None], timeout: float) -> None:
        self.number = number
        self.finished = finished
        self.timeout = timeout
        self.results: list[ScriptResult] = []
        #: Of those scripts that get a startup first.
        self.startups: list[ScriptResult] = []


class RunnerLink(asyncio.Protocol):
    """One runner process. Create it with :meth:`start`; it is of no more use once ``ended`` is set."""

    def __init__(self, on_end: Callable[[RunnerLink], None]) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._on_end = on_end
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
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
        """Start the process; ``ready`` tells when it is. Raises OSError."""
        ours, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(  # noqa: ASYNC220 a vfork, under a millisecond
                [sys.executable, "-I", "-S", "-X", "utf8", str(_MAIN), str(theirs.fileno()), runtime, str(os.getpid())],
                env={**environment, "LOCUM_RUNNER_PATH": ":".join(path for path in sys.path if path)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                cwd="/",
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        await self._loop.create_unix_connection(lambda: self, sock=ours)
        self._watch(START_LIMIT)

    def submit(
        self,
        scripts: Sequence[tuple[Script, Mapping[str, str]]],
        event: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        timeout: float,
        startups: Mapping[str, float],
    ) -> Run:
        """Have ``scripts`` run, each with its part of the environment. There must be no run under way.

        ``startups``: names of scripts that get the event ``startup`` first, and their time limits for it.
        """
        assert self._run is None
        assert self._transport is not None
        self._counter += 1
        run = Run(self._counter, self._loop.create_future(), max([timeout, *startups.values()]))
        request = {
            "run": run.number,
            "event": event,
            "arguments": list(arguments),
            "timeout": timeout,
            "startups": startups,
            "environment": environment,
            "scripts": [
                {"name": script.name, "path": script.path, "python": script.kind == "python", "environment": own}
                for script, own in scripts
            ],
        }
        self._transport.write(msgspec.json.encode(request) + b"\n")
        self._run = run
        self._watch(timeout + GRACE)
        return run

    def cancel(self, run: Run) -> None:
        """Have the script of ``run`` killed; ``run.finished`` follows."""
        if self._run is run and self._transport is not None and not self.closed:
            self._transport.write(msgspec.json.encode({"cancel": run.number}) + b"\n")
            self._watch(GRACE)

    async def end(self) -> None:
        """Close the socket, wait until the process has ended, kill it if it does not."""
        if self._transport is not None:
            self._transport.close()
        if self._process is None:
            return
        ended: asyncio.Future[None] = self._loop.create_future()
        try:
            handle = os.pidfd_open(self._process.pid)
        except OSError:
            handle = -1
        if handle >= 0:
            self._loop.add_reader(handle, ended.cancel)
            try:
                await asyncio.wait([ended], timeout=STOP_LIMIT)
            finally:
                self._loop.remove_reader(handle)
                os.close(handle)
                if self._process.poll() is None:
                    self._process.kill()
        self._process.wait()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is set up."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take messages; each shows that the runner lives."""
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = bytearray(rest)
        for line in lines:
            self._take(_decoder.decode(line))

    def connection_lost(self, _exc: Exception | None) -> None:
        """The runner is gone, or we closed the socket."""
        self.closed = True
        self._unwatch()
        self.end_reason = reason = self._reason()
        if not self.ready.done():
            self.ready.set_result(reason)
        self._finish(reason)
        self._on_end(self)

    # internals

    def _take(self, message: Message) -> None:
        if message.ready is not msgspec.UNSET or message.refused is not None:
            self._unwatch()
            if not self.ready.done():
                self.had_to_end = message.ready if isinstance(message.ready, str) else None
                self.ready.set_result(message.refused)
        elif self._run is not None and message.run == self._run.number:
            if message.startup is not None:
                self._run.startups.append(message.startup)
                self._watch(self._run.timeout + GRACE)
            if message.result is not None:
                self._run.results.append(message.result)
                self._watch(self._run.timeout + GRACE)
            if message.done:
                self._unwatch()
                self._finish(None)

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
        """The runner should have spoken: it is stopped, or the machine is. The next one ends what this one left."""
        self._cause = f"the event runner (process {self.pid}) gave no sign of life for {seconds:g} s and was killed"
        if self._process is not None:
            self._process.kill()

    def _reason(self) -> str:
        if self._cause or self._process is None:
            return self._cause or "the event runner was not started"
        try:
            status = self._process.wait(0.2)  # its socket closed: it is ending, or has ended
        except subprocess.TimeoutExpired:
            return f"the event runner (process {self.pid}) closed its socket"
        if status < 0:
            return f"the event runner (process {self.pid}) was ended by {signal.Signals(-status).name}"
        return f"the event runner (process {self.pid}) exited with status {status}"
