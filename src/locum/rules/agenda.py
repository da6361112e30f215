"""The order of precedence of a node's activities.

Rules of this file: it chooses and starts; the parts decide whether their activities are due. Releases come first,
because other nodes wait for them. Checks come last and give way to everything else.
"""

from __future__ import annotations

from collections.abc import Callable

from locum.rules.moment import Moment
from locum.rules.parts import Parts

Work = Callable[[], None]


class Agenda:
    """The next activity of one node."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def step(self, moment: Moment) -> None:
        """Start the next activity, or cancel a check that delays it."""
        activity, leaving = self._parts.activity, self._parts.leaving.asked
        if activity.idle:
            work = self._move(moment) or self._check(moment)
            if work is not None:
                work()
        elif (activity.name == "monitor" or (activity.name == "startup" and leaving)) and (
            leaving or self._move(moment) is not None
        ):
            # A move of addresses does not wait for a check, which may take long.
            activity.cancel()

    def _move(self, moment: Moment) -> Work | None:
        """The next step of a move of addresses."""
        serving, following, plan = self._parts.serving, self._parts.following, moment.plan
        if (release := serving.release_due(moment)) is not None:
            return lambda: serving.release(release)
        if plan is None or not moment.holds:
            return None
        if following.prepare_due(plan):
            return lambda: following.prepare(plan)
        if moment.may_move:
            if moment.may_begin and (take := serving.take_due(moment)) is not None:
                return lambda: serving.take(take)
            if (update := serving.update_due(moment)) is not None:
                return lambda: serving.update(update)
            if (again := serving.retake_due(moment)) is not None:
                return lambda: serving.retake(again)
        if following.closing_due(plan):
            return lambda: following.close(plan)
        return None

    def _check(self, moment: Moment) -> Work | None:
        """``startup`` or ``monitor``, if one is due."""
        if moment.member and not moment.inactive and not self._parts.leaving.asked:
            return self._parts.monitoring.due()
        return None
