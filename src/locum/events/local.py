"""Runs an event over a directory in this process, without a daemon: ``locum event run --dir``.

Rules of this file: the scripts run exactly as they do under the daemon (the same order, environment, time-outs,
sessions); only the asyncio side is left out. No asyncio, so that a command starts fast.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from locum.config.tunables import Tunables
from locum.errors import LocumError, PermissionRequired, UsageError
from locum.events.decisions import decide
from locum.events.directory import ScriptDirectory
from locum.events.environment import environments
from locum.events.model import Event, EventResult
from locum.events.runner.results import ScriptResult
from locum.events.runner.run_lock import RunLock
from locum.events.runner.run_script import Interruption, ScriptRunner
from locum.events.status import StatusBook
from locum.folder import foreign_control, private_folder

#: Longest wait for another run over the same directory, seconds.
PATIENCE = 3.0

#: Variables of the caller's environment that scripts get, in place of the daemon's.
PASSED_ON = ("LOCUM_NODE", "LOCUM_INTERFACES", "LOCUM_ADDRESSES", "LOCUM_LIFETIME", "LOCUM_DEADLINE")


def default_runtime(directory: str) -> str:
    """The private directory of this user for runs over ``directory`` without a daemon."""
    if os.geteuid() == 0 and os.path.isdir("/run"):
        base = "/run/locum-event"
    elif os.environ.get("XDG_RUNTIME_DIR"):
        base = os.path.join(os.environ["XDG_RUNTIME_DIR"], "locum-event")
    else:
        base = os.path.join(tempfile.gettempdir(), f"locum-event-{os.geteuid()}")
    try:
        private_folder(base)
    except OSError as error:
        raise LocumError(
            f"{base} cannot be a directory that only you can use: {error.strerror}; give --runtime DIR"
        ) from None
    return os.path.join(base, os.path.realpath(directory).strip("/").replace("-", "--").replace("/", "-") or "root")


def run_directory(
    directory: str,
    event: Event,
    arguments: Sequence[str],
    *,
    tunables: Tunables,
    runtime: str,
    state: str,
    settings: Mapping[str, Mapping[str, object]],
    environment: Mapping[str, str],
    on_result: Callable[[ScriptResult], None],
) -> EventResult:
    """Run ``event`` over ``directory``; ``on_result`` is called as soon as a script has ended.

    ``tunables`` have the time limits. SIGINT and SIGTERM kill the script that runs and end the event as
    cancelled. Raises :class:`locum.errors.ScriptDirectoryError`, :class:`LocumError` when another run uses
    ``runtime``.
    """
    scripts = ScriptDirectory(directory).load()
    plan = decide(event, arguments, scripts, None)
    started, begin = time.time(), time.monotonic()
    jobs = plan.jobs(tunables, environments(runtime, state, settings, environment))
    results: list[ScriptResult] = []
    with _runner(runtime, state) as runner, _signals() as interruption:
        for result in plan.results(runner.run_in_order(jobs, interruption)):
            results.append(result)
            on_result(result)
        whole = EventResult(event, plan.arguments, started, time.monotonic() - begin, tuple(results))
        book = StatusBook(runtime)
        book.read()
        book.add(whole, [script.name for script in scripts])
        book.write(whole.event)
    return whole


@contextmanager
def _runner(runtime: str, state: str) -> Iterator[ScriptRunner]:
    for place in (runtime, state):
        if reason := foreign_control(place):
            raise UsageError(f"{place}: {reason}; give directories that only you and root can change")
    try:
        os.makedirs(os.path.join(runtime, "listen"), exist_ok=True)
        os.makedirs(os.path.join(state, "scripts"), exist_ok=True)
        run_lock = RunLock(runtime, os.getpid(), PATIENCE)
    except PermissionError as error:
        raise PermissionRequired(f"{error.filename}: no permission to write there: give --runtime DIR") from None
    except OSError as error:
        raise LocumError(f"{error.filename}: cannot be created: {error.strerror}") from None
    try:
        run_lock.end_earlier()
        runner = ScriptRunner(run_lock)
        try:
            yield runner
        finally:
            runner.close()
    finally:
        run_lock.close()


@contextmanager
def _signals() -> Iterator[Interruption]:
    """SIGINT and SIGTERM interrupt the script instead of us."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    old = signal.set_wakeup_fd(writing)
    try:
        yield Interruption(reading, lambda: True)
    finally:
        signal.set_wakeup_fd(old)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)
