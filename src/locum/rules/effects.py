"""What the rules ask the edge to do, as values.

Every effect with a ``request`` is answered exactly once, by the method of :class:`locum.rules.node.Node` that
its docstring names. Effects are to be started in the order given; they run side by side from then on.
"""

from __future__ import annotations

import msgspec

from locum.rules.commit_kinds import CommitKind
from locum.store.base import Commit


class SendBeat(msgspec.Struct, frozen=True):
    """Take the time, arm ``slot`` of the kernel's gate for ``hold`` seconds, then commit; in this order, for safety.

    Answer: ``beat_done(request, result, sent_at)``; ``result`` is None when the store did not answer and
    ``sent_at`` the CLOCK_BOOTTIME seconds taken *before* the gate was armed. The next beat follows after ``interval``
    seconds: one that cannot be sent within that time has lost much of its hold.
    """

    request: int
    slot: int
    commit: Commit
    incarnation: str
    hold: float
    interval: float


class ConfirmHold(msgspec.Struct, frozen=True):
    """The beat of ``slot`` was accepted: open the gate for what is left of its time; tell the guard ``deadline``.

    ``incarnation``: the membership that the hold belongs to. ``revision``: the beat's, which an agent that adopts this
    hold must find in the store, or a later one. ``quiet``: the CLOCK_BOOTTIME second before which such an agent may
    take nothing either.
    """

    incarnation: str
    slot: int
    deadline: float
    revision: int
    quiet: float


class DropHold(msgspec.Struct, frozen=True):
    """The membership is lost: shut the gate and remove every public address from the kernel at once."""


class CommitWork(msgspec.Struct, frozen=True):
    """Commit to the store. Answer: ``commit_done(request, result)``, result None when the store did not answer.

    ``kind`` and ``incarnation`` (of the present membership, "" before the first) tell what the commit is for.
    """

    request: int
    commit: Commit
    kind: CommitKind
    incarnation: str


class ReadAnew(msgspec.Struct, frozen=True):
    """What the view has may not be what the store has: read everything, and watch from there. No answer."""


class RunEvent(msgspec.Struct, frozen=True):
    """Run one event that concerns no address. Answer: ``activity_done(request, ok, reason)``."""

    request: int
    event: str


class TakeAddress(msgspec.Struct, frozen=True):
    """Let the address through the gate, run ``takeip``, see that it is configured, announce it.

    ``first``: no node of the cluster has held it yet. What a probe has heard of other machines since counts then; later
    it may have been another node's probe.

    Answer: ``activity_done(request, ok, reason)``. When not ok the address is not configured and is muted (I7). When ok
    it is noted as held by ``incarnation``, for the agent that comes after a crash of this one.
    """

    request: int
    address: str
    bits: int
    interface: str
    incarnation: str
    first: bool = False


class ProbeAddresses(msgspec.Struct, frozen=True):
    """Ask on the wire whether another machine has these (address, interface); all at once, without using any of them.

    Answer: ``probed(request, found)``, found is address → what was heard, for those that another machine has.
    """

    request: int
    items: tuple[tuple[str, str], ...]


class LookForClusters(msgspec.Struct, frozen=True):
    """Look for other clusters in the same store that host one of this node's addresses, ``hosted``.

    Answer: ``clusters_seen(request, problem, addresses)``: why this node must not serve ``addresses``, "" when it may
    serve all of its own, None when the store did not answer.
    """

    request: int
    hosted: tuple[str, ...]


class ReleaseAddress(msgspec.Struct, frozen=True):
    """Mute the address, end its connections, run ``releaseip``, see that it is gone.

    Answer: ``activity_done(request, ok, reason)``; gone in any case (I7).
    """

    request: int
    address: str
    bits: int
    interface: str


class UpdateAddress(msgspec.Struct, frozen=True):
    """Run ``updateip``: the address changes interface. Answer: ``activity_done``; when not ok it is gone and muted.

    When ok it is noted as held by ``incarnation``, as after a take.
    """

    request: int
    address: str
    bits: int
    old_interface: str
    new_interface: str
    incarnation: str


class CancelActivity(msgspec.Struct, frozen=True):
    """Cancel the ``monitor`` under way; it is answered with ok False and its result is not used."""

    request: int


class Restore(msgspec.Struct, frozen=True):
    """The address is held but was removed behind our back: configure and announce it again, at once.

    Answer: ``restored(address, interface, problem)``; ``problem`` is "" when the address is there again.
    """

    address: str
    bits: int
    interface: str


class TakeAgain(msgspec.Struct, frozen=True):
    """Run ``takeip`` once more for an address that is held, because the kernel lost what scripts had attached to it.

    The address goes on serving meanwhile. Answer: ``activity_done``; when not ok it is gone and muted (I7). When ok it
    is noted as held by ``incarnation``, as after a take.
    """

    request: int
    address: str
    bits: int
    interface: str
    incarnation: str


class Note(msgspec.Struct, frozen=True):
    """Something that an admin wants to read in the log."""

    text: str
    level: str = "info"


class Exit(msgspec.Struct, frozen=True):
    """The node has left in order."""


Effect = (
    SendBeat
    | ConfirmHold
    | DropHold
    | CommitWork
    | ReadAnew
    | RunEvent
    | TakeAddress
    | ProbeAddresses
    | LookForClusters
    | ReleaseAddress
    | UpdateAddress
    | CancelActivity
    | Restore
    | TakeAgain
    | Note
    | Exit
)
