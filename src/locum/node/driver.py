"""Feed the rules and start the effects that they return.

This file decides nothing. Every input (the store's watch, an answer, the kernel, a timer) goes to
:class:`locum.rules.node.Node` with the time; the returned effects are started in their order. This file is responsible
only for the order within ``SendBeat``, on which safety rests: time first, then the kernel's timer, then the store.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any

from locum.clock import Clock
from locum.errors import StoreError
from locum.node.ports import ClustersPort
from locum.node.steps import Steps
from locum.rules import effects as fx
from locum.rules.node import Node
from locum.rules.occurrences import Occurrence
from locum.store.base import Batch, Commit, CommitResult, Store, WatchLost, carry_out

#: Pause between two attempts to read a store that does not answer, in seconds.
READ_PAUSE = 0.1
#: A timer this close to the right time is left unchanged, in seconds.
TIMER_SLACK = 0.0005


def patience_for(hold: float) -> float:
    """Limit for the store's answer to a node with this hold, in seconds."""
    return max(1.0, hold)


class Driver:
    """Runs one node until it leaves."""

    def __init__(
        self,
        node: Node,
        store: Store,
        steps: Steps,
        clusters: ClustersPort,
        clock: Clock,
        log: Callable[[str, str], None],
    ) -> None:
        self.node = node
        self.store = store
        self._clusters = clusters
        self._steps = steps
        self._clock = clock
        self._log = log
        steps.gate.on_problem = lambda problem: self.feed(node.gate_changed, problem)
        steps.addresses.on_renewal_failed = lambda *what: self.feed(node.renewal_failed, *what)
        steps.on_still_here = lambda *what: self.feed(node.still_here, *what)
        self._tasks: set[asyncio.Task[None]] = set()
        self._activity: tuple[int, asyncio.Task[tuple[bool, str]]] | None = None
        self._timer: asyncio.TimerHandle | None = None
        # Whether a beat waits for the kernel to arm its slot.
        self._arming = False
        self._view_moved = asyncio.Event()
        # Whether the current read must be repeated; and what ends the present watch.
        self._again = False
        self._following: asyncio.Timeout | None = None
        self._loop = asyncio.get_running_loop()
        #: Called when an activity (an event, a take, a release) has ended and the rules have its result.
        self.on_activity_ended: Callable[[], None] = lambda: None
        #: Called with what has happened in the cluster.
        self.on_occurrences: Callable[[list[Occurrence]], None] = lambda _: None
        #: Set to the problem (or None) when the node has left.
        self.ended: asyncio.Future[str | None] = self._loop.create_future()
        #: A commit without an answer within this many seconds counts as unanswered.
        self.patience = patience_for(node.status().hold)
        #: Why the last read of the store failed, for status.
        self.store_problem = "not connected yet"
        # When the store last answered, and when the last full read was requested.
        self._heard_at: float | None = None
        self._read_at = 0.0

    async def run(self) -> str | None:
        """Run until the node has left; return the problem that ended it, or None."""
        self._spawn(self._watch())
        self.feed(self.node.tick)
        try:
            return await self.ended
        finally:
            if self._timer is not None:
                self._timer.cancel()
            tasks: list[asyncio.Task[Any]] = list(self._tasks)
            if self._activity is not None:
                tasks.append(self._activity[1])
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def wait_for_change(self, limit: float) -> bool:
        """Wait until the view changes; False after ``limit`` seconds without a change."""
        try:
            async with asyncio.timeout(limit):
                await self._view_moved.wait()
        except TimeoutError:
            return False
        return True

    def end(self, problem: str | None) -> None:
        """End :meth:`run` with ``problem``."""
        if not self.ended.done():
            self.ended.set_result(problem)

    def defect(self, error: BaseException) -> None:
        """End :meth:`run` by raising ``error``: an essential part of the agent has failed."""
        if not self.ended.done():
            self.ended.set_exception(error)

    def age(self, now: float) -> float | None:
        """The possible age of the view, in seconds, at ``now`` (CLOCK_BOOTTIME); None before the store was read.

        A member's own beats come back through its watch and show how current the watch is. Another node knows only when
        the store last answered.
        """
        if self._heard_at is None:
            return None
        status = self.node.status()
        if status.member:
            return max(now - max(status.current_at, self._read_at), 0.0)
        return max(now - self._heard_at, 0.0)

    def feed(self, method: Callable[..., None], *arguments: object) -> None:
        """Give the rules an input: call ``method`` of the node with ``arguments`` and the time; carry out the
        effects."""
        method(*arguments, self._clock.boot(), self._clock.wall())
        self._carry_out()

    # -- effects -------------------------------------------------------------------------------------------

    def _carry_out(self) -> None:
        while pending := self.node.take_effects():
            for effect in pending:
                self._start(effect)
        if happened := self.node.take_occurrences():
            self.on_occurrences(happened)
        self._set_timer()

    def _set_timer(self) -> None:
        wakeup = self.node.next_wakeup()
        if wakeup == math.inf:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            return
        # Computed after every input: the loop's clock stops while the machine is suspended.
        when = self._loop.time() + max(wakeup - self._clock.boot(), 0.0)
        if self._timer is not None:
            if abs(self._timer.when() - when) < TIMER_SLACK:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.feed(self.node.tick)

    def _start(self, effect: fx.Effect) -> None:
        match effect:
            case fx.SendBeat():
                self._spawn(self._beat(effect, self._clock.boot()))
            case fx.ConfirmHold():
                self._steps.confirm(effect.incarnation, effect.slot, effect.deadline, effect.revision, effect.quiet)
            case fx.DropHold():
                self._steps.drop()
            case fx.CommitWork():
                self._spawn(self._commit(effect))
            case fx.ReadAnew():
                self._read_anew()
            case fx.RunEvent():
                self._act(effect.request, self._steps.run_event(effect))
            case fx.TakeAddress():
                self._act(effect.request, self._steps.take(effect))
            case fx.ReleaseAddress():
                self._act(effect.request, self._steps.release(effect))
            case fx.UpdateAddress():
                self._act(effect.request, self._steps.update(effect))
            case fx.ProbeAddresses():
                self._spawn(self._probe(effect))
            case fx.LookForClusters():
                self._spawn(self._look(effect))
            case fx.CancelActivity():
                if self._activity is not None and self._activity[0] == effect.request:
                    self._activity[1].cancel()
            case fx.TakeAgain():
                self._act(effect.request, self._steps.take_again(effect))
            case fx.Restore():
                self._spawn(self._restore(effect))
            case fx.Note():
                self._log(effect.text, effect.level)
            case fx.Exit():
                self.end(None)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self.ended.done():
            return
        # A defect: the guard starts a new agent, which adopts. This is better than continuing half alive.
        if task.cancelled():
            # Tasks are cancelled only when everything ends. Otherwise the rules would wait for its result for ever.
            self.ended.set_exception(RuntimeError(f"{task.get_coro()} was cancelled unexpectedly"))
        elif (defect := task.exception()) is not None:
            self.ended.set_exception(defect)

    def _act(self, request: int, work: Coroutine[Any, Any, tuple[bool, str]]) -> None:
        task = self._loop.create_task(work)
        self._activity = (request, task)
        # A callback instead of a coroutine around the work: a task cancelled before its first step never runs.
        task.add_done_callback(lambda done: self._activity_ended(request, done))

    def _activity_ended(self, request: int, task: asyncio.Task[tuple[bool, str]]) -> None:
        if self.ended.done():
            return
        if task.cancelled():
            ok, reason = False, "cancelled"
        elif (defect := task.exception()) is not None:
            self.ended.set_exception(defect)
            return
        else:
            ok, reason = task.result()
        self.feed(self.node.activity_done, request, ok, reason)
        self.on_activity_ended()

    async def _probe(self, effect: fx.ProbeAddresses) -> None:
        self.feed(self.node.probed, effect.request, await self._steps.probe(effect))

    async def _look(self, effect: fx.LookForClusters) -> None:
        def waits(reason: str) -> None:
            self.feed(self.node.clusters_awaited, effect.request, reason)

        problem, addresses = await self._clusters.search(effect.hosted, self.patience, waits)
        self.feed(self.node.clusters_seen, effect.request, problem, addresses)

    # -- the store -----------------------------------------------------------------------------------------

    async def _beat(self, effect: fx.SendBeat, sent_at: float) -> None:
        if self._arming:
            # Another program holds the kernel's lock; one beat waits for it, and further beats would not help.
            self.feed(self.node.beat_done, effect.request, None, sent_at)
            return
        self._arming = True
        await self._steps.gate.arm(effect.slot, effect.hold)
        self._arming = False
        if self._clock.boot() - sent_at > effect.interval:
            # Much of its hold has passed before it is sent; the next beat follows at once.
            self._loop.call_soon(self._feed_unless_ended, self.node.beat_now)
        result = await self._ask(effect.commit)
        self.feed(self.node.beat_done, effect.request, result, sent_at)

    def _feed_unless_ended(self, method: Callable[..., None]) -> None:
        if not self.ended.done():
            self.feed(method)

    async def _restore(self, effect: fx.Restore) -> None:
        problem = await self._steps.restore(effect)
        self.feed(self.node.restored, effect.address, effect.interface, problem)

    async def _commit(self, effect: fx.CommitWork) -> None:
        self.feed(self.node.commit_done, effect.request, await self._ask(effect.commit))
        self._changed()

    async def _ask(self, commit: Commit) -> CommitResult | None:
        try:
            async with asyncio.timeout(self.patience):
                result = await carry_out(self.store, commit)
        except (StoreError, TimeoutError) as error:
            self._store_fails(error)
            return None
        self._store_answers()
        return result

    def _store_answers(self) -> None:
        self.store_problem = ""
        self._heard_at = self._clock.boot()

    def _store_fails(self, error: Exception) -> None:
        """Log a problem once, until it changes."""
        problem = str(error) or "no answer in time"
        if problem != self.store_problem:
            self._log(f"store: {problem}", "error")
        self.store_problem = problem

    async def _watch(self) -> None:
        """Keep the view current: a snapshot, then every change after it; again whenever the watch is lost."""
        view = self.node.view
        while True:
            try:
                asked_at = self._clock.boot()
                self._again, known = False, view.known
                async with asyncio.timeout(self.patience):
                    snapshot = await self.store.read("")
                self._store_answers()
                if self._again:
                    continue
                self._read_at = asked_at
                self.feed(self.node.store_read, snapshot, known)
                self._changed()
                await self._follow(snapshot.revision)
            except WatchLost:
                self.feed(self.node.watch_lost)
            except (StoreError, TimeoutError) as error:
                self._store_fails(error)
                await asyncio.sleep(READ_PAUSE)

    async def _follow(self, after: int) -> None:
        """Receive changes after revision ``after``. Returns when everything must be read anew."""
        if self._again:
            return
        try:
            async with asyncio.timeout(None) as self._following:
                async for batch in self.store.watch("", after):
                    self._take(batch)
        except TimeoutError:
            if not self._again:
                raise
        finally:
            self._following = None

    def _read_anew(self) -> None:
        self._again = True
        if self._following is not None and not self._following.expired():
            self._following.reschedule(self._loop.time())

    def _take(self, batch: Batch) -> None:
        self._heard_at = self._clock.boot()
        before = self.node.view.changes
        self.feed(self.node.store_changed, batch)
        if self.node.view.changes != before:
            self._changed()

    def _changed(self) -> None:
        moved, self._view_moved = self._view_moved, asyncio.Event()
        moved.set()
