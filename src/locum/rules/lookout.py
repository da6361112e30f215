"""Whether another cluster in the same store keeps this node from joining, or from serving addresses.

A node looks twice: before it writes anything, and again between writing its records and the first claim. Of two
clusters that start at the same instant, each has written before it looks, so at least one sees the other. If both do,
the cluster whose oldest living member joined first stays. Addresses added by a reload follow the same rule: they are
claimed only after a look that followed the node's new record.

Rules of this file: it decides when to look; :mod:`locum.rules.rivals` judges the findings.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

from locum.rules.context import Context
from locum.rules.effects import LookForClusters
from locum.rules.identity import Identity
from locum.rules.obstacles import Obstacles
from locum.rules.schema import HostedAddress

#: Pause after an unanswered look, and after one that found another cluster, in seconds.
UNANSWERED_PAUSE, OCCUPIED_PAUSE = 0.2, 5.0
#: The name under which a member's obstacles and warnings report an unfinished search.
SOURCE = "clusters"


class Lookout:
    """One node's knowledge of other clusters. Without ``Identity.search`` it never looks, and bars nothing."""

    def __init__(self, context: Context, obstacles: Obstacles, identity: Identity) -> None:
        self._context = context
        self._obstacles = obstacles
        self._identity = identity
        # Addresses that must not be claimed yet → the reason, "" before the first look.
        self._barred: dict[str, str] = {}
        self._everything = True
        #: Why this node neither joins nor claims anything at present; "" without a known reason.
        self.obstacle = ""
        #: Why a search is unfinished, "" when none waits. A member reports it through its obstacles and warnings.
        self.awaited = ""
        self._request = 0
        self._asked: frozenset[str] = frozenset()
        self._next = 0.0

    def begin(self) -> None:
        """A new attempt to join, or a new membership: forget all findings."""
        self._everything, self._barred, self._request, self._next = True, {}, 0, 0.0
        self.obstacle = ""
        self._tell("")

    def adopt(self, claimed: Collection[str]) -> None:
        """The agent before this one claimed these addresses, after a look. It may have died before a look for others,
        which a reload had added."""
        self._everything = False
        if self._identity.search:
            hosted = (hosted.address for hosted in self._identity.addresses)
            self._barred = {address: "" for address in hosted if address not in claimed}
        self._tell("")

    def configure(self, identity: Identity) -> None:
        """A reload: look for the addresses that it added."""
        before = {hosted.address for hosted in self._identity.addresses}
        after = {hosted.address for hosted in identity.addresses}
        self._identity = identity
        for address in before - after:
            self._barred.pop(address, None)
        if identity.search and after - before:
            self._barred |= dict.fromkeys(after - before, "")
            self._next = 0.0

    def clear(self) -> bool:
        """Whether the node may continue; starts a look if that is not known yet."""
        if not self._identity.search or not self._everything:
            return True
        self._ask(frozenset())
        return False

    def look(self, hosted: tuple[HostedAddress, ...]) -> bool:
        """As :meth:`clear`, for a member; also looks for barred addresses once the node's own record has them."""
        record = self._context.view.nodes.get(self._context.name)
        if self._barred and not self._everything and record is not None and record.record.addresses == hosted:
            self._ask(frozenset(self._barred))
        return self.clear()

    def barred(self) -> frozenset[str]:
        """Addresses that must not be claimed."""
        return frozenset(self._barred)

    def occupied(self, hosted: Iterable[str]) -> dict[str, str]:
        """Address → the cluster that has it; ``hosted``: all addresses for which the node is configured."""
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
        """The search under way cannot finish yet, for ``reason``."""
        if request == self._request:
            self._tell(reason)

    def _tell(self, reason: str) -> None:
        """Report ``reason``: an obstacle when the node may claim nothing, a warning when only a reload waits."""
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
