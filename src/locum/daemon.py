"""The daemon: puts store, rules, kernel, scripts and the control socket together, and runs them.

Rules of this file: the guard forks it (:func:`run_agent`). Only this file knows all parts; it decides nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

import locum
from locum import tasks
from locum.api.control import ControlServer
from locum.api.gate_report import gate_report
from locum.api.history import HistoryOperations
from locum.api.loop_report import loop_report
from locum.api.reload import Reloader, tell_guard
from locum.clock import SystemClock, boottime
from locum.config.model import Settings
from locum.connections.operations import ConnectionOperations
from locum.connections.plain_tcp import PlainTcp
from locum.connections.ports import DeclaredPorts
from locum.connections.tickle_store import TickleStore
from locum.connections.tracker import ConnectionTracker, TrackerSettings
from locum.errors import LocumError
from locum.events.engine import EventEngine
from locum.lateness import Lateness, Stop
from locum.machine.addresses import Address, AddressTable
from locum.machine.announcements import Announcer
from locum.machine.gate.gate import Gate
from locum.machine.wire_watch import WireWatch
from locum.nfs.operations import StatdOperations
from locum.node import life
from locum.node.auditor import Auditor
from locum.node.clusters import ClusterSearch
from locum.node.configured import identity_of, machine_identity, script_environment, store_of
from locum.node.driver import Driver
from locum.node.guard.children import EXIT_HOPELESS
from locum.node.guard.enforcement import enforcement_of, judged_before, public_interfaces
from locum.node.guard.hold_page import HoldPage
from locum.node.historian import Historian
from locum.node.kernel_calls import KernelCalls
from locum.node.kernel_watch import KernelWatch
from locum.node.log import Log
from locum.node.reconfiguration import Reconfiguration
from locum.node.steps import Steps
from locum.node.taken_notes import TakenNotes
from locum.rules.node import Adoption, Node
from locum.rules.view import View
from locum.store.base import Store
from locum.store.prefixed import PrefixedStore
from locum.threads import NoAnswer, use_bounded_executor

if TYPE_CHECKING:
    from locum.store.etcd import EtcdStore

_PACKAGE = str(Path(locum.__file__).parent) + os.sep

#: How often the agent checks what its scripts handle and declare, and the time limit for the files, in seconds.
LOOK_PAUSE = 1.0
LOOK_LIMIT = 5.0
#: Shortest time between two equal messages of the event loop, in seconds.
COMPLAINT_PAUSE = 10.0


def _renewing(store: Store, settings: Settings) -> EtcdStore | None:
    """``store``, if its credentials can be renewed."""
    if settings.cluster.store.kind != "etcd":
        return None
    from locum.store.etcd import EtcdStore  # noqa: PLC0415  (aiohttp)

    return store if isinstance(store, EtcdStore) else None


def _warner(driver: Driver, log: Log) -> Callable[[tuple[str, ...]], None]:
    """A receiver of all warnings about credentials: for the status of every node, and the new ones for the log."""
    known: tuple[str, ...] = ()

    def warn(texts: tuple[str, ...]) -> None:
        nonlocal known
        for text in texts:
            if text not in known:
                log(text, "warning")
        known = texts
        driver.feed(driver.node.warnings_changed, "credentials", texts)

    return warn


def public_addresses(node: Node) -> set[str]:
    """Every public address that some node of the cluster is configured for."""
    return {a.address for n in node.view.nodes.values() for a in n.record.addresses}


def plain_addresses(settings: Settings) -> tuple[str, ...]:
    """The public addresses on which Multipath TCP is disabled."""
    return () if settings.connections.mptcp else tuple(a.address for a in settings.addresses)


def own_claim(node: Node, address: str) -> int:
    """The revision of this node's own claim on ``address``, 0 when it has none."""
    status, claim = node.status(), node.view.claims.get(address)
    if claim is None or (claim.record.node, claim.record.incarnation) != (status.name, status.incarnation):
        return 0
    return node.view.revision_of(f"claim/{address}")


def preload(settings: Settings) -> None:
    """Import the agent's modules for ``settings``, so that every fork of the guard has them."""
    if settings.cluster.store.kind == "etcd":
        import locum.store.etcd  # noqa: F401, PLC0415  (aiohttp: slow to import, not needed for other stores)


def found_here(
    page: HoldPage, notes: TakenNotes, configured: Sequence[str], judged: Iterable[str]
) -> tuple[Adoption | None, list[Address]]:
    """What the previous agent left in this machine's kernel and files."""
    with contextlib.closing(AddressTable()) as table:
        return life.look(page, notes, table, configured, judged)


