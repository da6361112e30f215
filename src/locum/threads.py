"""Threads for calls that may block: the kernel may keep them for any length of time.

Rules of this file: the loops that keep the hold hand a call over and continue. The number of threads is bounded, and so
is that of the waiting calls. A call that does not return keeps its thread, forever if need be (uninterruptible sleep
cannot be ended). It delays neither the caller beyond the caller's own limit (of time in which the process ran, see
:func:`wait_patiently`) nor the end of the process: these threads are daemons and are never joined.

A worker with one thread carries out its calls in the order in which they were handed over.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, NamedTuple, ParamSpec, TypeVar

from locum.errors import LocumError

P = ParamSpec("P")
T = TypeVar("T")

#: Default limit of the calls that wait for a thread.
ROOM = 256
#: Seconds that a stop of the whole process takes from the limit of a call at most.
STEP = 0.25


class NoAnswer(LocumError):
    """A call has not ended within its limit, or cannot begin because of earlier ones. Its effect is unknown."""


async def wait_patiently(future: asyncio.Future[Any], limit: float | None) -> None:
    """Wait until ``future`` is done, for ``limit`` seconds at most (None: no limit).

    Only time in which this process ran counts. When it was stopped, or the machine had no CPU time for it, the threads
    stood still as well as the loop: the call did not take that long, and gets the rest of its time.
    """
    if future.done():
        return
    woken = future.get_loop().create_future()
    patience = _Patience(woken, limit)
    # Most calls end within a step, many of them every second: a callback costs the loop less than asyncio.wait.
    future.add_done_callback(patience.end)
    try:
        await woken
    finally:
        future.remove_done_callback(patience.end)
        patience.stop()


class _Patience:
    """Wakes a waiting task when a future is done, or ``limit`` seconds of time in which the process ran are over."""

    def __init__(self, woken: asyncio.Future[None], limit: float | None) -> None:
        self._woken = woken
        self._left = limit or 0.0
        self._timer: asyncio.TimerHandle | None = None
        if limit is not None:
            self._wait()

    def _wait(self) -> None:
        # Without a limit that is left, the loop still turns once: the result may wait for that.
        step = min(STEP, max(self._left, 0.0))
        self._left -= step
        self._timer = self._woken.get_loop().call_later(step, self._step)

    def _step(self) -> None:
        if self._left > 0:
            self._wait()
        else:
            self.end(None)

    def end(self, _: object) -> None:
        """Wake the task, unless it is awake or cancelled."""
        if not self._woken.done():
            self._woken.set_result(None)

    def stop(self) -> None:
        """Wait no longer."""
        if self._timer is not None:
            self._timer.cancel()


class Busy(NamedTuple):
    """A call under way: ``what`` describes it, ``seconds`` is its duration so far."""

    what: str
    seconds: float


class _Call(NamedTuple):
    what: str
    future: Future[Any]
    work: Callable[[], Any]


class Worker:
    """``threads`` threads called ``name``, started when needed; ``room`` calls may wait for them.

    Threads belong to the network namespace of the thread that makes the first call.
    """

    def __init__(self, name: str, threads: int = 1, room: int = ROOM) -> None:
        self.name = name
        self._most = threads
        self._room = room
        self._changed = threading.Condition()
        self._calls: deque[_Call] = deque()
        self._running: dict[int, tuple[str, float]] = {}
        self._threads = 0
        self._idle = 0
        self._closed = False
        _workers.add(self)

    def submit(self, what: str, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> Future[T]:
        """Have ``function`` called with the arguments. Raises NoAnswer when too many calls wait already.

        ``what`` describes it in messages: "reading the script directory".
        """
        future: Future[T] = Future()
        with self._changed:
            if self._closed or len(self._calls) >= self._room:
                raise NoAnswer(f"{what}: not begun, {self._in_the_way()}")
            self._calls.append(_Call(what, future, lambda: function(*arguments, **named)))
            if self._idle < len(self._calls) and self._threads < self._most:
                try:
                    self._begin_thread()
                except RuntimeError as error:
                    if not self._threads:
                        self._calls.pop()
                        raise NoAnswer(f"{what}: not begun: {error}") from None
            self._changed.notify()
        return future

    def prepare(self) -> None:
        """Start all threads now, for calls that must not fail for lack of a thread.

        Raises NoAnswer when a thread cannot be started.
        """
        with self._changed:
            try:
                while self._threads < self._most:
                    self._begin_thread()
            except RuntimeError as error:
                raise NoAnswer(f"cannot start a thread for {self.name!r}: {error}") from None

    def _begin_thread(self) -> None:
        threading.Thread(target=self._work, name=self.name, daemon=True).start()
        self._threads += 1

    async def run(
        self, what: str, limit: float | None, function: Callable[P, T], *arguments: P.args, **named: P.kwargs
    ) -> T:
        """The result of ``function``, from a thread. Raises NoAnswer after ``limit`` seconds without a result (None: no
        limit); a call that has not begun by then is cancelled. The limit is that of :func:`wait_patiently`."""
        call = self.submit(what, function, *arguments, **named)
        future = asyncio.wrap_future(call)
        try:
            await wait_patiently(future, limit)
            if not future.done():
                raise NoAnswer(f"{what}: no answer within {limit:g} s")
            return future.result()
        finally:
            # Cancel at once; the wrapper would pass the cancellation on only in the loop's next turn.
            call.cancel()
            future.cancel()

    def busy(self) -> list[Busy]:
        """The calls under way, the longest first."""
        now = time.monotonic()
        with self._changed:
            running = [Busy(what, now - since) for what, since in self._running.values()]
        return sorted(running, key=lambda call: -call.seconds)

    def close(self) -> None:
        """Take no further calls, cancel those that have not begun. Does not wait for those under way. Idempotent."""
        with self._changed:
            self._closed = True
            while self._calls:
                self._calls.popleft().future.cancel()
            self._changed.notify_all()

    def _in_the_way(self) -> str:
        if self._closed:
            return "the process is ending"
        oldest = min(self._running.values(), key=lambda call: call[1], default=("", time.monotonic()))
        return f"{len(self._calls)} calls wait; {oldest[0]} has taken {time.monotonic() - oldest[1]:.1f} s so far"

    def _work(self) -> None:
        own = threading.get_ident()
        while True:
            with self._changed:
                self._idle += 1
                self._changed.wait_for(lambda: self._calls or self._closed)
                self._idle -= 1
                if not self._calls:
                    return
                call = self._calls.popleft()
                self._running[own] = (call.what, time.monotonic())
            _carry_out(call)
            with self._changed:
                del self._running[own]
            del call


def _carry_out(call: _Call) -> None:
    if not call.future.set_running_or_notify_cancel():
        return
    try:
        result = call.work()
    except BaseException as error:
        call.future.set_exception(error)
    else:
        call.future.set_result(result)


_workers: weakref.WeakSet[Worker] = weakref.WeakSet()
# In a forked child: the threads stayed in the parent.
os.register_at_fork(after_in_child=_workers.clear)


def busy_calls(longer_than: float) -> list[Busy]:
    """Every call of any worker of this process that has been under way for more than ``longer_than`` seconds, the
    longest first."""
    found = [call for worker in list(_workers) for call in worker.busy() if call.seconds > longer_than]
    return sorted(found, key=lambda call: -call.seconds)


class LoopExecutor(ThreadPoolExecutor):
    """asyncio's executor for name resolution, on a worker that is never joined.

    asyncio requires a ThreadPoolExecutor and joins its threads at the end; an unresponsive resolver would keep the
    process from ending.
    """

    def __init__(self, worker: Worker) -> None:
        super().__init__(max_workers=1)
        self._worker = worker

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As Executor.submit; raises NoAnswer when too many calls wait."""
        return self._worker.submit(getattr(fn, "__name__", str(fn)), fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Never waits."""
        self._worker.close()


def use_bounded_executor(threads: int = 16) -> Executor:
    """Give the running event loop a default executor with a bounded number of threads, which are never joined."""
    executor = LoopExecutor(Worker("resolver", threads))
    asyncio.get_running_loop().set_default_executor(executor)
    return executor
