"""The store as the nodes reach it: the embedded store's real core behind a simulated network.

Commits take effect here, at one place and one at a time, so the store is linearizable on any network.
:class:`StoreClient` is one agent process's access to it: commits with late answers or without one, and a watch that is
in order and without gaps, or broken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import NamedTuple, Protocol

from locum.store.base import Batch, CommitResult, Condition, Entry, Operation, Snapshot, WatchLost
from locum.store.keyvalue import KeyValue
from locum_sim.engine import Engine
from locum_sim.network import DOWN, UP, Link


class Author(NamedTuple):
    """The author of a commit: a node's agent under an incarnation, or another writer (``incarnation`` empty).

    ``read``: key → revision on which a node's decision rests; None for other writers.
    """

    name: str
    incarnation: str = ""
    read: Mapping[str, int] | None = None


class Observer(Protocol):
    """Sees every commit as it takes effect."""

    def committed(self, author: Author, before: KeyValue, batch: Batch) -> None:
        """``batch`` is about to take effect on ``before``."""


class StoreService:
    """The store itself. While it is not ``up``, requests get no answer."""

    def __init__(self, engine: Engine, random: Random, history: int) -> None:
        self.engine = engine
        self.random = random
        self.core = KeyValue(history_commits=history)
        self.up = True
        #: It is being wiped or restored; only the end of that brings it back.
        self.restoring = False
        self.back_at = 0.0
        #: How often it has gone back, and the true time of the last time.
        self.histories = 0
        self.went_back_at = -1.0e9
        #: Every commit of this history, with the time at which it took effect.
        self.past: list[tuple[float, Batch]] = []
        self._history = history
        self.observer: Observer | None = None
        #: Called with a node's commit (beats excepted) just before it takes effect.
        self.meddler: Callable[[Author], None] | None = None
        self.watches: list[Watch] = []
        self._waiting: list[tuple[Callable[..., None], tuple[object, ...]]] = []

    def receive(self, act: Callable[..., None], *arguments: object) -> None:
        """A request has arrived; while the store is down it is lost, or waits in a queue that survives."""
        if self.up:
            act(*arguments)
        elif self.random.random() < 0.5:
            self._waiting.append((act, arguments))

    def commit(self, author: Author, conditions: Sequence[Condition], operations: Sequence[Operation]) -> CommitResult:
        """Carry it out now."""
        core = self.core
        if self.meddler is not None and author.read is not None and not _is_beat(operations):
            self.meddler(author)
        batch = core.evaluate(conditions, operations)
        if batch is None:
            return CommitResult(False, core.revision, core.began)
        if not batch.changes:
            return CommitResult(True, core.revision, core.began)
        if self.observer is not None:
            self.observer.committed(author, core, batch)
        core.apply(batch)
        self.past.append((self.engine.now, batch))
        for watch in self.watches:
            watch.push(batch)
        return CommitResult(True, batch.revision, core.began)

    def start_again(self) -> None:
        """The store is back."""
        self.up = True
        waiting, self._waiting = self._waiting, []
        for act, arguments in waiting:
            self.engine.after(self.random.random() * 0.05, act, *arguments)

    def copy_at(self, commits: int) -> dict[str, Entry]:
        """The store's content after this many ``commits`` of this history."""
        entries: dict[str, Entry] = {}
        for _, batch in self.past[:commits]:
            for change in batch.changes:
                if change.value is None:
                    entries.pop(change.key, None)
                else:
                    entries[change.key] = Entry(change.key, change.value, change.revision)
        return entries

    def go_back(self, commits: int, skip: int, embedded: bool) -> None:
        """Return to the state after this many ``commits``; revisions continue from there, or ``skip`` later.

        ``embedded``: as :mod:`locum.store.sqlite` does: beats have the new revision, and no watch continues.

        No connection survives, so messages in flight do not arrive, but clients may send a commit again. A watch
        continues after its last revision, if the store has its history, even if that revision had another content.
        """
        entries = self.copy_at(commits)
        revision = self.past[commits - 1][1].revision if commits else 0
        del self.past[commits:]
        revision += skip
        if embedded:
            beats = [entry for key, entry in entries.items() if key.startswith("beat/")]
            entries |= {entry.key: Entry(entry.key, entry.value, revision) for entry in beats}
        began = revision if embedded else 0
        self.core = KeyValue(revision=revision, entries=entries.values(), began=began, history_commits=self._history)
        self.histories += 1
        self.went_back_at = self.engine.now
        self._waiting.clear()
        for watch in list(self.watches):
            if embedded:
                watch.history_lost()
            elif self.random.random() < 0.5:
                watch.broken()
            else:
                watch.deaf_until = watch.pushed

    def break_watches(self) -> None:
        """Every connection is lost: the store was restarted."""
        for watch in list(self.watches):
            watch.broken()


