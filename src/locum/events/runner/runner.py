"""The runner: a small process, started by the agent, that runs the scripts of one event after the other.

Rules of this file: one thread, no asyncio, few imports; it stays as small as possible, because it is
forked for every Python script and because a small process starts fast. It decides nothing: the engine
(:mod:`locum.events.engine`) selects the scripts and interprets failures.

Protocol, JSON lines over a socket pair. The runner begins with ``{"ready": SCRIPT-IT-HAD-TO-END or null}`` or
``{"refused": REASON}``. Then the agent sends::

    {"run": N, "event": E, "arguments": [...], "timeout": SECONDS, "environment": {...},
     "startups": {NAME: SECONDS}, "scripts": [{"name": ..., "path": ..., "python": BOOL, "environment": {...}}, ...]}
    {"cancel": N}

and for each run gets ``{"run": N, "result": {...}}`` for each script that ran, up to the first that fails (I4), and at
last ``{"run": N, "done": true}``. A script in ``startups`` gets the event ``startup`` first: ``{"run": N, "startup":
{...}}``; when that fails, the run is done. When the socket closes, the agent is gone: the runner kills the script
that runs and exits.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import sys
from collections import deque
from typing import Any

from locum import escape
from locum.errors import LocumError
from locum.events.runner.job import IGNORED_BY_RUNNER, Job
from locum.events.runner.run_lock import RunLock
from locum.events.runner.run_script import Interruption, ScriptRunner

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
        os.set_inheritable(
            descriptor, False
        )  # inherited by this runner; a script must not, or it would hide the runner's death
        self.descriptor = descriptor
        #: The agent has closed its end, or is dead.
        self.closed = False
        self._buffer = b""
        self._messages: deque[dict[str, object]] = deque()

    def send(self, message: dict[str, object]) -> None:
        """Write one message; nothing happens when the agent is gone."""
        data = memoryview(json.dumps(message).encode() + b"\n")
        try:
            while data:
                data = data[os.write(self.descriptor, data) :]
        except (BrokenPipeError, ConnectionResetError):
            self.closed = True

    def receive(self) -> dict[str, object] | None:
        """Return the next message; None at the end."""
        while not self._messages and not self.closed:
            self.fill()
        return self._messages.popleft() if self._messages and not self.closed else None

    def is_quiet(self) -> bool:
        """Whether no message waits."""
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        return not self._messages and not poll.poll(0)

    def fill(self) -> None:
        """Read available data, at least one byte."""
        try:
            data = os.read(self.descriptor, 1 << 18)
        except ConnectionResetError:
            data = b""
        if not data:
            self.closed = True
            return
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        self._messages.extend(json.loads(line) for line in lines)

    def take_cancel(self, run: object) -> bool:
        """Whether a request to cancel ``run`` has arrived; it is removed."""
        cancel = {"cancel": run}
        found = cancel in self._messages
        while cancel in self._messages:
            self._messages.remove(cancel)
        return found


def serve(descriptor: int, runtime: str, agent: int) -> int:
    """Run scripts for the agent at the other end of the socket until it goes. Returns the exit status."""
    _settle()
    control = Control(descriptor)
    try:
        record = RunLock(runtime, agent)
        ended = record.end_earlier()
    except (LocumError, OSError) as error:
        control.send({"refused": str(error)})
        return 1
    runner = ScriptRunner(record)
    control.send({"ready": ended})
    _preload()
    gc.collect()
    gc.freeze()
    while (request := control.receive()) is not None:
        if "run" in request:  # a cancel that comes after the end of its run is void
            _run_event(request, runner, control)
            runner.prepare(control.is_quiet)
    runner.close()
    record.close()
    return 0


def _run_event(request: dict[str, object], runner: ScriptRunner, control: Control) -> None:
    run, event, arguments, common = (request[key] for key in ("run", "event", "arguments", "environment"))
    timeout, scripts = request["timeout"], request["scripts"]
    assert isinstance(event, str)
    assert isinstance(arguments, list)
    assert isinstance(common, dict)
    assert isinstance(timeout, int | float)
    assert isinstance(scripts, list)

    def interrupted() -> bool:
        control.fill()
        return control.closed or control.take_cancel(run)

    interruption = Interruption(control.descriptor, interrupted)
    startups = request["startups"]
    assert isinstance(startups, dict)

    def succeeds(script: dict[str, Any], event: str, arguments: list[str], timeout: float, answer: str) -> bool:
        environment = {**common, **script["environment"], "LOCUM_EVENT": event}
        job = Job(
            name=script["name"],
            path=script["path"],
            python=script["python"],
            event=event,
            arguments=arguments,
            environment=environment,
        )
        ended = runner.run(job, timeout, interruption)
        control.send({"run": run, answer: ended.as_dict()})
        return ended.outcome == "ok" and not control.closed

    for script in scripts:
        limit = startups.get(script["name"])
        if limit is not None and not succeeds(script, "startup", [], float(limit), "startup"):
            break
        if not succeeds(script, event, arguments, float(timeout), "result"):
            break
    control.send({"run": run, "done": True})


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
