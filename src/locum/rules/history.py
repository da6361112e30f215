"""Whether a node's view belongs to the history of the store in which it acts.

Rules of this file: it knows the view's reads and times, but no member and no address. A store that is wiped or restored
from a copy starts another history (``docs/safety.md``). Some node may continue for a while on a hold of the earlier
history, with claims that the new one does not show. So nothing is claimed or taken before the longest hold and margin
known to this node have passed, nor before the store was read again after its view became uncertain.
"""

from __future__ import annotations

from locum.rules.context import Context
from locum.rules.effects import ReadAnew
from locum.rules.identity import Identity

#: How long a node reports a change of the store's history in its health, in seconds.
HISTORY_WARNING_TIME = 3600.0


class History:
    """One node's knowledge of the store's history. ``identity``: the node's present configuration."""

    def __init__(self, context: Context, identity: Identity) -> None:
        self._context = context
        self.identity = identity
        self._longest_wait = 0.0
        #: Nothing is claimed or taken before this time (CLOCK_BOOTTIME seconds).
        self.quiet_until = 0.0
        # When the store last started without proof of its latest state (a revision); None before the first answer.
        self._began: int | None = None
        # The number of reads of the view when it last became uncertain.
        self._doubted_at_read = -1
        # The unix time until which admins see a change, and the text.
        self._note = (0.0, "")

    def changed(self) -> str:
        """The view has met another history: record it; returns a description."""
        why, self._context.view.another_history = self._context.view.another_history, ""
        what = f"the store's history has changed: it was wiped or restored from a copy ({why})"
        lost = f"{what}; commits since the copy are lost: check the settings of administrators"
        self._note = (self._context.wall + HISTORY_WARNING_TIME, lost)
        return what

    def mark_uncertain(self) -> None:
        """The view may mix two histories, which a watch that resumes after a break cannot detect: read everything."""
        self._doubted_at_read = self._context.view.reads
        self._context.emit(ReadAnew())

    def watch_lost(self) -> None:
        """The caller reads the store again; until then, the view is uncertain."""
        self._doubted_at_read = self._context.view.reads
        self.keep_quiet()

    def answered(self, began: int, now: float, *, read: bool = False) -> None:
        """The store has answered, at the CLOCK_BOOTTIME second ``now``; ``read``: it was read as a whole.

        When it ``began`` (:class:`locum.store.base.CommitResult`) since the answer before, it may be a restored copy.
        """
        earlier, self._began = self._began, began
        if earlier is None or began <= earlier:
            return
        self._keep_quiet_from(now)
        if not read:
            self.mark_uncertain()

    def keep_quiet(self) -> None:
        """Claim and take nothing until every hold of another history has ended."""
        self._keep_quiet_from(self._context.now)

    def _keep_quiet_from(self, now: float) -> None:
        self.quiet_until = max(self.quiet_until, now + self.longest_wait())

    def longest_wait(self) -> float:
        """The longest hold plus margin known to this node, in seconds."""
        view, own = self._context.view, self.identity.hold + self.identity.margin
        waits = [node.record.wait for node in view.nodes.values()]
        waits += [member.record.hold + member.record.margin for member in view.members.values()]
        self._longest_wait = max(self._longest_wait, own, *waits)
        return self._longest_wait

    @property
    def current(self) -> bool:
        """Whether the store was read since the view last became uncertain."""
        return self._context.view.reads != self._doubted_at_read

    def may_begin(self) -> bool:
        """Whether this node may claim and take: every hold of another history has ended."""
        return self._context.now >= self.quiet_until and self.current

    def warning(self) -> str:
        """The warning for admins, "" without one."""
        until, note = self._note
        return note if self._context.wall < until else ""