def _is_beat(operations: Sequence[Operation]) -> bool:
    return len(operations) == 1 and operations[0].key.startswith("beat/")


class Watch:
    """One stream of changes to one client: in order, without gaps, each with the network's delay, until it breaks."""

    def __init__(
        self, service: StoreService, link: Link, deliver: Callable[[Batch], None], lost: Callable[[bool], None]
    ):
        self._service = service
        self._link = link
        self._deliver = deliver
        self._lost = lost
        self._last = 0.0
        #: Changes in flight, in order, each with the number that identifies its arrival.
        self._under_way: deque[tuple[int, Batch]] = deque()
        self._serial = 0
        self._kept: deque[Batch] = deque()
        #: The last revision sent; and the one up to which none is sent, because the client has it.
        self.pushed = self.deaf_until = 0
        #: The stream's present lag in seconds.
        self.lag = 0.0
        self._open = True
        service.watches.append(self)

    def push(self, batch: Batch) -> None:
        """A commit has taken effect."""
        if batch.revision <= self.deaf_until:
            return
        self.pushed = batch.revision
        engine = self._service.engine
        when = engine.now + self._link.some_delay() + self.lag
        self._last = when = max(when, self._last)
        self._serial += 1
        self._under_way.append((self._serial, batch))
        engine.at(when, self._arrive, self._serial)

    def catch_up(self) -> None:
        """The stream no longer lags: changes in flight arrive now, like later ones."""
        self.lag = 0.0
        engine = self._service.engine
        self._last = engine.now + self._link.some_delay()
        engine.at(self._last, self._arrive, self._serial)

    def _arrive(self, serial: int) -> None:
        while self._open and self._under_way and self._under_way[0][0] <= serial:
            self._pass_on(self._under_way.popleft()[1])

    def _pass_on(self, batch: Batch) -> None:
        if self._kept or self._link.cut[DOWN] or not self._service.up:
            if not self._kept:
                self._service.engine.after(0.02, self._flush)
            self._kept.append(batch)
            return
        self._deliver(batch)

    def _flush(self) -> None:
        if not self._open:
            return
        if self._link.cut[DOWN] or not self._service.up:
            self._service.engine.after(0.02, self._flush)
            return
        while self._kept:
            self._deliver(self._kept.popleft())

    def close(self) -> None:
        """The client is gone or has closed this watch."""
        if self._open:
            self._open = False
            self._service.watches.remove(self)

    def broken(self) -> None:
        """The connection is lost; the client learns of it."""
        if self._open:
            self.close()
            self._lost(False)

    def history_lost(self) -> None:
        """The store lacks the stream's place in the history; the client learns of it."""
        if self._open:
            self.close()
            self._lost(True)


