"""Handles TCP connections to the public addresses that a node takes, holds and releases.

While the node holds an address, it records the connections to it in the store. When it takes an address, it notifies
every recorded client. When it releases an address, no connection to it survives here.

The tracker never raises into its caller and never waits for long: addresses move whether or not their clients can be
notified. A separate thread does the long work, in pieces of some milliseconds, so that beats need not wait; the event
loop talks to the store.

The order of calls for one address: ``taking`` (before it passes the gate), ``taken`` (it is configured and announced);
``releasing`` (it still speaks), ``released`` (it is muted, configured or not). ``adopted`` replaces the first two after
a restart of the agent; ``dropped`` replaces the last two when the hold is lost or a take has failed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Coroutine, Iterable
from typing import Any, TypeVar

import msgspec

from locum.connections.destroy import UNSUPPORTED, Destroyer, Progress
from locum.connections.recorder import Recorder
from locum.connections.reset import end_all, reset
from locum.connections.sockets import WORTH_TELLING, entry_of
from locum.connections.tickle import tickle_once
from locum.connections.tickle_store import Listed, TickleStore
from locum.errors import LocumError, StoreError
from locum.machine.netlink import route
from locum.machine.netlink.inet_diag import Found
from locum.threads import NoAnswer, Worker

T = TypeVar("T")

#: Calls that may wait for the thread: a node that adopts 1,000 addresses queues several for each.
ROOM = 20_000
#: How long the tracker's end waits for its thread, in seconds.
CLOSE_PATIENCE = 2.0

#: How long a release waits for its connections to end and for its list to be written; the rest continues. Seconds.
RELEASE_PATIENCE = 2.0
FLUSH_PATIENCE = 0.3
#: Pause before reading an unreadable list again, in seconds.
READ_PAUSE = 0.5
#: A pass may take at most this fraction (1/SHARE) of the time, and comes at least this often (in seconds).
SHARE = 25
LONGEST_PAUSE = 10.0


class TrackerSettings(msgspec.Struct, frozen=True):
    """Settings that may change at any time. Times in seconds.

    ``ports``: connections to these are recorded. ``reset_ports``: clients of these are reset when the address leaves,
    and not notified by the next holder. ``interval``: between two scans of the kernel. Tickles are sent
    ``tickle_count`` times, every ``tickle_interval``.
    """

    ports: frozenset[int] = frozenset()
    reset_ports: frozenset[int] = frozenset()
    interval: float = 1.0
    tickle_count: int = 4
    tickle_interval: float = 0.4


class _Visit:
    """An address that is here, or about to be. ``leftover``: connections of an earlier holding that could not be ended
    before the address speaks again."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.reading: asyncio.Task[Listed] | None = None
        self.welcome: asyncio.Task[None] | None = None
        self.leftover: tuple[Found, ...] = ()

    def cancel(self) -> None:
        for task in (self.reading, self.welcome):
            if task is not None:
                task.cancel()