async def serve(settings: Settings) -> int:
    """Run the agent until its node has left; returns the exit status."""
    log = Log(settings.node.name, settings.log.level, settings.log.format)
    runtime = settings.paths.runtime
    page = HoldPage(os.path.join(runtime, "hold"))
    notes = TakenNotes(os.path.join(runtime, "held"))
    clock = SystemClock()
    calls = KernelCalls(log)
    lateness = Lateness(lambda stop: log(_stood(stop), "warning"))
    lateness.start()
    use_bounded_executor()
    # From here on the guard sees that this agent is alive, however long the kernel takes for the following calls.
    complaints = _Complaints(log)
    asyncio.get_running_loop().set_exception_handler(complaints)
    # The guard may pass on a signal as soon as the page shows that this agent runs.
    stopping, reloading = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    loop.add_signal_handler(signal.SIGHUP, reloading.set)
    pulse = life.pulse(page, clock, lateness.turn)
    background = [tasks.start(pulse, "reporting the turns of the event loop to the guard")]
    configured, interfaces = [a.address for a in settings.addresses], public_interfaces(settings)
    beginning = await life.begin(
        calls,
        configured,
        interfaces,
        partial(judged_before, Gate),
        partial(found_here, page, notes, configured),
        partial(enforcement_of, settings.cluster.hold, log=log, open_gate=Gate),
    )
    adoption, enforcement = beginning.adoption, beginning.enforcement
    engine = EventEngine(
        Path(settings.paths.events),
        runtime=Path(runtime),
        state=Path(settings.paths.state),
        settings=settings.scripts,
        environment=script_environment(settings),
        tunables=lambda: node.tunables,
        log=log,
    )
    node = Node(
        identity_of(settings, enforcement.margin, enforcement.warning, machine_identity(settings)),
        View(),
        lambda: secrets.token_hex(8),
        adoption,
    )
    whole = store_of(settings)
    declared = DeclaredPorts(os.path.join(runtime, "listen"))

    def connection_settings() -> TrackerSettings:
        tunables, given = node.tunables, reloader.settings.connections
        return TrackerSettings(
            ports=declared.ports.union(given.ports),
            reset_ports=frozenset(given.reset_ports),
            interval=tunables.tickle_update_interval,
            tickle_count=tunables.tickle_count,
            tickle_interval=tunables.tickle_interval,
        )

    connections = ConnectionTracker(
        TickleStore(whole, settings.cluster.name),
        claim=lambda address: own_claim(node, address),
        settings=connection_settings,
        log=log,
    )
    wire = WireWatch(
        changed=lambda: driver.feed(node.warnings_changed, "wire", wire.warnings()),
        log=log,
    )

    def watch_wire(settings: Settings) -> None:
        wire.configure((a.address for a in settings.addresses), settings.network.ignore)

    steps = Steps(
        clock=clock,
        table=AddressTable(),
        gate=enforcement.gate,
        lifetime=enforcement.lifetime,
        announcer=Announcer(),
        engine=engine,
        page=page,
        notes=notes,
        connections=connections,
        calls=calls,
        wire=wire,
        tunables=lambda: node.tunables,
        log=log,
    )
    store = PrefixedStore(whole, settings.cluster.name + "/")
    # Bulk data has its own prefix, which no node watches.
    bulk = PrefixedStore(whole, settings.cluster.name + ".bulk/")
    clusters = ClusterSearch(whole, settings.cluster.name, settings.node.name, settings.cluster.same_addresses_as, log)
    driver = Driver(node, store, steps, clusters, clock, log)
    complaints.on_defect = driver.defect
    kernel = KernelWatch(driver, steps, engine, enforcement.gate, calls, runtime, log)
    auditor = Auditor(driver, steps, enforcement.gate is not None, log, connections.problems, kernel.news.compare)
    kernel.news.on_change = auditor.soon
    credentials = _renewing(whole, settings)
    if credentials is not None:
        credentials.watch_credentials(lambda text: log(f"etcd: {text}"), _warner(driver, log))

    reconfiguration = Reconfiguration(
        driver, steps.gate, steps.addresses.configured, configured, interfaces, beginning.leaving, tell_guard, log
    )
    reloader = Reloader(settings, driver, engine, reconfiguration, log, credentials)
    steps.addresses.on_gone, reconfiguration.on_added = reconfiguration.gone, kernel.news.compare
    own_ports = () if enforcement.gate is None else (enforcement.gate.port,)
    plain = PlainTcp(lambda: plain_addresses(reloader.settings), log, own_ports)
    reloader.on_change = plain.look
    wire.on_defence = steps.defend
    reloader.on_reload = watch_wire

    def tell_guard_to_leave() -> None:
        # The guard remembers it in case this agent dies before the node has left.
        os.kill(os.getppid(), signal.SIGUSR2)

    historian = Historian(bulk, node.leads, node.remembered, log)
    driver.on_occurrences = historian.add
    control = ControlServer(
        driver,
        engine,
        reloader,
        lambda: gate_report(enforcement.gate, calls),
        tell_guard_to_leave,
        lambda: loop_report(lateness, page.guard_stop),
        lambda occurrence: historian.add([occurrence], own=True),
    )
    control.add(HistoryOperations(historian).table())
    statd = StatdOperations(
        bulk,
        settings.node.name,
        served=lambda: list(steps.addresses.configured),
        known=lambda: public_addresses(node),
    )
    control.add(statd.operations())
    on_connections = ConnectionOperations(
        connections,
        public=lambda: public_addresses(node),
        holder=node.view.claim_holder,
    )
    control.add(on_connections.table())
    loop.add_signal_handler(signal.SIGHUP, reloader.request)
    if reloading.is_set():
        reloader.request()

    async def listen() -> None:
        if adoption is not None:
            background.append(tasks.start(reloader.look(), "looking at the configuration"))
        await control.start(settings.paths)
        kernel.start()
        auditor.start()
        plain.start()
        historian.start()
        background.extend(
            (
                tasks.start(_look_at_scripts(driver, engine), "looking at the event scripts"),
                tasks.start(_look_at_ports(declared, calls), "looking at declared ports"),
                tasks.start(_leave(stopping, driver), "waiting for the signal to leave"),
            )
        )

    try:
        connections.start()
        watch_wire(settings)
        wire.start(loop)
        bits = {a.address: a.bits for a in settings.addresses}
        problem = await life.run(beginning, bits, driver, steps, engine, listen)
        if problem is not None:
            log(problem, "error")
            return EXIT_HOPELESS
        log("left the cluster")
        return 0
    finally:
        lateness.close()
        for task in background:
            task.cancel()
        auditor.close()
        historian.close()
        kernel.close()
        await plain.close()
        wire.close()
        steps.close()
        await control.close()
        await connections.close()
        await engine.stop()
        await store.close()
        calls.close()