class StoreClient:
    """One process's access to the store.

    ``patience``: limit for an answer, in seconds. ``post(done, answer)`` gives the process an answer, to be handled
    when it runs.
    """

    def __init__(self, service: StoreService, link: Link, patience: float, post: Callable[..., None]) -> None:
        self._service = service
        self._link = link
        self._patience = patience
        self._post = post
        self._serial = self._asked = 0
        self._pending: dict[int, Callable[..., None]] = {}
        self._timeouts: deque[tuple[float, int]] = deque()
        self._timing = False
        self._closed = False
        self.watch: Watch | None = None

    def close(self) -> None:
        """The process is gone: nothing is delivered any longer; its sent messages still arrive."""
        self._closed = True
        self._pending.clear()
        if self.watch is not None:
            self.watch.close()
            self.watch = None

    def commit(
        self,
        author: Author,
        conditions: Sequence[Condition],
        operations: Sequence[Operation],
        done: Callable[[CommitResult | None], None],
    ) -> None:
        """Send a commit; ``done`` gets its result, or None without one in time."""
        serial = self._expect(done)
        service = self._service
        sent = (service.histories, service.engine.now)
        self._link.send_commit(
            _is_beat(operations), service.receive, self._committing, serial, sent, author, conditions, operations
        )

    def read(self, done: Callable[[Snapshot | None], None]) -> None:
        """Request everything; ``done`` gets the snapshot, or None without one in time."""
        self._link.send(UP, self._service.receive, self._reading, self._expect(done))

    def follow(self, after: int, deliver: Callable[[Batch], None], lost: Callable[[bool], None]) -> None:
        """Watch everything after revision ``after``; ``lost`` is called when that is impossible or ends, and says
        whether the store lacks the place in the history (WatchLost)."""
        self.unfollow()

        def answered(result: object) -> None:
            if result is not True:
                lost(result is False)

        self._asked = serial = self._expect(answered)
        self._link.send(UP, self._service.receive, self._watching, serial, after, deliver, lost)

    def unfollow(self) -> None:
        """Close the watch."""
        if self.watch is not None:
            self.watch.close()
            self.watch = None
        # A request without an answer yet must not come after the next.
        self._pending.pop(self._asked, None)

    def _expect(self, done: Callable[..., None]) -> int:
        self._serial += 1
        self._pending[self._serial] = done
        engine = self._service.engine
        self._timeouts.append((engine.now + self._patience, self._serial))
        if not self._timing:
            self._timing = True
            engine.after(self._patience, self._look)
        return self._serial

    def _look(self) -> None:
        """Give up requests whose time limit is over."""
        self._timing = False
        timeouts, now = self._timeouts, self._service.engine.now
        while timeouts and (timeouts[0][0] <= now or timeouts[0][1] not in self._pending):
            self._answer(timeouts.popleft()[1], None)
        if timeouts and not self._closed:
            self._timing = True
            self._service.engine.at(timeouts[0][0], self._look)

    def _committing(
        self,
        serial: int,
        sent: tuple[int, float],
        author: Author,
        conditions: Sequence[Condition],
        operations: Sequence[Operation],
    ) -> None:
        service = self._service
        if sent[0] != service.histories:
            # It was lost with the store that it was sent to, unless the client still tries.
            tries = service.engine.now - sent[1] < self._patience and not self._closed
            if not tries or service.random.random() < 0.5:
                return
        result = self._service.commit(author, conditions, operations)
        self._link.send(DOWN, self._answer, serial, result)

    def _reading(self, serial: int) -> None:
        self._link.send(DOWN, self._answer, serial, self._service.core.snapshot())

    def _watching(
        self, serial: int, after: int, deliver: Callable[[Batch], None], lost: Callable[[bool], None]
    ) -> None:
        if serial not in self._pending:
            return
        try:
            _, missed = self._service.core.history(after)
        except WatchLost:
            self._link.send(DOWN, self._answer, serial, False)
            return
        self._link.send(DOWN, self._answer, serial, True)
        if self.watch is not None:
            self.watch.close()
        self.watch = Watch(self._service, self._link, deliver, lost)
        self.watch.pushed = after
        for batch in missed:
            self.watch.push(batch)

    def _answer(self, serial: int, result: object) -> None:
        done = self._pending.pop(serial, None)
        if done is not None and not self._closed:
            self._post(done, result)
