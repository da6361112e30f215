"""Whether what a node sees belongs to the history of the store in which it acts.

Rules of this file: it knows the view's reads and times, no member and no address. A store that is wiped or restored
from a copy starts another history (``docs/safety.md``). Some node may go on for a while by a hold that it has in the
earlier one, with claims that the new one does not show. So nothing is claimed or taken before the longest hold and
margin that this node has ever heard of have passed, nor before the store was read again after its view was doubted.
"""

from __future__ import annotations

from locum.rules.context import Context
from locum.rules.effects import ReadAnew
from locum.rules.identity import Identity

#: How long a node says in its health that the store's history has changed, in seconds.
TELL_HISTORY = 3600.0


class History:
    """What one node knows of the store's history. ``identity``: the node's present configuration."""

    def __init__(self, context: Context, identity: Identity) -> None:
        self._context = context
        self.identity = identity
        self._longest_wait = 0.0
        #: Nothing is claimed or taken before this time (CLOCK_BOOTTIME seconds).
        self.quiet_until = 0.0
        # How often the view had been read when it was doubted last.
        self._doubted_at_read = -1
        # The unix time until which admins are told of a change, and the text.
        self._note = (0.0, "")

    def changed(self) -> str:
        """The view has met another history: take note of it; returns what happened, in words."""
        why, self._context.view.another_history = self._context.view.another_history, ""
        what = f"the store's history has changed: it was wiped or restored from a copy ({why})"
        lost = f"{what}; what was committed since the copy is lost: check what admins had set"
        self._note = (self._context.wall + TELL_HISTORY, lost)
        return what

    def mark_uncertain(self) -> None:
        """The view may be partly another history's, since a watch that resumes after a break cannot tell: read all."""
        self._doubted_at_read = self._context.view.reads
        self._context.emit(ReadAnew())

    def watch_lost(self) -> None:
        """The caller reads the store anew; until it has, the view is doubted."""
        self._doubted_at_read = self._context.view.reads
        self.quiet_until = max(self.quiet_until, self._context.now + self.longest_wait())

    def keep_quiet(self) -> None:
        """Claim and take nothing until every hold of another history is over."""
        self.quiet_until = self._context.now + self.longest_wait()

    def longest_wait(self) -> float:
        """The longest hold and margin that this node has ever heard of, in seconds."""
        view, own = self._context.view, self.identity.hold + self.identity.margin
        waits = [node.record.wait for node in view.nodes.values()]
        waits += [member.record.hold + member.record.margin for member in view.members.values()]
        self._longest_wait = max(self._longest_wait, own, *waits)
        return self._longest_wait

    @property
    def current(self) -> bool:
        """Whether the store was read since the view was last doubted."""
        return self._context.view.reads != self._doubted_at_read

    def may_begin(self) -> bool:
        """Whether this node may claim and take: no hold of another history can last any longer."""
        return self._context.now >= self.quiet_until and self.current

    def warning(self) -> str:
        """What admins are told, "" when there is nothing to tell."""
        until, note = self._note
        return note if self._context.wall < until else ""
