"""An event loop in simulated time, for one process that may be stopped or killed inside every call of a port.

Rules of this file: it knows asyncio and the engine, no cluster. :class:`SimulatedLoop` is what asyncio's own tasks,
futures, events and time-outs need and no more, so the agent's coroutines run on it as they are. All callbacks of a
process run in one greenlet. A port that is called in it (:meth:`SimulatedLoop.step`) can leave the greenlet in the
midst of the call: the process is stopped there, also between two calls that are synchronous on a real machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from random import Random
from typing import Any, Protocol, TypeVar, cast

import greenlet

from locum.sim.clocks import MachineClock
from locum.sim.engine import Engine

T = TypeVar("T")


class Process(Protocol):
    """What decides whether the loop may go on."""

    @property
    def stopped(self) -> bool:
        """Whether the process is stopped (SIGSTOP, suspend)."""
        ...

    @property
    def trapped(self) -> bool:
        """Whether steps are counted now. Nothing else can stop a process that runs: time stands still meanwhile."""
        ...

    def stepped(self) -> None:
        """The process has made a step: something may stop or kill it now."""
        ...

    def failed(self, context: dict[str, Any]) -> None:
        """A callback raised, or a task ended with an exception that nobody awaits."""
        ...


class SimulatedLoop:
    """The loop of one process. ``late``: seconds by which a timer fires too late, drawn for each."""

    def __init__(
        self, engine: Engine, clock: MachineClock, process: Process, random: Random, late: Callable[[], float]
    ) -> None:
        # asyncio asks for no more of it than what is here.
        self._loop = cast(asyncio.AbstractEventLoop, self)
        self._engine = engine
        self._clock = clock
        self._process = process
        self._random = random
        self._late = late
        self._ready: deque[asyncio.Handle] = deque()
        # What came from outside, each with the stream that it belongs to.
        self._inbox: deque[tuple[str, asyncio.Handle]] = deque()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._alive = True
        self._hub = greenlet.getcurrent()
        self._greenlet = greenlet.greenlet(self._work)
        self._inside = False

    # -- the process -----------------------------------------------------------------------------------------

    def post(self, stream: str, callback: Callable[..., object], *arguments: Any) -> None:
        """Something comes from outside (``stream``: from where); the process deals with it when it runs."""
        if self._alive:
            self._inbox.append((stream, asyncio.Handle(callback, arguments, self._loop)))
            self.go_on()

    def go_on(self) -> None:
        """Run until nothing is left to do, or the process is stopped."""
        if self._inside or not self._alive or self._process.stopped:
            return
        self._hub = greenlet.getcurrent()
        self._enter(self._greenlet.switch)

    def _enter(self, into: Callable[[], object]) -> None:
        """Go ``into`` the process's greenlet, with this loop as the running one until it is left."""
        self._inside = True
        outer = asyncio._get_running_loop()
        asyncio._set_running_loop(self._loop)
        try:
            into()
        finally:
            asyncio._set_running_loop(outer)
            self._inside = False

    def thawed(self) -> None:
        """The process runs again. What came meanwhile is taken in any order, but each stream in its own."""
        if len(self._inbox) > 1:
            streams: dict[str, deque[asyncio.Handle]] = {}
            for stream, handle in self._inbox:
                streams.setdefault(stream, deque()).append(handle)
            self._inbox.clear()
            names = list(streams)
            while names:
                name = self._random.choice(names)
                self._inbox.append((name, streams[name].popleft()))
                if not streams[name]:
                    names.remove(name)
        self.go_on()

    def die(self) -> None:
        """SIGKILL: nothing of the process runs any more."""
        if not self._alive:
            return
        self._alive = False
        self._ready.clear()
        self._inbox.clear()
        if not self._inside and self._greenlet:
            # It is in the midst of a call: unwind it now, or its frames would be kept for ever.
            self._enter(lambda: self._greenlet.throw(greenlet.GreenletExit))
        self._engine.after(0.0, self.bury)

    def bury(self) -> None:
        """Take the dead process's coroutines apart. What they would still do in their ``finally`` reaches no port."""
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            with contextlib.suppress(BaseException):
                task.get_coro().close()

    def step(self) -> None:
        """A port is called, in the process: it may be stopped here until it is let go on, or killed."""
        if not self._alive:
            raise greenlet.GreenletExit
        if not self._process.trapped or greenlet.getcurrent() is not self._greenlet:
            return
        self._process.stepped()
        while self._alive and self._process.stopped:
            self._hub.switch()
        if not self._alive:
            raise greenlet.GreenletExit

    def _work(self) -> None:
        while self._alive:
            if self._process.stopped:
                self._hub.switch()
                continue
            if self._ready:
                handle = self._ready.popleft()
            elif self._inbox:
                _, handle = self._inbox.popleft()
            else:
                self._hub.switch()
                continue
            if not handle.cancelled():
                handle._run()

    # -- asyncio ---------------------------------------------------------------------------------------------

    def time(self) -> float:
        """CLOCK_BOOTTIME, in seconds."""
        return self._clock.boot()

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """See asyncio."""
        handle = asyncio.Handle(callback, args, self._loop, context)
        if self._alive:
            self._ready.append(handle)
            if not self._inside:
                self.go_on()
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """See asyncio."""
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """See asyncio."""
        timer = asyncio.TimerHandle(when, callback, args, self._loop, context)
        self._wait(timer)
        return timer

    def _wait(self, timer: asyncio.TimerHandle) -> None:
        self._engine.at(self._clock.true(timer.when()) + self._late(), self._fire, timer)

    def _fire(self, timer: asyncio.TimerHandle) -> None:
        if timer.cancelled() or not self._alive:
            return
        if self.time() < timer.when() - 1e-9:
            # The crystal's rate has changed since.
            self._wait(timer)
            return
        self._inbox.append(("timer", timer))
        self.go_on()

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def create_future(self) -> asyncio.Future[Any]:
        """See asyncio."""
        return asyncio.Future(loop=self._loop)

    def create_task(
        self, coro: Coroutine[Any, Any, T] | Generator[Any, None, T], *, name: object = None, **_: Any
    ) -> asyncio.Task[T]:
        """See asyncio."""
        task = asyncio.Task(coro, loop=self._loop, name=None if name is None else str(name))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """See asyncio."""
        if self._alive:
            self._process.failed(context)

    def get_debug(self) -> bool:
        """See asyncio."""
        return False

    def is_running(self) -> bool:
        """See asyncio."""
        return self._alive

    def is_closed(self) -> bool:
        """See asyncio."""
        return not self._alive
