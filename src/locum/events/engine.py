"""The event engine: runs the scripts of a directory for an event, in order, one event at a time.

Rules of this file: it is the asyncio side and the only way into the event machinery from a daemon. It starts no
script itself: the runner does (:mod:`locum.events.runner.runner`), a process of its own. It knows neither addresses
nor the consequences of an event's failure for a node.

I4, order: scripts run in ascending ``NN.``, one after the other; the first failure ends the event.
I5, no overlap: one event runs at a time, others wait in the order of their requests; and a runner
starts nothing before the script that an earlier runner left has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from locum import tasks
from locum.config.tunables import Tunables
from locum.errors import LocumError, ScriptDirectoryError
from locum.events.decisions import Started, decide, handled, late, parse_event, still_started
from locum.events.directory import ScriptDirectory
from locum.events.environment import common_environment, environments
from locum.events.inside import Inside, inside
from locum.events.model import Event, EventResult, EventStatus
from locum.events.runner.results import Outcome, ScriptResult
from locum.events.runner_client import Run, RunnerClient
from locum.events.script_set import InUse, ScriptSet, describe
from locum.events.spare_descriptors import SpareDescriptors
from locum.events.status import StatusBook
from locum.events.stored import Stored
from locum.threads import NoAnswer, Worker, wait_patiently

Settings = Mapping[str, Mapping[str, object]]

#: Pauses before a runner that died is restarted, seconds; the last one repeats.
_RESTART_PAUSES = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)
#: A run waits this long for a runner, seconds; then it fails.
_RUNNER_LIMIT = 20.0
#: Longest wait of an event, and of a starting daemon, for a scan of the script directory, seconds.
LOOK_LIMIT, START_LIMIT = 2.0, 20.0


class EventEngine:
    """Runs events. Not for use from several event loops."""

    def __init__(
        self,
        directory: Path,
        *,
        runtime: Path,
        state: Path,
        settings: Settings,
        environment: Mapping[str, str],
        tunables: Callable[[], Tunables] = Tunables,
        log: Callable[[str, str], None] = lambda _text, _level: None,
    ) -> None:
        """``directory`` holds the scripts; ``runtime`` is lost at a reboot, ``state`` is not.

        ``settings`` are the configuration tables by script name (``50.web``); ``environment`` is added to what every
        script gets (node, socket and the like). ``tunables`` returns those in force. ``log`` takes a text and a level
        (``warning``, ``error``).
        """
        self._directory = ScriptDirectory(directory.absolute())
        self._runtime = str(runtime.absolute())
        self._state = str(state.absolute())
        self._set = ScriptSet(self._directory, runtime=self._runtime, state=self._state)
        self._started: Started = None
        place = os.path.join(self._runtime, "events", "started.json")
        self._started_file = Stored[frozenset[str]](place, frozenset[str])
        #: The directory's fault, in words; "" without one.
        self.directory_problem = ""
        self._settings: Settings = settings
        self._environment = dict(environment)
        self._tunables = tunables
        self._log = log
        self._turn = asyncio.Lock()
        self._status = StatusBook(self._runtime)
        # One for each thread that may need it.
        self._reserve, self._book_reserve = SpareDescriptors(), SpareDescriptors()
        self._looker, self._books = Worker("script directory"), Worker("runtime directory")
        self._looking: asyncio.Future[InUse] | None = None
        self._hangs = False
        self._in_use = InUse()
        self._link: RunnerClient | None = None
        #: A runner that has been started and is not in use yet.
        self._coming: RunnerClient | None = None
        self._restart: asyncio.Task[None] | None = None
        self._link_changed = asyncio.Event()
        self._failures = 0
        self._stopping = False
        self._current: Run | None = None
        self._event = Event.INIT

    async def start(self) -> None:
        """Check the directory, create what is missing, start the runner and wait until it is ready.

        A script that an earlier daemon left running is ended by then. Raises :class:`ScriptDirectoryError` with
        every fault unless an earlier agent of this daemon found a directory without any, :class:`LocumError` when
        the runner cannot work (runtime directory in use, or not writable).
        """
        await self._books.run("preparing the runtime directory", START_LIMIT, self._prepare)
        in_use = await self._look(LOOK_LIMIT if self._set.established else START_LIMIT)
        if in_use.refused:
            raise ScriptDirectoryError(self._directory.path, in_use.faults)
        link = await self._start_link()
        reason = await link.ready
        if reason is not None:
            self._stopping = True
            await link.end()
            raise LocumError(reason)
        self._begin_with(link)

    def _prepare(self) -> None:
        self._status.read()
        self._set.adopt()
        self._started = self._started_file.read()
        try:
            os.makedirs(os.path.join(self._runtime, "listen"), exist_ok=True)
            os.makedirs(os.path.join(self._state, "scripts"), exist_ok=True)
        except OSError as error:
            raise LocumError(f"{error.filename}: cannot be created: {error.strerror}") from None

    async def stop(self) -> None:
        """Kill the script that runs, if any (its run ends as cancelled), and end the runner. Idempotent."""
        self._stopping = True
        if self._restart is not None:
            self._restart.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._restart
        link, run = self._link, self._current
        if link is not None:
            if run is not None:
                link.cancel(run)
                await asyncio.wait([run.finished])
            await link.end()
        if self._coming is not None:
            await self._coming.end()
        self._set_link(None)
        if self._looking is not None:
            self._looking.cancel()
        with contextlib.suppress(NoAnswer):  # the last results are to be on file
            await self._books.run("writing down results", 1.0, int)
        self._looker.close()
        self._books.close()
        self._reserve.close()
        self._book_reserve.close()

    def configure(self, settings: Settings, environment: Mapping[str, str]) -> None:
        """Use these settings and this environment from the next event on."""
        self._settings = settings
        self._environment = dict(environment)

    async def run(
        self,
        event: Event,
        arguments: Sequence[str] = (),
        *,
        environment: Callable[[], Mapping[str, str]] = dict,
    ) -> EventResult:
        """Run ``event``; wait for its turn first. ``environment`` is asked for what scripts get beside what they always
        get, once they are about to start.

        Always returns a result: a runner that died is a failure with the reason. A directory that became faulty is not:
        the last good scripts run (:mod:`locum.events.script_set`).
        When the awaiting task is cancelled, the script's session is killed and the result recorded as cancelled
        before CancelledError continues. Raises UsageError when the arguments are not the event's, and whatever
        ``environment`` raises; no script has started then.
        """
        parse_event(event, arguments)
        async with self._turn:
            started, begin = time.time(), time.monotonic()
            in_use = await self._look()
            plan = decide(event, arguments, in_use.scripts, self._started)
            if in_use.refused:
                return self._keep(plan.not_run(started, "\n".join(in_use.faults), self._directory.path))
            if plan.lost is not None:
                faults = "; ".join(in_use.faults)
                problem = f"it is faulty, and no earlier copy of it could be kept: {faults}"
                return self._keep(plan.not_run(started, problem, plan.lost.name))
            answers: list[ScriptResult] = []
            cancelled = False
            if plan.steps:
                link = await self._ready_link()
                if isinstance(link, str):
                    return self._keep(plan.not_run(started, link))
                given = environments(self._runtime, self._state, self._settings, self._environment, environment())
                run = link.submit(plan.jobs(self._tunables(), given))
                self._current, self._event = run, event
                cancelled = await self._await(link, run)
                self._current = None
                answers, reason = run.answers, run.finished.result()
                if reason is None:
                    # This runner works: the next one that dies is not one of a series.
                    self._failures = 0
                else:
                    answers.append(plan.broken_off(answers, started, reason, cancelled or self._stopping))
            results = tuple(plan.results(answers))
            result = self._keep(EventResult(event, plan.arguments, started, time.monotonic() - begin, results))
            for one in plan.startups(answers):
                self._keep(EventResult(Event.STARTUP, (), one.started, one.seconds, (one,)))
                if one.outcome is Outcome.OK:
                    self._log(f"{one.script} is new and has had its startup", "info")
            self._keep_started(plan.started_after(answers, result.ok, self._started))
            if cancelled:
                raise asyncio.CancelledError
            return result

    async def handled(self) -> tuple[Event, ...]:
        """Every event for which some enabled script could have an effect; scans the directory."""
        in_use = await self._look()
        return tuple(Event) if in_use.refused else handled(in_use.scripts)

    @property
    def late(self) -> tuple[str, ...]:
        """Names of scripts that came to a running node and have not had their ``startup``, as of the last scan."""
        return tuple(script.name for script in late(self._in_use.scripts, self._started))

    @property
    def in_use(self) -> InUse:
        """The scripts in use since the last scan of the directory."""
        return self._in_use

    def status(self) -> dict[Event, EventStatus]:
        """The last run of each event and the last result of each of its scripts, of earlier daemons too."""
        return self._status.snapshot()

    @property
    def running(self) -> Event | None:
        """The event whose scripts run now, if any."""
        return self._event if self._current is not None else None

    async def inside(self, pid: int) -> Inside | None:
        """The script that runs now and that process ``pid`` is a part of, if any."""
        if self._current is None:
            return None

        def look() -> Inside | None:
            with self._book_reserve.spent():
                return inside(pid, self._runtime, self.runner_pid)

        try:
            return await self._books.run("looking who asks", LOOK_LIMIT, look)
        except NoAnswer:
            return None

    @property
    def runner_pid(self) -> int:
        """The runner's process number, 0 while there is none."""
        return self._link.pid if self._link is not None else 0

    # internals

    def _keep_started(self, names: Started) -> None:
        """Remember the scripts that have had their ``startup``. Without the file, a restarted agent starts a running
        service: harmless."""
        if names != self._started:
            self._started = names
            self._later(lambda: self._started_file.write(names))

    def _seen(self, looking: asyncio.Future[InUse]) -> InUse:
        """Handle the result of a finished scan."""
        try:
            return looking.result()
        except (NoAnswer, OSError) as error:
            return self._set.without_directory(f"cannot be examined: {error}")

    async def _look(self, limit: float = LOOK_LIMIT) -> InUse:
        """Scan the directory, for ``limit`` seconds at most; log when it has become faulty, or good again.

        One scan at a time: while one hangs, no other is started, and none is waited for twice.
        """
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._looker.run("reading the script directory", None, self._refresh))
            self._hangs = False
        if not self._hangs:
            await wait_patiently(self._looking, limit)
        if self._looking.done():
            in_use = self._seen(self._looking)
            if not in_use.refused:
                self._keep_started(still_started(in_use.scripts, self._started))
        else:
            self._hangs = True
            in_use = self._set.without_directory("does not answer: its file system hangs, or is very slow")
        self._in_use = in_use
        problem = "" if in_use.refused else describe(in_use, self._directory.path)
        if problem != self.directory_problem:
            self.directory_problem = problem
            if problem:
                self._log(problem, "error")
            else:
                self._log(f"script directory {self._directory.path} is good again, and in use as it is", "info")
        return in_use

    def _refresh(self) -> InUse:
        """On a thread."""
        with self._reserve.spent():
            return self._set.refresh()

    def _keep(self, result: EventResult) -> EventResult:
        self._status.add(result, [script.name for script in self._in_use.scripts])
        self._later(lambda: self._status.write(result.event))
        return result

    def _later(self, write: Callable[[], None]) -> None:
        """Write to the runtime directory, after the writes that are queued already. Failed writes are dropped."""

        def work() -> None:
            with self._book_reserve.spent():
                write()

        with contextlib.suppress(NoAnswer):
            self._books.submit("writing to the runtime directory", work)

    async def _await(self, link: RunnerClient, run: Run) -> bool:
        """Wait for the end of ``run``. When our task is cancelled, kill the script and still wait: only then
        may the next one start (I5). Returns whether it was cancelled."""
        cancelled = False
        while not run.finished.done():
            try:
                await asyncio.wait([run.finished])
            except asyncio.CancelledError:
                cancelled = True
                link.cancel(run)
        return cancelled

    async def _ready_link(self) -> RunnerClient | str:
        """Return a runner that is ready, or the reason why there is none."""
        deadline = time.monotonic() + _RUNNER_LIMIT
        while not self._stopping:
            link = self._link
            if link is not None and not link.closed:
                return link
            left = deadline - time.monotonic()
            if left <= 0:
                return "the event runner could not be started; the daemon's log says why"
            self._link_changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._link_changed.wait(), left)
        return "the daemon is stopping"

    async def _start_link(self) -> RunnerClient:
        link = self._coming = RunnerClient(self._link_ended, self._log)
        common = common_environment(self._runtime, self._state)
        try:
            await link.start(self._runtime, {key: common[key] for key in ("PATH", "LANG", "HOME", "LOCUM_RUNTIME")})
        except OSError as error:
            raise LocumError(f"cannot start the event runner: {error}") from None
        return link

    def _link_ended(self, link: RunnerClient) -> None:
        """The runner died: start another one at once, then with growing pauses."""
        if self._stopping or (self._link is not link and self._link is not None):
            return
        if self._restart is None or self._restart.done():
            self._log(f"{link.end_reason}; starting another one", "error")
            self._restart = tasks.start(self._replace(link), "replacing the event runner")

    async def _replace(self, link: RunnerClient) -> None:
        self._link = None
        while not self._stopping:
            await link.end()
            await asyncio.sleep(_RESTART_PAUSES[min(self._failures, len(_RESTART_PAUSES) - 1)])
            self._failures += 1
            try:
                link = await self._start_link()
                reason = await link.ready
            except LocumError as error:
                reason = str(error)
            if reason is None:
                self._begin_with(link)
                return
            self._log(f"no event can run: {reason}", "error")

    def _begin_with(self, link: RunnerClient) -> None:
        """Use ``link``, which is ready."""
        if link.had_to_end is not None:
            self._log(f"{link.had_to_end} was still running for an earlier daemon or runner; it was ended", "warning")
        self._coming = None
        self._set_link(link)

    def _set_link(self, link: RunnerClient | None) -> None:
        self._link = link
        self._link_changed.set()
