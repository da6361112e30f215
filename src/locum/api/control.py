"""The control socket: one JSON request per line, one answer per line (``watch``: one per change).

This file finds the operation and answers. Other files define the operations (:mod:`locum.rules.admin` for changes,
:mod:`locum.api.status_report` for reports); ``docs/commands.md`` is the reference. An operation that fails answers with
an error and leaves connection and daemon unchanged.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from locum import json_lines, tasks
from locum.api import answers, status_report
from locum.api.admin_ops import AdminOperations
from locum.api.debug_report import debug_report
from locum.api.model import DaemonState, GateReport, LoopReport, ScriptsReport, StatusReport
from locum.api.reload import Reloader
from locum.api.who import who
from locum.clock import boottime
from locum.config.model import PathSettings
from locum.errors import LocumError, ProtocolError, UsageError
from locum.events.engine import EventEngine
from locum.events.inside import Inside
from locum.events.model import Event
from locum.json_lines_async import FrameConnection, FrameServer, serve_unix
from locum.node.driver import Driver
from locum.rules.occurrences import Occurrence, key_of
from locum.rules.status import Stage
from locum.store.server import group_id
from locum.threads import NoAnswer, Worker
from locum.unix_sockets import Peer

#: Events that an admin may run by hand in a running daemon; the daemon alone can run the others meaningfully.
BY_HAND = frozenset({Event.MONITOR, Event.IPREALLOCATED, Event.RECOVERED, Event.STARTIPREALLOCATE, Event.STARTRECOVERY})
#: Operations whose results do not come from the store: they are never outdated.
OF_THIS_NODE = frozenset({"reload", "shutdown", "event-list", "event-status", "event-run", "debug"})
#: Limit for the name of a command's author, in seconds.
_NAME_LIMIT = 0.3
#: Shortest time between two lines of ``watch``, in seconds: changes in between are shown together.
WATCH_PAUSE = 0.05
#: Longest time between two looks of ``watch``, in seconds.
WATCH_LOOK = 1.0
#: Of the operation ``shutdown``: it answers when other nodes serve the addresses, and ``shutdown`` is about to run.
HANDED_OVER = "handed-over"


Message = Mapping[str, object]

_decoder = msgspec.json.Decoder(dict[str, object])


class ControlServer:
    """Serves the socket of one agent. ``leaving`` is called when an admin makes the node leave."""

    def __init__(
        self,
        driver: Driver,
        engine: EventEngine,
        reloader: Reloader,
        gate: Callable[[], Awaitable[GateReport | None]],
        leaving: Callable[[], None],
        loop: Callable[[], LoopReport],
        tell: Callable[[Occurrence], None],
    ) -> None:
        self._driver = driver
        self._leaving = leaving
        self._tell = tell
        self._looker = Worker("who")
        self._loop = loop
        self._gate = gate
        self._engine = engine
        self._reloader = reloader
        self._admin = AdminOperations(driver, lambda: reloader.settings, tell)
        self._server: FrameServer | None = None
        self._operations: dict[str, Callable[[Message], Awaitable[object]]] = {
            "status": self._status,
            "tunables": self._tunables,
            "tunable-defaults": self._admin.tunable_defaults,
            "reload": self._reload,
            "event-list": self._event_list,
            "event-status": self._event_status,
            "debug": self._debug,
        }
        # Operations that wait for an event: their own, the move of addresses, or the node's leaving. Called from within
        # an event they would wait for themselves.
        self._waiting: dict[str, Callable[[Message, Inside | None, str], Awaitable[object]]] = {
            "admin": self._admin.run,
            "shutdown": self._shutdown,
            "event-run": self._event_run,
        }

    def add(self, operations: Mapping[str, Callable[[Message], Awaitable[object]]]) -> None:
        """Add operations of another part; before :meth:`start`."""
        self._operations.update(operations)

    async def start(self, paths: PathSettings) -> None:
        """Listen. Raises UsageError or PermissionRequired when that fails."""
        group = group_id(paths.control_group)
        self._server = await serve_unix(paths.control, lambda: _Connection(self), group=group)

    async def close(self) -> None:
        """Stop listening and close every connection."""
        self._looker.close()
        if self._server is not None:
            await self._server.close()

    async def answer(self, frame: bytes, connection: _Connection) -> None:
        """Carry out one request of ``connection``."""
        send = connection.send
        try:
            message = json_lines.decode(frame, _decoder)
            name = message.get("op")
            if name == "watch":
                await self._watch(connection)
                return
            if isinstance(name, str) and name in self._waiting:
                peer = connection.peer
                inside = await self._engine.inside(peer.pid if peer is not None else 0)
                by = await self._author(peer) if peer is not None and inside is None else ""
                send(answers.success(await self._waiting[name](message, inside, by)))
                return
            operation = self._operations.get(name) if isinstance(name, str) else None
            if operation is None:
                known = ", ".join(sorted([*self._operations, *self._waiting, "watch"]))
                raise UsageError(f"unknown operation {name!r}; known are {known}")
            result = await operation(message)
            old, age = ((), None) if name in OF_THIS_NODE else self._old()
            send(answers.success(result, old, age))
        except LocumError as error:
            send(answers.failure(error))
        except Exception as error:
            # A defect in one operation: the log has the place, and the client gets an answer.
            traceback.print_exc()
            send(answers.failure(LocumError(f"unexpected {type(error).__name__}: {error}; the daemon's log says more")))

    async def _watch(self, connection: _Connection) -> None:
        last: StatusReport | None = None
        while True:
            # A slow client receives only the latest status.
            await connection.writable.wait()
            present = self._report(self._state())
            if last is None or status_report.differs(last, present):
                connection.send(answers.success(present))
                last = present
            await asyncio.sleep(WATCH_PAUSE)
            # Changes by time alone (the end of a hold or a ban) are checked periodically.
            await self._driver.wait_for_change(WATCH_LOOK)

    async def _author(self, peer: Peer) -> str:
        """Who gives a command; names may come from a directory in the network that does not answer."""
        try:
            return await self._looker.run("looking who gives a command", _NAME_LIMIT, who, peer)
        except NoAnswer:
            return f"user {peer.uid}"

    def _old(self) -> tuple[tuple[str, ...], float | None]:
        """Why this daemon's knowledge of the cluster may be outdated, and its maximum age."""
        state = self._state()
        return status_report.why_old(self._driver.node.view, state), state.age

    def _state(self) -> DaemonState:
        status = self._driver.node.status()
        return DaemonState(
            hold_left=max(status.deadline - boottime(), 0.0),
            hold=status.hold,
            store=str(self._reloader.settings.cluster.store),
            store_problem=self._driver.store_problem,
            stage=status.stage.value,
            obstacle=status.obstacle,
            activity=status.activity,
            age=self._driver.age(boottime()),
        )

    def _report(self, state: DaemonState) -> StatusReport:
        node, status = self._driver.node, self._driver.node.status()
        return status_report.status_report(node.view, status.name, time.time(), status.tunables, state)

    async def _status(self, message: Message) -> object:
        gate = await self._gate()
        return self._report(
            msgspec.structs.replace(self._state(), gate=gate, scripts=self._scripts(), loop=self._loop())
        )

    def _scripts(self) -> ScriptsReport:
        in_use = self._engine.in_use
        enabled = sum(script.enabled for script in in_use.scripts)
        ignored = tuple(str(problem) for problem in in_use.problems if problem.ignored)
        directory = self._reloader.settings.paths.events
        return ScriptsReport(directory, enabled, ignored, self._engine.directory_problem)

    async def _tunables(self, message: Message) -> object:
        node = self._driver.node
        return status_report.tunable_reports(node.view, node.tunables)

    async def _reload(self, message: Message) -> object:
        return await self._reloader.reload()

    async def _shutdown(self, message: Message, inside: Inside | None, by: str) -> object:
        self._leaving()
        local, revision = self._driver.node.status().name, self._driver.node.view.revision
        given = inside.script if inside is not None else by
        self._tell(
            Occurrence(
                # The revision may be that of an earlier command.
                key_of(revision, "command", local, "leaves", f"{time.time():.6f}"),
                "command",
                time.time(),
                local,
                command=f"{local} leaves the cluster",
                by=given,
            )
        )
        self._driver.feed(self._driver.node.leave)
        if inside is not None:
            return {"message": f"leaves the cluster when {inside} has ended", "inside": inside.event}
        if message.get("until") == HANDED_OVER:
            while not self._handed_over():
                await self._driver.wait_for_change(WATCH_LOOK)
            return {"message": "the addresses are handed over"}
        return {"message": "leaving the cluster"}

    def _handed_over(self) -> bool:
        """Whether this leaving node has come to the event shutdown, which runs after its addresses have moved."""
        status = self._driver.node.status()
        return status.stage is Stage.LEFT or status.activity == Event.SHUTDOWN

    async def _event_list(self, message: Message) -> object:
        return {"directory": self._reloader.settings.paths.events, "scripts": self._engine.in_use.scripts}

    async def _event_status(self, message: Message) -> object:
        return self._engine.status()

    async def _debug(self, message: Message) -> object:
        return debug_report(self._driver.node.view, self._engine.running)

    async def _event_run(self, message: Message, inside: Inside | None, by: str) -> object:
        name = message.get("event", "")
        if name not in list(Event):
            raise UsageError(f"unknown event {name!r}; known are {', '.join(Event)}")
        event = Event(str(name))
        if event not in BY_HAND:
            raise UsageError(
                f"{event} is run by the daemon only; to try a script use 'locum event run --dir DIR {event} …'"
            )
        if inside is not None:
            raise UsageError(
                f"{event} cannot be run from within {inside}: it would wait for that and never begin. "
                "Leave it to the daemon; a monitor that creates $LOCUM_RUNTIME/again is followed by another one soon"
            )
        result = await self._engine.run(event)
        if event is Event.MONITOR:
            # Only the daemon's own monitor decides about health: run it as well.
            self._driver.feed(self._driver.node.trigger_monitor)
        return result


class _Connection(FrameConnection):
    """One client; its requests are answered one after the other."""

    def __init__(self, server: ControlServer) -> None:
        super().__init__()
        self._control = server
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(maxsize=64)
        self._task: asyncio.Task[None] | None = None
        #: Set while the peer reads its answers.
        self.writable = asyncio.Event()
        self.writable.set()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.writable.clear()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.writable.set()

    def on_open(self) -> None:
        self._task = tasks.start(self._work(), "answering a client of the control socket")

    def on_frame(self, frame: bytes) -> None:
        try:
            self._queue.put_nowait(frame)
        except asyncio.QueueFull:
            raise ProtocolError("too many requests at once on one connection") from None

    def on_garbage(self, error: ProtocolError) -> None:
        self.send(answers.failure(error))

    def on_close(self, error: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _work(self) -> None:
        while True:
            await self._control.answer(await self._queue.get(), self)
