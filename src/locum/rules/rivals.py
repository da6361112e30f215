"""Other clusters in the same store that host the same addresses: which of them are alive.

Rules of this file: pure. Its input is a series of readings of all clusters' members, with the records and beats of
their nodes (key → value, revision), and the time at which each was complete. Its output says why to read again, which
keys to delete, and finally what was found.

A cluster counts when one of its nodes is a member and that node's record has one of the addresses. Remains of a
former cluster do not count: its node records have no member, and a killed member is silent. Liveness is judged as every
leader does: a member lives when its beat changes, and is dead when its hold and margin have passed without a change.
Then its ``member`` key is deleted, conditional on the very beat that was seen. A member that was only frozen finds its
membership gone, falls silent and tries to join again, which is refused.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from locum.errors import StoreCorrupt
from locum.rules import schema
from locum.rules.schema import MemberRecord, NodeRecord
from locum.store.base import Commit, Condition, Delete, Entry

#: How long to wait for a beat of an unreadable member, in seconds: the longest hold that a configuration may have,
#: and the margin that is added to it where only lifetimes enforce it.
UNREADABLE_WAIT = 125.0


class _Member(msgspec.Struct, frozen=True):
    """A member: the revisions of its keys, its longest silence, and its addresses that count."""

    revision: int
    beat: int
    wait: float
    addresses: frozenset[str]


class Rival(msgspec.Struct, frozen=True):
    """A living cluster that hosts some of the addresses. ``first``: it existed before this one."""

    cluster: str
    nodes: tuple[str, ...]
    addresses: tuple[str, ...]
    first: bool


class Inspection:
    """One inspection, over several readings.

    ``own``: this cluster's name, ``node``: this node's. ``addresses``: those that this node can host. ``allowed``:
    clusters that may have the same ones.
    """

    def __init__(self, own: str, node: str, addresses: Iterable[str], allowed: Iterable[str] = ()) -> None:
        self._own, self._node = own, node
        self._addresses = {_canonical(address) for address in addresses}
        self._allowed = frozenset(allowed)
        # (cluster, node) → the member as first seen, and since when.
        self._first: dict[tuple[str, str], tuple[_Member, float]] = {}
        self._latest: dict[tuple[str, str], _Member] = {}
        self._living: set[tuple[str, str]] = set()

    def read(self, entries: Sequence[Entry], now: float) -> None:
        """A reading of all clusters, complete at ``now`` (seconds, any clock).

        Only ``member``, ``node`` and ``beat`` keys count.
        """
        self._latest = {}
        for cluster, keys in _clusters(entries, self._own, self._allowed).items():
            for name, member in self._members(keys).items():
                if cluster != self._own and not member.addresses:
                    continue
                key = (cluster, name)
                self._latest[key] = member
                known = self._first.get(key)
                if known is None or known[0].revision != member.revision:
                    self._first[key] = (member, now)
                elif known[0].beat != member.beat:
                    self._living.add(key)
        if (self._own, self._node) in self._latest:
            self._living.add((self._own, self._node))

    def _members(self, keys: Mapping[str, Entry]) -> dict[str, _Member]:
        found = {}
        for key, entry in keys.items():
            kind, name = schema.split_key(key)
            if kind != "member":
                continue
            member, node = _decode(key, entry), _decode(f"node/{name}", keys.get(f"node/{name}"))
            hosted = node.addresses if isinstance(node, NodeRecord) else ()
            wait = member.hold + member.margin if isinstance(member, MemberRecord) else UNREADABLE_WAIT
            beat = keys.get(f"beat/{name}")
            found[name] = _Member(
                entry.revision,
                beat.revision if beat is not None else 0,
                wait,
                frozenset(_canonical(h.address) for h in hosted) & self._addresses,
            )
        return found

    def undecided(self, now: float) -> bool:
        """Whether another reading is needed: another cluster has the addresses, and its liveness is not known yet."""
        rivals = {cluster for cluster, _ in self._latest if cluster != self._own}
        return any(
            key not in self._living and now < self._silent_at(key)
            for key in self._latest
            if key[0] in rivals or (rivals and key[0] == self._own)
        )

    def awaited(self, now: float) -> str:
        """Why :meth:`undecided` holds at ``now``, in words."""
        found = [key for key in sorted(self._latest) if key not in self._living and now < self._silent_at(key)]
        clusters = sorted({cluster for cluster, _ in self._latest if cluster != self._own})
        limit = max((self._first[key][0].wait for key in found), default=0.0)
        nodes = ", ".join(f"{name} of cluster {cluster!r}" for cluster, name in found[:5])
        return (
            f"cluster {_listed([repr(cluster) for cluster in clusters])} in the same store has members with the same "
            f"addresses: waiting to see whether {nodes}{' and others' if len(found) > 5 else ''} beat, for at most "
            f"{limit:.1f} s"
        )

    def _silent_at(self, key: tuple[str, str]) -> float:
        member, since = self._first[key]
        return since + member.wait

    def expiries(self, now: float) -> list[tuple[str, str, Commit]]:
        """Cluster, node and the commit that ends its membership, of every rival's member that has been silent for its
        hold. The commit's keys are absolute."""
        found = []
        for key in sorted(self._latest):
            cluster, name = key
            if cluster == self._own or key in self._living or now < self._silent_at(key):
                continue
            member = self._first[key][0]
            keys = ((f"{cluster}/member/{name}", member.revision), (f"{cluster}/beat/{name}", member.beat))
            conditions = tuple(Condition(k, revision) for k, revision in keys)
            found.append((cluster, name, Commit(conditions, tuple(Delete(k) for k, _ in keys))))
        return found

    def rivals(self) -> list[Rival]:
        """The living clusters that host some of the addresses."""
        ours = self._oldest(self._own)
        found = []
        for cluster in sorted({cluster for cluster, _ in self._living if cluster != self._own}):
            members = {n: m for (c, n), m in self._latest.items() if c == cluster and (c, n) in self._living}
            if not members:
                continue
            shared = sorted(frozenset().union(*(member.addresses for member in members.values())))
            first = self._oldest(cluster) < ours
            found.append(Rival(cluster, tuple(sorted(members)), tuple(shared), first))
        return found

    def _oldest(self, cluster: str) -> float:
        alive = [m.revision for (c, n), m in self._latest.items() if c == cluster and (c, n) in self._living]
        return min(alive, default=math.inf)


def refusal(own: str, rivals: Sequence[Rival]) -> str:
    """Why this node must not serve, in words."""
    parts = [
        f"cluster {rival.cluster!r} in the same store serves {_listed(rival.addresses)} (on {_listed(rival.nodes)})"
        for rival in rivals
    ]
    return (
        f"{'; '.join(parts)}, and so would this node of cluster {own!r}: give all nodes that share addresses the same "
        "[cluster] name; if the other cluster is on another network, name it in [cluster] same_addresses_as"
    )


def _listed(names: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _clusters(entries: Sequence[Entry], own: str, allowed: frozenset[str]) -> dict[str, dict[str, Entry]]:
    found: dict[str, dict[str, Entry]] = {}
    for entry in entries:
        cluster, slash, key = entry.key.partition("/")
        if slash and cluster not in allowed and key.startswith(("node/", "member/", "beat/")):
            found.setdefault(cluster, {})[key] = entry
    found.setdefault(own, {})
    return found


def _decode(key: str, entry: Entry | None) -> object:
    if entry is None:
        return None
    try:
        return schema.decode(key, entry.value)
    except StoreCorrupt:
        return None


def _canonical(address: str) -> str:
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address
