"""The situation of a node at one moment: worked out once in each step, and read by every decision of that step.

Rules of this file: values only. Anything that changes within a step (the addresses that are here, the commits and the
activity under way) is not part of it.
"""

from __future__ import annotations

import msgspec

from locum.rules.schema import PlanRecord


class Moment(msgspec.Struct, frozen=True):
    """``member``: this node is a member; ``holds``: and its hold lasts. ``inactive``: it is stopped, banned or not a
    member. ``plan``: the present plan if this membership takes part in it; ``plan_revision``: the revision of the
    present plan, 0 when there is none. ``mine``: the addresses that ``plan`` gives this node. ``may_move``: the
    preparations for ``plan`` are complete on all its nodes, or there is no such plan. ``may_begin``: no hold of an
    earlier history of the store can last, so this node may claim and take.
    """

    member: bool
    holds: bool
    inactive: bool
    plan: PlanRecord | None
    plan_revision: int
    mine: frozenset[str]
    may_move: bool
    may_begin: bool

    @property
    def may_release(self) -> bool:
        """Whether addresses that the plan does not give this node may be released.

        A missing plan was deleted by a foreign writer; service continues until another plan exists.
        """
        return self.may_move and (self.plan_revision > 0 or not self.member or self.inactive)

    @property
    def may_take(self) -> bool:
        """Whether this node may take the addresses that ``plan`` gives it."""
        return self.holds and self.plan is not None and self.may_move and self.may_begin
