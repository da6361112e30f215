"""The kinds of commits that a node can send, one type each.

Rules of this file: values only. A kind states the purpose of a commit; the part that starts the commit works out its
conditions and operations. Of all kinds that share a :attr:`CommitKind.lane`, one commit at a time is under way
(:mod:`locum.rules.commits`).
"""

from __future__ import annotations

from collections.abc import Hashable

import msgspec


class CommitKind(msgspec.Struct, frozen=True):
    """The purpose of a commit. By default each value of its fields has its own lane."""

    @property
    def lane(self) -> Hashable:
        """Two commits with equal lanes are never under way together."""
        return self


# -- a node's own -----------------------------------------------------------------------------------------------


class Join(CommitKind, frozen=True):
    """Become a member: ``node``, ``number``, ``member``, and the removal of an earlier life's records."""


class Farewell(CommitKind, frozen=True):
    """End this node's membership in order."""


class WriteNode(CommitKind, frozen=True):
    """Bring ``node/<this node>`` up to date."""


class WriteNumber(CommitKind, frozen=True):
    """Rewrite ``number/<this node's number>`` after it was deleted or overwritten."""


class WriteHealth(CommitKind, frozen=True):
    """Bring ``health/<this node>`` up to date."""


class WritePhase(CommitKind, frozen=True):
    """Publish the phase of the plan that this node has reached."""


class BanSelf(CommitKind, frozen=True):
    """Ban this node, because a closing event keeps failing on it."""


class Claim(CommitKind, frozen=True):
    """Claim addresses that the plan gives to this node."""


class Unclaim(CommitKind, frozen=True):
    """Delete the claim on one address, which is gone from this node."""

    address: str


class Reclaim(CommitKind, frozen=True):
    """Rewrite the claim on one address, because an :class:`Unclaim` under way could still end it."""

    address: str


class CorrectClaims(CommitKind, frozen=True):
    """Rewrite claims that say less than the truth or cannot be read."""


# -- the leader's -----------------------------------------------------------------------------------------------


class LeaderCommit(CommitKind, frozen=True):
    """A commit of the leader. All its kinds share one lane: the leader does one thing at a time."""

    @property
    def lane(self) -> Hashable:
        """One lane for all kinds."""
        return LeaderCommit


class TakeLead(LeaderCommit, frozen=True):
    """Take the ``leader`` key while it is free."""


class Expire(LeaderCommit, frozen=True):
    """End the membership of a silent node, and take the lead if that node led."""

    node: str
    incarnation: str


class WritePlan(LeaderCommit, frozen=True):
    """Replace the plan."""

    epoch: int


class FreeKeys(LeaderCommit, frozen=True):
    """Delete claims and other keys whose membership is gone."""


class ForgetHeld(LeaderCommit, frozen=True):
    """Delete ``held/`` records of addresses that no node is configured for."""


class RepairKeys(LeaderCommit, frozen=True):
    """Rewrite unreadable keys with their last known values."""


class LiftBan(LeaderCommit, frozen=True):
    """End a ban whose time is over."""

    node: str