async def _look_at_scripts(driver: Driver, engine: EventEngine) -> None:
    """Watch for changes of the scripts or of the events that they handle."""
    late: tuple[str, ...] = ()
    handled: tuple[str, ...] = ()
    problem = ""
    while True:
        await asyncio.sleep(LOOK_PAUSE)
        present = await engine.handled()
        if present != handled:
            handled = present
            driver.feed(driver.node.handles_changed, handled)
        if engine.directory_problem != problem:
            problem = engine.directory_problem
            driver.feed(driver.node.warnings_changed, "scripts", (problem,) if problem else ())
        before, late = late, engine.late
        if not set(late) <= set(before):
            # A monitor runs their startup first; until then they receive no event.
            driver.feed(driver.node.trigger_monitor)


async def _look_at_ports(declared: DeclaredPorts, calls: KernelCalls) -> None:
    """Watch for changes of the ports that scripts declare."""
    while True:
        with contextlib.suppress(NoAnswer):
            await calls.files.run("reading declared ports", LOOK_LIMIT, declared.read)
        await asyncio.sleep(LOOK_PAUSE)


def _stood(stop: Stop) -> str:
    return f"the event loop was blocked for {stop}; beats, and answers to commands, had to wait"


class _Complaints:
    """The event loop's exception handler.

    It logs one line for a lack of resources, such as descriptors for a new connection, and the place in the code for a
    defect; an equal message within some seconds is not repeated. After the failure of a background task, or of a
    callback of this package, the agent works only in part: ``on_defect`` ends it, and the guard starts another one,
    which adopts.
    """

    def __init__(self, log: Callable[[str, str], None]) -> None:
        self._log = log
        self._said: dict[str, float] = {}
        self.on_defect: Callable[[BaseException], None] = lambda _: None

    def __call__(self, loop: asyncio.AbstractEventLoop, context: Mapping[str, object]) -> None:
        error = context.get("exception")
        self._say(context, error)
        if (failed := tasks.failed_task(context)) is not None:
            self.on_defect(failed)
        elif "handle" in context and _is_defect(error) and _in_this_package(error):
            self.on_defect(error)

    def _say(self, context: Mapping[str, object], error: object) -> None:
        now = boottime()
        text = f"{context.get('message')}: {error}"
        if now < self._said.get(text, 0.0):
            return
        self._said = {old: until for old, until in self._said.items() if until > now}
        self._said[text] = now + COMPLAINT_PAUSE
        self._log(text, "error")
        if _is_defect(error):
            traceback.print_exception(error)


def _is_defect(error: object) -> TypeGuard[Exception]:
    """Whether an exception shows a defect of the program, not a problem of its environment."""
    return isinstance(error, Exception) and not isinstance(error, OSError | LocumError)


def _in_this_package(error: Exception) -> bool:
    """Whether code of this package raised ``error`` or passed it on."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code.co_filename.startswith(_PACKAGE) for frame, _ in frames)


async def _leave(stopping: asyncio.Event, driver: Driver) -> None:
    await stopping.wait()
    driver.feed(driver.node.leave)


def run_agent(settings: Settings) -> int:
    """The agent process: serve, or report in one line each why that is not possible."""
    try:
        return asyncio.run(serve(settings))
    except LocumError as error:
        for line in str(error).splitlines():
            print(f"locum: {line}", file=sys.stderr)
        # A lack of threads may be temporary: the guard starts another agent.
        return 1 if isinstance(error, NoAnswer) else EXIT_HOPELESS
