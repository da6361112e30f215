"""Leaving in order: addresses move to other nodes, ``shutdown`` runs, the membership ends.

Rules of this file: it knows the order of these steps and the condition of each. It does not release: plans give no
addresses to a node whose health says that it leaves, so it releases them as after any other plan.
"""

from __future__ import annotations

import enum
import math

from locum.rules.activity import Activity
from locum.rules.commit_kinds import Farewell
from locum.rules.commits import Commits
from locum.rules.context import Context
from locum.rules.effects import RunEvent
from locum.rules.following import Following
from locum.rules.joining import part_of_membership
from locum.rules.leading import Leading
from locum.store.base import Delete

#: How long a leaving node tries to delete its membership, in seconds.
FAREWELL_LIMIT = 3.0


class Departure(enum.IntEnum):
    """The progress of a node's departure. It only moves forward."""

    #: It was not asked to leave.
    STAYS = 0
    #: Its addresses move to other nodes.
    HANDING_OVER = 1
    #: ``shutdown`` runs or has run.
    SHUTTING_DOWN = 2
    #: Its membership is being ended in the store.
    FAREWELL = 3


class Leaving:
    """The departure of one node."""

    def __init__(
        self, context: Context, commits: Commits, activity: Activity, following: Following, leading: Leading
    ) -> None:
        self._context = context
        self._commits = commits
        self._activity = activity
        self._following = following
        self._leading = leading
        self._departure = Departure.STAYS
        #: When the node leaves without the store's answer; infinite before its farewell.
        self.give_up_at = math.inf

    @property
    def asked(self) -> bool:
        """Whether the node was asked to leave."""
        return self._departure is not Departure.STAYS

    @property
    def ends_membership(self) -> bool:
        """Whether this node itself wants its membership to end."""
        return self._departure is Departure.FAREWELL

    def ask(self) -> None:
        """Begin to leave."""
        self._departure = max(self._departure, Departure.HANDING_OVER)

    def step(self, *, member: bool, hold_valid: bool, started: bool) -> bool:
        """Take the next step, for a node without addresses and activity; returns whether it has left.

        ``started``: ``startup`` has succeeded, so ``shutdown`` must run.
        """
        if member and hold_valid and not self._following.nothing_left():
            return False
        if self._departure < Departure.SHUTTING_DOWN:
            self._departure = Departure.SHUTTING_DOWN
            if started:
                self._context.emit(RunEvent(self._activity.begin("shutdown", self._shutdown_done), "shutdown"))
                return False
        if self._departure < Departure.FAREWELL:
            self._departure = Departure.FAREWELL
            self.give_up_at = self._context.now + FAREWELL_LIMIT
        if not member or self._context.now >= self.give_up_at:
            return True
        self._say_farewell()
        return False

    def left(self) -> None:
        """The node has left: nothing more is due."""
        self.give_up_at = math.inf

    def _shutdown_done(self, ok: bool, reason: str) -> None:
        if not ok:
            self._context.note(f"shutdown: {reason}", "error")

    def _say_farewell(self) -> None:
        view, name = self._context.view, self._context.name
        conditions = [view.condition(f"member/{name}")]
        operations = [Delete(f"{kind}/{name}") for kind in ("member", "beat", "health", "phase")]
        if self._leading.leads():
            conditions.append(view.condition("leader"))
            operations.append(Delete("leader"))
        self._commits.start(Farewell(), conditions, operations, part_of_membership(name))
