"""A process of plain, blocking code in simulated time: each of its threads is a greenlet.

Rules of this file: it knows the engine, no cluster. A thread leaves its greenlet where it waits
(:meth:`Program.block`), and wherever the process is stopped in the midst of a call of a port (:meth:`Program.step`).
A killed process runs no further line: its next step, in whatever ``finally``, ends it again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import greenlet

from locum_sim.clocks import MachineClock
from locum_sim.engine import Engine


class Process(Protocol):
    """What decides whether the program may go on."""

    @property
    def stopped(self) -> bool:
        """Whether the process is stopped (SIGSTOP, suspend)."""
        ...

    def stepped(self) -> Callable[[], None] | None:
        """The process has made a step; what is to happen to it now, if anything is."""
        ...

    def failed(self, error: BaseException) -> None:
        """A thread ended with an exception."""
        ...


class _Thread:
    def __init__(self, work: Callable[[], object]) -> None:
        self.greenlet = greenlet.greenlet(work)
        #: What it waits for, and until when at most (CLOCK_BOOTTIME); None: it can run.
        self.done: Callable[[], bool] | None = None
        self.until = math.inf
        #: Its present wait.
        self.serial = 0


class Program:
    """The threads of one process. ``late``: seconds by which a timer fires too late, drawn for each."""

    def __init__(self, engine: Engine, clock: MachineClock, process: Process, late: Callable[[], float]) -> None:
        self._engine = engine
        self._clock = clock
        self._process = process
        self._late = late
        self._alive = True
        self._threads: list[_Thread] = []
        self._current: _Thread | None = None
        self._hub = greenlet.getcurrent()
        self._event: Callable[[], None] | None = None

    @property
    def alive(self) -> bool:
        """Whether it has not been killed."""
        return self._alive

    def begin_thread(self, work: Callable[[], object]) -> None:
        """Run ``work`` in a thread of its own."""

        def guarded() -> None:
            try:
                work()
            except Exception as error:
                self._process.failed(error)

        self._threads.append(_Thread(guarded))
        self.go_on()

    def go_on(self) -> None:
        """Run every thread that can run, until all wait or the process is stopped."""
        if self._current is not None:
            return
        self._hub = greenlet.getcurrent()
        while (thread := self._next()) is not None:
            thread.done = None
            thread.serial += 1
            self._current = thread
            thread.greenlet.parent = self._hub
            try:
                thread.greenlet.switch()
            finally:
                self._current = None
            if thread.greenlet.dead:
                self._threads.remove(thread)
            event, self._event = self._event, None
            if event is not None:
                event()

    def _next(self) -> _Thread | None:
        if not self._alive or self._process.stopped:
            return None
        now = self._clock.boot()
        for thread in self._threads:
            if thread.done is None or thread.until <= now + 1e-9 or thread.done():
                return thread
        return None

    def notify(self) -> None:
        """Something has come from outside; threads that wait for it go on, in their own time."""
        self._engine.after(0.0, self.go_on)

    # -- called by the threads -------------------------------------------------------------------------------

    def step(self) -> None:
        """A port is called: the process may be stopped here until it is let go on, or killed."""
        if not self._alive:
            raise greenlet.GreenletExit
        if self._current is None:
            return
        self._event = self._process.stepped()
        if self._event is not None or self._process.stopped:
            self._hub.switch()
        if not self._alive:
            raise greenlet.GreenletExit

    def block(self, done: Callable[[], bool], until: float = math.inf) -> None:
        """Wait until ``done()``, or until CLOCK_BOOTTIME ``until``. ``done`` is asked after each :meth:`notify`."""
        thread = self._current
        assert thread is not None
        thread.done, thread.until = done, until
        thread.serial += 1
        if until < math.inf:
            self._set_timer(thread, thread.serial)
        self._hub.switch()
        if not self._alive:
            raise greenlet.GreenletExit

    def _set_timer(self, thread: _Thread, serial: int) -> None:
        self._engine.at(self._clock.true(thread.until) + self._late(), self._fire, thread, serial)

    def _fire(self, thread: _Thread, serial: int) -> None:
        if thread.serial != serial or not self._alive:
            return
        if thread.until > self._clock.boot() + 1e-9:
            # The crystal's rate has changed since.
            self._set_timer(thread, serial)
        else:
            self.go_on()

    # -- the end ---------------------------------------------------------------------------------------------

    def die(self) -> None:
        """SIGKILL: no thread runs any more."""
        if self._alive:
            self._alive = False
            self._engine.after(0.0, self.bury)

    def bury(self) -> None:
        """Unwind the threads of the dead process; nothing that they still do reaches a port."""
        threads, self._threads = self._threads, []
        for thread in threads:
            if thread.greenlet and not thread.greenlet.dead:
                thread.greenlet.parent = greenlet.getcurrent()
                thread.greenlet.throw(greenlet.GreenletExit)
