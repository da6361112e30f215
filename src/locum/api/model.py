"""The daemon's reports as values; ``docs/commands.md`` documents each field as JSON shows it.

Values only, and light to import, because the command line decodes into them. :mod:`locum.api.status_report` builds them
from a view. Fields are only ever added, so that scripts that read the JSON continue to work.
"""

from __future__ import annotations

from typing import Literal

import msgspec

#: The progress of the present plan. ``none``: there is no plan yet.
Progress = Literal["none", "preparing", "moving", "recovering", "settled"]

#: ``served``: by the assigned node. ``moving``: ``serving`` says whether a node answers meanwhile.
AddressState = Literal["served", "moving", "unserved"]


class NodeReport(msgspec.Struct, frozen=True):
    """One node. ``number`` is None while the node's record cannot be read.

    ``addresses`` are those that it has claimed, ``hosts`` counts those that it is configured for. ``reason``: why the
    state is not OK. ``banned_until`` is unix time in seconds. ``refused``: address → why it could not be taken.
    ``phase`` is the node's own progress with the plan of epoch ``phase_epoch``. ``waits``: the node takes over no
    address yet, because a hold from before its start, or from before an outage of the store, may last.
    """

    name: str
    number: int | None
    state: str
    addresses: tuple[str, ...] = ()
    reason: str = ""
    private_address: str = ""
    local: bool = False
    leader: bool = False
    hosts: int = 0
    disabled: bool = False
    stopped: bool = False
    banned_until: float | None = None
    incarnation: str | None = None
    started: bool = False
    healthy: bool = False
    leaving: bool = False
    down: tuple[str, ...] = ()
    refused: dict[str, str] = {}
    phase: str | None = None
    phase_epoch: int | None = None
    hold: float | None = None
    version: str | None = None
    warning: str = ""
    waits: bool = False


class AddressReport(msgspec.Struct, frozen=True):
    """One public address.

    ``node`` has the claim on it (None: no node has); ``serving``: its ``takeip`` has succeeded. ``interface`` is where
    ``node`` has it. ``assigned`` is the plan's node, ``preferred`` an admin's choice. ``reason``: why it is not served,
    or not on its assigned node. ``hosts`` are the nodes configured for it.
    """

    address: str
    bits: int
    interface: str | None
    node: str | None
    serving: bool
    state: AddressState
    assigned: str | None = None
    preferred: str | None = None
    reason: str = ""
    hosts: tuple[str, ...] = ()


class GateReport(msgspec.Struct, frozen=True):
    """The current state of the kernel's gate on the answering node.

    ``installed``: its tables are loaded; without them, the kernel does not enforce this node's hold.
    ``open_for``: seconds until it closes unless a beat is confirmed, 0 when it is shut. ``held``: the addresses that
    may speak while it is open. ``egress`` and ``egress_missing``: public interfaces on which packet sockets are and are
    not covered. ``refused``: packets that it has dropped, per table family. ``problem``: why its state could not be
    read, or "".
    """

    installed: bool = False
    open_for: float = 0.0
    held: tuple[str, ...] = ()
    egress: tuple[str, ...] = ()
    egress_missing: tuple[str, ...] = ()
    refused: dict[str, int] = {}
    problem: str = ""


class ScriptsReport(msgspec.Struct, frozen=True):
    """The answering node's event scripts, as of the last look.

    ``in_use`` counts the enabled ones. ``ignored``: files of the directory that never run, each with the reason.
    ``problem``: the directory's fault and which scripts run meanwhile, or "".
    """

    directory: str
    in_use: int = 0
    ignored: tuple[str, ...] = ()
    problem: str = ""


class GuardStop(msgspec.Struct, frozen=True):
    """The longest stop of the guard's loop; the fields have the meaning of :class:`LoopReport`."""

    longest: float
    where: str
    at: float
    everything: bool


class LoopReport(msgspec.Struct, frozen=True):
    """The state of the answering daemon's event loop, on which beats and answers depend.

    ``longest``: the longest stop within the last hour, in seconds (0: none worth mentioning), ``where`` (file and line,
    "" if not seen), and ``at`` unix time in seconds; ``everything``: the whole process was stopped, not the loop alone.
    ``hanging``: calls on the daemon's threads that have lasted longer than a second. ``dropped``: lines of the log that
    standard error did not accept. ``guard``: the same for the guard's loop, which keeps the hold's deadline; None
    without a stop.
    """

    longest: float = 0.0
    where: str = ""
    at: float = 0.0
    everything: bool = False
    hanging: tuple[str, ...] = ()
    dropped: int = 0
    guard: GuardStop | None = None


class DaemonState(msgspec.Struct, frozen=True):
    """The answering daemon's own state, apart from its view of the cluster.

    ``hold`` and ``hold_left`` in seconds; a node whose hold has ended answers for no address. ``age``: the possible age
    of the node's view in seconds, None before it has read the store. ``store`` is the store's location,
    ``store_problem`` is "" while it answers. ``stage``: joining, member, lost or left. ``activity``: the running event,
    if any. ``obstacle``: why the node cannot join the cluster now, or "". ``gate`` is None where nftables cannot
    enforce holds, and in the lines of a watch; ``scripts`` and ``loop`` are None there too.
    """

    hold_left: float = 0.0
    hold: float = 0.0
    store: str = ""
    store_problem: str = ""
    stage: str = ""
    activity: str | None = None
    obstacle: str = ""
    gate: GateReport | None = None
    scripts: ScriptsReport | None = None
    loop: LoopReport | None = None
    age: float | None = None


class StatusReport(msgspec.Struct, frozen=True):
    """The cluster as the answering node ``node`` sees it. ``epoch`` is 0 and ``cause`` empty before the first plan.

    ``waiting_for`` names what the plan's progress waits for. ``revision`` is the store's, as last seen. ``stale``: the
    node has no contact with the store, or has just lost its membership, so this report may be outdated; ``warnings``
    begins with the reasons. ``age``: its possible age in seconds, None before the node has read the store.
    """

    node: str
    leader: str | None
    epoch: int
    cause: str
    progress: Progress
    waiting_for: tuple[str, ...]
    nodes: tuple[NodeReport, ...]
    addresses: tuple[AddressReport, ...]
    warnings: tuple[str, ...]
    stale: bool = False
    age: float | None = None
    revision: int = 0
    daemon: DaemonState | None = None


class TunableReport(msgspec.Struct, frozen=True):
    """One tunable. ``set``: it was set; ``value`` is in force in any case. ``expected`` describes the valid values."""

    name: str
    value: int | float
    default: int | float
    set: bool
    unit: str
    meaning: str
    expected: str = ""


class AdminResult(msgspec.Struct, frozen=True):
    """The result of an admin command.

    ``changed`` is false when no change was needed. ``complete`` is false when the change was accepted (it is in the
    store, and will be carried out) but not finished while the command waited; ``pending`` then names the rest.
    """

    message: str
    warnings: tuple[str, ...] = ()
    changed: bool = True
    complete: bool = True
    pending: str = ""
