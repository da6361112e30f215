"""The actions that the rules ask their caller to carry out, as values.

Every effect with a ``request`` is answered exactly once, by the method of :class:`locum.rules.node.Node` that
its docstring names. The caller starts effects in the order given; they then run concurrently.
"""

from __future__ import annotations

import msgspec

from locum.rules.commit_kinds import CommitKind
from locum.store.base import Commit


class SendBeat(msgspec.Struct, frozen=True):
    """Take the time, arm ``slot`` of the kernel's gate for ``hold`` seconds, then commit. Safety depends on this order.

    Answer: ``beat_done(request, result, sent_at)``; ``result`` is None when the store did not answer and
    ``sent_at`` the CLOCK_BOOTTIME seconds taken *before* the gate was armed. The next beat follows after ``interval``
    seconds: a beat that cannot be sent within that time has lost much of its hold.
    """

    request: int
    slot: int
    commit: Commit
    incarnation: str
    hold: float
    interval: float


class ConfirmHold(msgspec.Struct, frozen=True):
    """The beat of ``slot`` was accepted: open the gate for the rest of its time; give the guard ``deadline``.

    ``incarnation``: the membership of the hold. ``revision``: that of the beat; an agent that adopts this hold must
    find it, or a later one, in the store. ``quiet``: the CLOCK_BOOTTIME second before which an adopting agent may take
    nothing either.
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

    ``kind`` and ``incarnation`` (of the present membership, "" before the first) state the commit's purpose.
    """

    request: int
    commit: Commit
    kind: CommitKind
    incarnation: str


class ReadAnew(msgspec.Struct, frozen=True):
    """The view may differ from the store: read everything, and watch from there. No answer."""


class RunEvent(msgspec.Struct, frozen=True):
    """Run one event that does not concern an address. Answer: ``activity_done(request, ok, reason)``."""

    request: int
    event: str


class AddressWork(msgspec.Struct, frozen=True):
    """Work on one address, as the one activity of the node."""

    request: int
    address: str
    bits: int
    interface: str


class TakeAddress(AddressWork, frozen=True):
    """Let the address through the gate, run ``takeip``, check that it is configured, announce it.

    ``first``: no node of the cluster has held it yet. Only then does evidence of another machine, heard since the
    probe, count; later it may have been another node's probe.

    Answer: ``activity_done(request, ok, reason)``. When not ok the address is not configured and is muted (I7). When ok
    the taken notes record it as held by ``incarnation``, for the agent that adopts it after a crash of this one.
    """

    incarnation: str
    first: bool = False


class ProbeAddresses(msgspec.Struct, frozen=True):
    """Ask on the network whether another machine has these (address, interface); all at once, without using them.

    Answer: ``probed(request, found)``; ``found``: address → the evidence, for those that another machine has.
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


class ReleaseAddress(AddressWork, frozen=True):
    """Mute the address, end its connections, run ``releaseip``, check that it is gone.

    Answer: ``activity_done(request, ok, reason)``; the address is gone in any case (I7).
    """


class UpdateAddress(msgspec.Struct, frozen=True):
    """Run ``updateip``: the address changes interface. Answer: ``activity_done``; when not ok it is gone and muted.

    When ok the taken notes record it as held by ``incarnation``, as after a take.
    """

    request: int
    address: str
    bits: int
    old_interface: str
    new_interface: str
    incarnation: str


class CancelActivity(msgspec.Struct, frozen=True):
    """Cancel the activity under way; its answer has ok False and its result is not used."""

    request: int


class Restore(msgspec.Struct, frozen=True):
    """Another program removed a held address: configure and announce it again, at once.

    Answer: ``restored(address, interface, problem)``; ``problem`` is "" when the address is configured again.
    """

    address: str
    bits: int
    interface: str


class TakeAgain(AddressWork, frozen=True):
    """Run ``takeip`` again for a held address, because the kernel lost state that scripts had attached to it.

    The address continues to serve meanwhile. Answer: ``activity_done``; when not ok it is gone and muted (I7). When ok
    the taken notes record it as held by ``incarnation``, as after a take.
    """

    incarnation: str


class Note(msgspec.Struct, frozen=True):
    """A message for the administrator's log."""

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
