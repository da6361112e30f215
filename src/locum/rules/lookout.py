"""Whether another cluster in the same store keeps this node from joining, or from serving addresses.

A node looks twice: before it writes anything, and once more after its records are there and before it claims
anything. Of two clusters that start at the same instant each has written before it looks, so one of them sees the
other; both do when both were quick, and then the one whose oldest living member joined first stays. Addresses that a
reload brings are looked for in the same way: they are claimed only after a look that followed the node's new record.

What is found is :mod:`locum.rules.rivals`'s business.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from locum.rules.context import Context
from locum.rules.effects import LookForClusters
from locum.rules.identity import Identity
from locum.rules.obstacles import Obstacles
from locum.rules.schema import HostedAddress

#: Pause after a look that the store did not answer, and after one that found another cluster, in seconds.
UNANSWERED_PAUSE, OCCUPIED_PAUSE = 0.2, 5.0
#: The name under which a member's obstacles and warnings tell of a search that is not at its end.
SOURCE = "clusters"


class Lookout:
    """What one node knows of other clusters. Without ``Identity.search`` it never looks, and nothing is barred."""

    def __init__(self, context: Context, obstacles: Obstacles, identity: Identity) -> None:
        self._context = context
        self._obstacles = obstacles
        self._identity = identity
        # Addresses that are not to be claimed yet → why not, "" before the first look.
        self._barred: dict[str, str] = {}
        self._everything = True
        #: Why this node neither joins nor claims anything at present, "" when nothing is known against it.
        self.obstacle = ""
        #: Why a search is not at its end, "" when none waits. A member tells it through its obstacles and warnings.
        self.awaited = ""
        self._request = 0
        self._asked: frozenset[str] = frozenset()
        self._next = 0.0

    def begin(self) -> None:
        """A new try to join, or a new membership: nothing is known."""
        self._everything, self._barred, self._request, self._next = True, {}, 0, 0.0
        self.obstacle = ""
        self._tell("")

    def trust(self) -> None:
        """This node holds what it is configured for already."""
        self._everything = False
        self._tell("")

    def configure(self, identity: Identity) -> None:
        """A reload: what it brought is looked for."""
        before = {hosted.address for hosted in self._identity.addresses}
        after = {hosted.address for hosted in identity.addresses}
        self._identity = identity
        for address in before - after:
            self._barred.pop(address, None)
        if identity.search and after - before:
            self._barred |= dict.fromkeys(after - before, "")
            self._next = 0.0

    def clear(self) -> bool:
        """Whether the node may go on; asks if that is not known yet."""
        if not self._identity.search or not self._everything:
            return True
        self._ask(frozenset())
        return False

    def look(self, hosted: tuple[HostedAddress, ...]) -> bool:
        """As :meth:`clear`, for a member; and asks for what is barred once the node's own record has it."""
        record = self._context.view.nodes.get(self._context.name)
        if self._barred and not self._everything and record is not None and record.record.addresses == hosted:
            self._ask(frozenset(self._barred))
        return self.clear()

    def barred(self) -> frozenset[str]:
        """Addresses that are not to be claimed."""
        return frozenset(self._barred)

    def occupied(self, hosted: Iterable[str]) -> dict[str, str]:
        """Address → which cluster has it; ``hosted`` are all that the node is configured for."""
        if self._everything and self.obstacle:
            return dict.fromkeys(hosted, self.obstacle)
        return {address: reason for address, reason in self._barred.items() if reason}

    def next_due(self) -> float:
        """When the next look is due."""
        waiting = self._identity.search and not self._request and (self._everything or self._barred)
        return self._next if waiting else math.inf

    def _ask(self, addresses: frozenset[str]) -> None:
        if not self._request and self._context.now >= self._next:
            self._request, self._asked = self._context.new_request(), addresses
            hosted = tuple(hosted.address for hosted in self._identity.addresses)
            self._context.emit(LookForClusters(self._request, hosted))

    def awaits(self, request: int, reason: str) -> None:
        """The search under way cannot come to its end, for ``reason``."""
        if request == self._request:
            self._tell(reason)

    def _tell(self, reason: str) -> None:
        """A node that may claim nothing cannot serve; one that only waits for what a reload brought can."""
        self.awaited = reason
        everything = reason if self._everything else ""
        self._obstacles.seen(SOURCE, everything, self._context.now)
        self._obstacles.warn(SOURCE, (reason,) if reason and not everything else ())

    def seen(self, request: int, problem: str | None, addresses: frozenset[str]) -> None:
        """The answer to a look; see :class:`locum.rules.effects.LookForClusters`."""
        if request != self._request:
            return
        self._request = 0
        if problem is None:
            self._next = self._context.now + UNANSWERED_PAUSE
            return
        self._tell("")
        self._next = self._context.now + OCCUPIED_PAUSE
        if self._everything:
            if problem not in ("", self.obstacle):
                self._context.note(f"this node takes no address: {problem}", "error")
            self._everything, self.obstacle = bool(problem), problem
            return
        for address in self._asked & self._barred.keys():
            if problem and address in addresses:
                if not self._barred[address]:
                    self._context.note(f"{address} is not taken: {problem}", "error")
                self._barred[address] = problem
            else:
                del self._barred[address]
