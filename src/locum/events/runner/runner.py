"""The runner: a small process, started by the agent, that runs the scripts of one event after the other.

Rules of this file: one thread, no asyncio, few imports; it stays as small as possible, because it is
forked for every Python script and because a small process starts fast. It decides nothing: the engine
(:mod:`locum.events.engine`) selects the scripts and interprets failures.

The protocol is in :mod:`locum.events.runner.protocol`.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
from collections import deque

from locum import escape
from locum.errors import LocumError
from locum.events.runner.protocol import Answer, Cancel, Greeting, Lines, Request, encode
from locum.events.runner.run_lock import RunLock
from locum.events.runner.run_script import Interruption, ScriptRunner
from locum.events.runner.spawn import IGNORED_BY_RUNNER

#: Modules that scripts are likely to need, imported once here instead of in every run.
PRELOADED = (
    "locum.script",
    "socket",
    "subprocess",
    "locum.machine.addresses",
    "locum.machine.links",
    "locum.machine.announcements",
)


class Control:
    """The runner's end of the socket to the agent."""

    def __init__(self, descriptor: int) -> None:
        # Inherited by this runner; a script must not, or it would hide the runner's death.
        os.set_inheritable(descriptor, False)
        self.descriptor = descriptor
        #: The agent has closed its end, or is dead.
        self.closed = False
        self._lines: Lines[Request | Cancel] = Lines(Request | Cancel)
        self._messages: deque[Request | Cancel] = deque()

    def send(self, message: Greeting | Answer) -> None:
        """Write one message; nothing happens when the agent is gone."""
        data = memoryview(encode(message))
        try:
            while data:
                data = data[os.write(self.descriptor, data) :]
        except (BrokenPipeError, ConnectionResetError):
            self.closed = True

    def receive(self) -> Request | None:
        """Wait for the next request; None at the end. A cancel that comes after the end of its run is void."""
        while not self.closed:
            while self._messages:
                if isinstance(message := self._messages.popleft(), Request):
                    return message
            self._fill()
        return None

    def is_quiet(self) -> bool:
        """Whether no message waits."""
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        return not self._messages and not poll.poll(0)

    def cancels(self, run: int) -> bool:
        """Whether the agent cancels ``run``, or is gone; there is something to read."""
        self._fill()
        cancelled = Cancel(run) in self._messages
        self._messages = deque(message for message in self._messages if message != Cancel(run))
        return self.closed or cancelled

    def _fill(self) -> None:
        """Read available data, at least one byte."""
        try:
            data = os.read(self.descriptor, 1 << 18)
        except ConnectionResetError:
            data = b""
        self.closed = not data
        self._messages.extend(self._lines.feed(data))


def serve(descriptor: int, runtime: str, agent: int) -> int:
    """Run scripts for the agent at the other end of the socket until it goes. Returns the exit status."""
    _settle()
    control = Control(descriptor)
    try:
        run_lock = RunLock(runtime, agent)
        ended = run_lock.end_earlier()
    except (LocumError, OSError) as error:
        control.send(Greeting(refused=str(error)))
        return 1
    runner = ScriptRunner(run_lock)
    control.send(Greeting(ended=ended))
    _preload()
    gc.collect()
    gc.freeze()
    while (request := control.receive()) is not None:
        _carry_out(request, runner, control)
        runner.prepare(control.is_quiet)
    runner.close()
    run_lock.close()
    return 0


def _carry_out(request: Request, runner: ScriptRunner, control: Control) -> None:
    """Answer ``request``; an agent that is gone needs no further script."""
    interruption = Interruption(control.descriptor, lambda: control.cancels(request.run))
    for number, result in enumerate(runner.run_in_order(request.jobs, interruption), 1):
        last = result.outcome.ends_event or number == len(request.jobs)
        control.send(Answer(request.run, result, last))
        if control.closed:
            return


def _settle() -> None:
    """Reset the agent's settings: its signals do not concern the runner, its priority does not apply to scripts."""
    for number in signal.valid_signals() - {*IGNORED_BY_RUNNER}:
        # Scripts must not inherit signals that nohup, or a shell with the daemon in the background, ignores.
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # systemd and terminals signal everything at once; scripts of the event shutdown run after that. The end of
        # the agent is what ends us.
        signal.signal(number, signal.SIG_IGN)
    try:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        if os.getpriority(os.PRIO_PROCESS, 0) < 0:
            os.setpriority(os.PRIO_PROCESS, 0, 0)
    except OSError:
        pass
    gc.disable()


def _preload() -> None:
    """Import the modules that scripts will import. The agent has its answer already, so no request waits for this."""
    import importlib  # noqa: PLC0415

    for name in PRELOADED:
        try:
            importlib.import_module(name)
        except Exception as error:
            print(f"locum: cannot preload {name}: {escape.paragraph(str(error))}", file=sys.stderr)
