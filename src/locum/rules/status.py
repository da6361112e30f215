"""What a node tells about itself: everything that is shown, measured or checked outside the rules.

Rules of this file: values only. What the store holds is in the view; this is what the node alone knows.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec

from locum.config.tunables import Tunables
from locum.rules.identity import Identity
from locum.rules.schema import HostedAddress


class Stage(enum.Enum):
    """Where a node is in its life; :mod:`locum.rules.node` has the transitions."""

    JOINING = "joining"
    MEMBER = "member"
    LOST = "lost"
    LEFT = "left"


class NodeStatus(msgspec.Struct, frozen=True):
    """One node after its last input. Times are CLOCK_BOOTTIME seconds.

    ``incarnation``: its present membership, or the one it tries to get; "" without. ``leaving``: it was asked to leave.
    ``hold``, ``interval``: the length of the hold and the time between two beats, in seconds. ``deadline``: until when
    the hold lasts, past or 0 without a hold. ``current_at``: everything committed before that time has been seen by a
    member. ``committing``: a commit waits for its answer. ``activity``: the event or kind of activity that runs, about
    the address ``moving`` if it is about one. ``hosted``: the configured addresses. ``held``: address → interface of
    what was taken completely; ``unsure``: of what may be configured here besides. ``unsteady``:
    interfaces whose link has not lasted long enough to count.  ``started``: ``startup`` has
    succeeded. ``obstacle``: why the node cannot join, ``unable``: why it can serve nothing, else "". ``last_retry``:
    when the last refused address is tried again at the latest; ``last_told``: when scripts will have been told of every
    address that came back; both are in the past or 0 when nothing waits.
    """

    identity: Identity
    stage: Stage
    incarnation: str
    leaving: bool
    hold: float
    interval: float
    deadline: float
    current_at: float
    committing: bool
    activity: str | None
    moving: str | None
    hosted: Mapping[str, HostedAddress]
    held: Mapping[str, str]
    unsure: Mapping[str, str]
    unsteady: tuple[str, ...]
    started: bool
    obstacle: str
    unable: str
    last_retry: float
    last_told: float
    tunables: Tunables

    @property
    def member(self) -> bool:
        """Whether the node is a member of the cluster, as far as it knows."""
        return self.stage is Stage.MEMBER

    @property
    def name(self) -> str:
        """The node's name."""
        return self.identity.name
