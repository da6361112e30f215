"""Search the store for other clusters that host the same addresses (:mod:`locum.rules.rivals` judges).

The search reads the names of the clusters under the store's root, the members of each, and the records and beats of
clusters with members; never their plans, claims and tickle lists. It reads more than once only while another cluster
has members with the same addresses that may be alive, which takes at most the hold that they promised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from locum.clock import boottime
from locum.errors import StoreError
from locum.rules.rivals import Inspection, refusal
from locum.store.base import Entry, Store, carry_out

#: Pause between two reads while it is unknown which members are alive, in seconds.
READ_PAUSE = 0.1


class ClusterSearch:
    """``store`` is the whole store; ``own`` and ``node`` are this cluster's and this node's names.

    ``allowed``: clusters that may have the same addresses.
    """

    def __init__(
        self, store: Store, own: str, node: str, allowed: Iterable[str], log: Callable[[str, str], None]
    ) -> None:
        self._store = store
        self._own = own
        self._node = node
        self._allowed = frozenset(allowed)
        self._log = log
        self._said = ""

    async def search(
        self, addresses: Iterable[str], patience: float, waits: Callable[[str], None]
    ) -> tuple[str | None, frozenset[str]]:
        """Which of ``addresses`` this node must not serve, and why: ("", none) when it may serve all of them, (None,
        none) when the store did not answer.

        ``patience``: seconds that the answers to one read may take. ``waits`` is called with the reason whenever the
        search cannot finish.
        """
        inspection = Inspection(self._own, self._node, addresses, self._allowed)
        try:
            while True:
                async with asyncio.timeout(patience):
                    entries = await self._read()
                inspection.read(entries, boottime())
                if not inspection.undecided(boottime()):
                    break
                self._say(inspection.awaited(boottime()), "warning", waits)
                await asyncio.sleep(READ_PAUSE)
            for cluster, node, commit in inspection.expiries(boottime()):
                async with asyncio.timeout(patience):
                    result = await carry_out(self._store, commit)
                if not result.accepted:
                    # It is alive: the next search sees that.
                    return None, frozenset()
                self._log(
                    f"node {node!r} of cluster {cluster!r}, with addresses that this node has too, has been silent for "
                    "its hold: expired it; delete the cluster's keys from the store if it is not in use",
                    "warning",
                )
        except (StoreError, TimeoutError) as error:
            problem = f"cannot look for other clusters in the store: {str(error) or 'no answer in time'}"
            self._say(problem, "error", waits)
            return None, frozenset()
        self._said = ""
        rivals = inspection.rivals()
        first = [rival for rival in rivals if rival.first]
        for rival in rivals:
            if not rival.first:
                self._log(f"another cluster that came later: {refusal(self._own, [rival])}", "warning")
        if not first:
            return "", frozenset()
        return refusal(self._own, first), frozenset(address for rival in first for address in rival.addresses)

    async def _read(self) -> list[Entry]:
        """The members of all relevant clusters, with the records and beats of their nodes.

        Three reads of one cluster are of three moments. That is safe: a member joins, with its record, in one commit,
        and a node that joins or changes its record after this read searches itself afterwards. An expiry is conditional
        on both revisions that were read.
        """
        entries: list[Entry] = []
        for cluster in await self._store.names(""):
            if cluster in self._allowed:
                continue
            members = (await self._store.read(f"{cluster}/member/")).entries
            entries += members
            if members:
                for kind in ("node", "beat"):
                    entries += (await self._store.read(f"{cluster}/{kind}/")).entries
        return entries

    def _say(self, text: str, level: str, waits: Callable[[str], None]) -> None:
        """Report to the rules, and to the log when the text has changed."""
        if text != self._said:
            self._log(text, level)
        self._said = text
        waits(text)
