"""A node's report about itself: everything that is shown, measured or checked outside the rules.

Rules of this file: values only. The view has the store's content; this has the node's own knowledge.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec

from locum.config.tunables import Tunables
from locum.rules.identity import Identity
from locum.rules.schema import HostedAddress


class Stage(enum.Enum):
    """The stage of a node's life; :mod:`locum.rules.membership` has the transitions."""

    JOINING = "joining"
    MEMBER = "member"
    LOST = "lost"
    LEFT = "left"


class NodeStatus(msgspec.Struct, frozen=True):
    """One node after its last input. Times are CLOCK_BOOTTIME seconds.

    ``incarnation``: its present membership, or the one that it tries to get; "" without one. ``leaving``: it was asked
    to leave. ``hold``, ``interval``: the length of the hold and the time between two beats, in seconds. ``deadline``:
    until when the hold lasts; past or 0 without a hold. ``current_at``: a member has seen every commit before that
    time. ``committing``: a commit waits for its answer. ``activity``: the event or kind of the activity under way,
    ``moving``: its address, if it has one. ``hosted``: the configured addresses. ``held``: address → interface of the
    addresses taken completely; ``unsure``: of others that may be configured here. ``unsteady``: interfaces whose link
    has not lasted long enough to count. ``started``: ``startup`` has succeeded. ``obstacle``: why the node cannot join,
    ``unable``: why it can serve no address, else "". ``last_retry``: the latest time at which the last refused address
    is retried; ``last_retake``: when ``takeip`` will have run again for every restored address; both are in the past
    or 0 when nothing waits.
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
    last_retake: float
    tunables: Tunables

    @property
    def member(self) -> bool:
        """Whether the node is a member of the cluster, as far as it knows."""
        return self.stage is Stage.MEMBER

    @property
    def name(self) -> str:
        """The node's name."""
        return self.identity.name
