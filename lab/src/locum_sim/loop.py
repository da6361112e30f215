"""An event loop in simulated time, for one process that may be stopped or killed inside every call of a port.

This file knows asyncio and the engine, no cluster. :class:`SimulatedLoop` offers exactly what asyncio's own tasks,
futures, events and time-outs need, so the agent's coroutines run on it unchanged. All callbacks of a process run in one
greenlet. A call of a port in it (:meth:`SimulatedLoop.step`) can leave the greenlet in the middle of the call: the
process is stopped there, even between two calls that are synchronous on a real machine.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from random import Random
from typing import Any, Protocol, TypeVar, cast

import greenlet

from locum_sim.clocks import MachineClock
from locum_sim.engine import Engine
from locum_sim.trap import Trap

T = TypeVar("T")


class Place(Protocol):
    """The place of a process: it can stop or kill the process."""

    #: Whether the process is stopped (SIGSTOP, suspend).
    agent_stopped: bool
    #: It may stop or kill the process. A running process cannot be stopped in any other way: time stops meanwhile.
    agent_trap: Trap


class Call:
    """A callback that waits for its turn, with the interface that asyncio needs.

    asyncio's own handles keep a context and the loop's debug mode. The agent uses no context variables, and this object
    is made hundreds of times for each simulated second.
    """

    __slots__ = ("arguments", "callback")

    def __init__(self, callback: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self.callback: Callable[..., object] | None = callback
        self.arguments = arguments

    def cancel(self) -> None:
        """See :class:`asyncio.Handle`."""
        self.callback = None
        self.arguments = ()

    def cancelled(self) -> bool:
        """See :class:`asyncio.Handle`."""
        return self.callback is None


class TimedCall(Call):
    """A callback that waits for a time on the machine's clock."""

    __slots__ = ("_when",)

    def __init__(self, when: float, callback: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        super().__init__(callback, arguments)
        self._when = when

    def when(self) -> float:
        """See :class:`asyncio.TimerHandle`."""
        return self._when


class SimulatedLoop:
    """The loop of one process in ``place``.

    ``late``: the delay of a timer in seconds, drawn for each. ``failed``: called with asyncio's description when a
    callback raised, or when a task that is not awaited ended with an exception.
    """

    def __init__(
        self,
        engine: Engine,
        clock: MachineClock,
        place: Place,
        random: Random,
        late: Callable[[], float],
        failed: Callable[[dict[str, Any]], None],
    ) -> None:
        # asyncio uses only the methods defined here.
        self._loop = cast(asyncio.AbstractEventLoop, self)
        self._engine = engine
        self._clock = clock
        self._place = place
        self._random = random
        self._late = late
        self._failed = failed
        self._ready: deque[Call] = deque()
        # Inputs from outside, each with the stream that it belongs to.
        self._inbox: deque[tuple[str, Call]] = deque()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._alive = True
        self._hub = greenlet.getcurrent()
        self._greenlet = greenlet.greenlet(self._work)
        self._inside = False
        #: How many callbacks have begun. During one of them nothing else happens in the process.
        self.turns = 0

    # -- the process -----------------------------------------------------------------------------------------

    def post(self, stream: str, callback: Callable[..., object], *arguments: Any) -> None:
        """Post an input from outside (``stream``: its source); the process handles it when it runs."""
        if self._alive:
            self._inbox.append((stream, Call(callback, arguments)))
            self.go_on()

    def go_on(self) -> None:
        """Run until no work is left, or the process is stopped."""
        if self._inside or not self._alive or self._place.agent_stopped:
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
        """The process runs again. Inputs that arrived meanwhile come in any order, but each stream in its own."""
        if len(self._inbox) > 1:
            streams: dict[str, deque[Call]] = {}
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
        """SIGKILL: the process runs no further."""
        if not self._alive:
            return
        self._alive = False
        self._ready.clear()
        self._inbox.clear()
        if not self._inside and self._greenlet:
            # It is in the middle of a call: unwind it now, or its frames would be kept for ever.
            self._enter(lambda: self._greenlet.throw(greenlet.GreenletExit))
        self._engine.after(0.0, self.bury)

    def bury(self) -> None:
        """Take the dead process's coroutines apart. Their ``finally`` blocks reach no port."""
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            with contextlib.suppress(BaseException):
                task.get_coro().close()

    def step(self) -> None:
        """A port is called in the process: it may be stopped here until it continues, or killed."""
        if not self._alive:
            raise greenlet.GreenletExit
        trap = self._place.agent_trap
        if not trap.steps or greenlet.getcurrent() is not self._greenlet:
            return
        snare = trap.count()
        if snare is not None:
            snare()
        while self._alive and self._place.agent_stopped:
            self._hub.switch()
        if not self._alive:
            raise greenlet.GreenletExit

    def _work(self) -> None:
        place, ready, inbox = self._place, self._ready, self._inbox
        while self._alive:
            if place.agent_stopped or not (ready or inbox):
                self._hub.switch()
                continue
            call = ready.popleft() if ready else inbox.popleft()[1]
            if call.callback is None:
                continue
            self.turns += 1
            try:
                call.callback(*call.arguments)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self.call_exception_handler({"message": f"{call.callback} failed", "exception": error})

    # -- asyncio ---------------------------------------------------------------------------------------------

    def time(self) -> float:
        """CLOCK_BOOTTIME, in seconds."""
        return self._clock.boot()

    def call_soon(self, callback: Callable[..., object], *args: Any, context: object = None) -> Call:
        """See asyncio."""
        call = Call(callback, args)
        if self._alive:
            self._ready.append(call)
            if not self._inside:
                self.go_on()
        return call

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: object = None
    ) -> TimedCall:
        """See asyncio."""
        return self.call_at(self._clock.boot() + delay, callback, *args)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, context: object = None) -> TimedCall:
        """See asyncio."""
        timer = TimedCall(when, callback, args)
        self._wait(timer)
        return timer

    def _wait(self, timer: TimedCall) -> None:
        self._engine.at(self._clock.true(timer.when()) + self._late(), self._fire, timer)

    def _fire(self, timer: TimedCall) -> None:
        if timer.callback is None or not self._alive:
            return
        if self._clock.boot() < timer.when() - 1e-9:
            # The crystal's rate has changed meanwhile.
            self._wait(timer)
            return
        self._inbox.append(("timer", timer))
        self.go_on()

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
            self._failed(context)

    def get_debug(self) -> bool:
        """See asyncio."""
        return False

    def is_running(self) -> bool:
        """See asyncio."""
        return self._alive

    def is_closed(self) -> bool:
        """See asyncio."""
        return not self._alive
