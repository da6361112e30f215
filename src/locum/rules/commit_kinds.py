"""Kinds of commits: what a node can ask of the store, one type each.

Rules of this file: values only. A kind says what a commit is for; conditions and operations are worked out where it is
started. Of all kinds that share a :attr:`CommitKind.lane`, one commit at a time is under way
(:mod:`locum.rules.commits`).
"""

from __future__ import annotations

from collections.abc import Hashable

import msgspec


class CommitKind(msgspec.Struct, frozen=True):
    """What a commit is for. Unless a kind says otherwise, it has a lane of its own for each value of its fields."""

    @property
    def lane(self) -> Hashable:
        """Two commits with equal lanes are never under way together."""
        return self


# -- a node's own -----------------------------------------------------------------------------------------------


class Join(CommitKind, frozen=True):
    """Become a member: ``node``, ``number``, ``member``, and the end of what an earlier life left."""


class Farewell(CommitKind, frozen=True):
    """End the own membership in order."""


class WriteNode(CommitKind, frozen=True):
    """Bring ``node/<own name>`` up to date."""


class WriteNumber(CommitKind, frozen=True):
    """Write ``number/<own number>`` again after it was deleted or overwritten."""


class WriteHealth(CommitKind, frozen=True):
    """Bring ``health/<own name>`` up to date."""


class WritePhase(CommitKind, frozen=True):
    """Publish the phase of the plan that this node has reached."""


class BanSelf(CommitKind, frozen=True):
    """Ban this node, on which a closing event keeps failing."""


class Claim(CommitKind, frozen=True):
    """Claim addresses that the plan gives to this node."""


class Unclaim(CommitKind, frozen=True):
    """Give up the claim on one address, which is gone from this node."""

    address: str


class Reclaim(CommitKind, frozen=True):
    """Write the claim on one address again, because an :class:`Unclaim` under way could still end it."""

    address: str


class CorrectClaims(CommitKind, frozen=True):
    """Write claims again that say less than the truth or cannot be read."""


# -- the leader's -----------------------------------------------------------------------------------------------


class LeaderCommit(CommitKind, frozen=True):
    """The leader does one thing at a time: all its kinds share one lane."""

    @property
    def lane(self) -> Hashable:
        """One for all of them."""
        return LeaderCommit


class TakeLead(LeaderCommit, frozen=True):
    """Take the ``leader`` key while it is free."""


class Expire(LeaderCommit, frozen=True):
    """End the membership of a silent node, and take the lead if that node had it."""

    node: str
    incarnation: str


class WritePlan(LeaderCommit, frozen=True):
    """Replace the plan."""

    epoch: int


class FreeKeys(LeaderCommit, frozen=True):
    """Delete claims and other keys whose membership is gone."""


class ForgetHeld(LeaderCommit, frozen=True):
    """Delete the record that the cluster has held addresses which no node is configured for any longer."""


class RepairKeys(LeaderCommit, frozen=True):
    """Write unreadable keys again with their last known values."""


class LiftBan(LeaderCommit, frozen=True):
    """End a ban whose time is over."""

    node: str