class ConnectionTracker:
    """The connections of one node, in the network namespace in which the object was created and started.

    ``claim`` gives the revision of this node's own claim on an address, 0 without one. ``settings`` is called each time
    that settings are needed. ``destroyer`` is for tests.
    """

    def __init__(
        self,
        lists: TickleStore,
        *,
        claim: Callable[[str], int],
        settings: Callable[[], TrackerSettings],
        log: Callable[[str, str], None],
        destroyer: Destroyer | None = None,
    ) -> None:
        self.lists = lists
        self.recorder = Recorder(lists, claim, self._run, self._say)
        self._settings = settings
        self._log = log
        self._destroyer = destroyer or Destroyer()
        self._visits: dict[str, _Visit] = {}
        #: Addresses without any connection here: they were released completely.
        self._clean: set[str] = set()
        self._sweeps: dict[str, asyncio.Task[Progress]] = {}
        self._worker = Worker("connections", room=ROOM)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._said: dict[str, str] = {}
        #: Whether the kernel can destroy connections.
        self.supported = True
        #: Set when that is known.
        self.known = asyncio.Event()

    # -- life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to record, in the running event loop."""
        # The thread belongs to the network namespace of its starter. If this fails, the first call starts it.
        with contextlib.suppress(NoAnswer):
            self._worker.prepare()
        self._spawn(self._register())

    async def close(self) -> None:
        """Stop; the lists stay in the store."""
        for visit in self._visits.values():
            visit.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(NoAnswer):
            # After the current work, unless that hangs: then the sockets end with the process.
            await self._worker.run("closing sockets", CLOSE_PATIENCE, self._destroyer.close)
        self._worker.close()
        self.recorder.close()

    async def _register(self) -> None:
        try:
            self.supported = await self._run(self._destroyer.supported)
            if not self.supported:
                self._log(UNSUPPORTED, "warning")
        except LocumError as error:
            self._log(f"connections: {error}", "error")
        self.known.set()
        while True:
            interval = self._settings().interval
            await asyncio.sleep(max(interval, min(SHARE * self.recorder.last_cost, LONGEST_PAUSE)))
            if len(self.recorder):
                await self._safely(self.recorder.look(self._settings().ports))

    # -- taking ----------------------------------------------------------------------------------------------------

    async def taking(self, address: str) -> None:
        """``address`` is about to be let through the gate: begin to read its list, and end connections of an earlier
        holding before they revive."""
        await self._safely(self._taking(address))

    async def _taking(self, address: str) -> None:
        self._leave(address)
        visit = self._visits[address] = _Visit(address)
        visit.reading = self._spawn(self.lists.read(address))
        sweep = self._sweeps.get(address)
        if sweep is None and address not in self._clean:
            sweep = self._sweep_later([address])
        self._clean.discard(address)
        if sweep is None:
            return
        done, _ = await asyncio.wait([sweep], timeout=RELEASE_PATIENCE)
        progress = sweep.result() if done else Progress()
        if progress.destroyed:
            self._log(f"{address}: {progress.destroyed} connections were left from an earlier holding", "info")
        if progress.unsupported:
            visit.leftover = tuple(found for found in progress.left if found.address == route.packed(address))

    def taken(self, address: str, interface: str) -> None:
        """``address`` is configured and announced: notify its clients, several times, and record its connections."""
        visit = self._visits.setdefault(address, _Visit(address))
        self._clean.discard(address)
        visit.welcome = self._spawn(self._welcome(visit, tell=True))

    def adopted(self, address: str, interface: str) -> None:
        """``address`` is here since before the agent's restart: continue its list."""
        visit = self._visits[address] = _Visit(address)
        visit.welcome = self._spawn(self._welcome(visit, tell=False))

    def updated(self, address: str, interface: str) -> None:
        """``address`` has another interface. Its connections live on; waiting clients are made to send again."""
        if address in self.recorder:
            self._spawn(self._tell_again(address))

    async def _welcome(self, visit: _Visit, *, tell: bool) -> None:
        address = visit.address
        listed = await self._listed(visit)
        for problem in listed.problems:
            self._log(f"connections: {problem}", "warning")
        if tell and visit.leftover:
            await asyncio.to_thread(reset, address, visit.leftover)
        await self.recorder.open(address, listed.buckets)
        clients = listed.entries() if tell else set()
        if clients:
            self._log(f"{address}: notifying {len(clients)} clients that it has moved", "info")
            await self._tell(address, clients)
        self.recorder.settle(address)
        if tell and listed.added:
            # They have been notified. Clients that continue here are found, or added again.
            try:
                await self.lists.change_added(address, (), listed.added)
            except StoreError as error:
                self._say("store", f"connections cannot be recorded: {error}")

    async def _listed(self, visit: _Visit) -> Listed:
        while True:
            reading, visit.reading = visit.reading, None
            try:
                listed = await (reading if reading is not None else self.lists.read(visit.address))
            except StoreError as error:
                self._say(f"list {visit.address}", f"the connections of {visit.address} cannot be read: {error}")
                await asyncio.sleep(READ_PAUSE)
            else:
                self._say(f"list {visit.address}", "")
                return listed

    async def _tell(self, address: str, entries: Collection[bytes]) -> int:
        """Send tickles; returns how many the kernel accepted, in the best round."""
        sent = 0
        for number in range(self._settings().tickle_count if entries else 0):
            if number:
                await asyncio.sleep(self._settings().tickle_interval)
            try:
                sent = max(sent, await self._run(tickle_once, address, entries, number))
            except LocumError as error:
                self._log(f"{address}: clients cannot be notified: {error}", "error")
                break
        return sent

    async def _tell_again(self, address: str) -> None:
        await self._tell(address, await self.recorder.live(address) or set())

    # -- releasing -------------------------------------------------------------------------------------------------

    async def releasing(self, address: str) -> None:
        """``address`` is about to be muted. Work that needs it to speak is done now: resets to clients of
        ``reset_ports``, and everything where the kernel cannot destroy connections."""
        await self._safely(self._releasing(address))

    async def _releasing(self, address: str) -> None:
        visit = self._visits.get(address)
        if visit is not None:
            visit.cancel()
        ports = self._settings().reset_ports
        if not self.supported:
            await self._reset_all(address, ports)
        elif ports:
            await self._sweep([address], ports)

    async def released(self, address: str) -> int:
        """``address`` is mute: end every connection to it, and record those for the next holder.

        Returns how many have ended. Waits for RELEASE_PATIENCE at most; the rest continues in the background.
        """
        return await self._safely(self._released(address)) or 0

    async def _released(self, address: str) -> int:
        recorded = self.recorder.shut(address)
        known = recorded is not None or address in self._visits
        self._leave(address)
        if not self.supported:
            return 0
        try:
            found: list[Found] = await self._run(self._destroyer.find, [address])
        except LocumError as error:
            self._log(f"{address}: connections cannot be listed: {error}", "error")
            return 0
        if not found:
            self._clean.add(address)
            return 0
        clients = {entry_of(f) for f in found if 1 << f.state & WORTH_TELLING}
        work: list[asyncio.Task[Any]] = [sweep := self._sweep_later([address], found)]
        if known:
            work.append(self._spawn(self.recorder.finish(address, recorded, clients)))
        await asyncio.wait(work, timeout=FLUSH_PATIENCE)
        await asyncio.wait([sweep], timeout=RELEASE_PATIENCE)
        if not sweep.done():
            self._log(f"{address}: still ending {len(found)} connections", "warning")
            return 0
        progress = sweep.result()
        if progress.left:
            self._log(f"{address}: {len(progress.left)} connections are closing and end by themselves", "info")
        return progress.destroyed

    def dropped(self, addresses: Iterable[str]) -> None:
        """``addresses`` have left without a release: the hold is lost, a take has failed, or an earlier daemon left
        them. Ends their connections in the background; the next holder notifies their clients."""
        gone = list(addresses)
        for address in gone:
            self.recorder.shut(address)
            self._leave(address)
            self._clean.discard(address)
        if gone and self.supported:
            self._sweep_later(gone)
        elif gone:
            self._log(f"connections to {', '.join(gone)} may live on: {UNSUPPORTED}", "warning")

    def _leave(self, address: str) -> None:
        self._say(f"list {address}", "")
        visit = self._visits.pop(address, None)
        if visit is not None:
            visit.cancel()

    async def _reset_all(self, address: str, ports: Collection[int]) -> None:
        recorded = self.recorder.shut(address)
        try:
            found, left = await asyncio.to_thread(end_all, address, ports)
        except LocumError as error:
            self._log(f"{address}: connections cannot be reset: {error}", "error")
            return
        if left:
            self._log(f"{address}: {len(left)} connections did not answer and may live on: {UNSUPPORTED}", "warning")
        if found:
            clients = {entry_of(f) for f in found if 1 << f.state & WORTH_TELLING and f.port not in ports}
            await asyncio.wait([self._spawn(self.recorder.finish(address, recorded, clients))], timeout=FLUSH_PATIENCE)

    def _sweep_later(self, addresses: Collection[str], found: list[Found] | None = None) -> asyncio.Task[Progress]:
        sweep = self._spawn(self._sweep(addresses, None, found))
        for address in addresses:
            self._sweeps[address] = sweep

        def done(task: asyncio.Task[Progress]) -> None:
            progress = Progress(failed=True) if task.cancelled() or task.exception() else task.result()
            ended = not (progress.left or progress.unsupported or progress.failed)
            for address in addresses:
                if self._sweeps.get(address) is task:
                    del self._sweeps[address]
                    if ended and address not in self._visits:
                        self._clean.add(address)

        sweep.add_done_callback(done)
        return sweep

    async def _sweep(
        self, addresses: Collection[str], ports: Collection[int] | None = None, found: list[Found] | None = None
    ) -> Progress:
        """Destroy connections, a chunk at a time, so that other work gets its turn."""
        steps = self._destroyer.sweep(addresses, ports, found)
        progress = Progress()
        try:
            while (step := await self._run(next, steps, None)) is not None:
                progress = step
        except LocumError as error:
            self._log(f"connections to {', '.join(addresses)} cannot be ended: {error}", "error")
            progress = progress._replace(failed=True)
        return progress

    # -- by command ------------------------------------------------------------------------------------------------

    def holds(self, address: str) -> bool:
        """Whether ``address`` is here."""
        return address in self._visits

    async def registered(self, address: str) -> tuple[set[bytes], set[bytes]]:
        """(found, added): the recorded connections of ``address``, on any node. Raises StoreError."""
        live = await self.recorder.live(address)
        if live is not None:
            return live, set((await self.lists.read_added(address))[0])
        listed = await self.lists.read(address)
        return set().union(*listed.buckets.values()), set(listed.added)

    async def tickle(self, address: str) -> int:
        """Notify all recorded clients of ``address``, which is here; returns how many. Raises StoreError."""
        found, added = await self.registered(address)
        return await self._tell(address, found | added)

    async def kill(self, address: str, ports: Collection[int] | None) -> Progress:
        """End the connections to ``address`` (to ``ports`` of it) at both ends. Raises NetlinkError."""
        if self.supported:
            return await self._sweep([address], ports)
        found: list[Found] = await self._run(self._destroyer.find, [address], ports)
        left = await asyncio.to_thread(reset, address, found, clients=True) if found else []
        return Progress(len(found) - len(left), tuple(left))

    # -- inside ----------------------------------------------------------------------------------------------------

    async def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function on the thread."""
        what = f"connections: {getattr(function, '__name__', 'a step')}"
        return await self._worker.run(what, None, function, *arguments)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    async def _safely(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Run ``work``: a defect in it must neither stop an address from moving nor end the recording."""
        try:
            return await work
        except Exception as error:
            self._log(f"connections: unexpected {type(error).__name__}: {error}", "error")
            return None

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        # The waiter of the task reports a store that does not answer.
        if error is not None and not isinstance(error, StoreError):
            self._log(f"connections: unexpected {type(error).__name__}: {error}", "error")

    def problems(self) -> tuple[str, ...]:
        """Current problems: clients may not be notified, or connections not ended, when an address moves."""
        return tuple(f"connections: {problem}" for _, problem in sorted(self._said.items()) if problem)

    def _say(self, about: str, problem: str) -> None:
        """Log a problem once and not every second; "" ends it."""
        if problem != self._said.get(about, ""):
            self._said[about] = problem
            if problem:
                self._log(problem, "error")
