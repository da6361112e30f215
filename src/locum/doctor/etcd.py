"""Examine the members of etcd: whether all answer, and whether old history is compacted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from locum.doctor import Finding
from locum.errors import StoreUnavailable

if TYPE_CHECKING:
    from locum.store.etcd.space import Space

#: etcd accepts no writes when its database reaches 2 GiB (its default quota): a quarter of that is reported.
MUCH = 512 * 1024 * 1024
#: Revisions without a compaction: five times the number in docs/stores.md.
LONG = 50_000
#: Too many revisions even after compactions: a day of beats of some nodes.
VERY_LONG = 1_000_000

COMPACT = (
    "start etcd with --auto-compaction-mode=revision --auto-compaction-retention=10000, and defragment it once"
    " (docs/stores.md)"
)


def judge(found: list[Space | StoreUnavailable]) -> Iterator[Finding]:
    """Findings about every configured member."""
    for member in found:
        if isinstance(member, StoreUnavailable):
            yield Finding("etcd", "warning", str(member), "repair it: while it is down, etcd tolerates one loss less")
        else:
            yield _judge(member)


def _judge(member: Space) -> Finding:
    history = f"a history of {member.history:,} revisions"
    text = (
        f"{member.endpoint}: etcd {member.version}, database {_mebibytes(member.size)}"
        f" ({_mebibytes(member.used)} of it in use), {history}"
    )
    if not member.compacted and member.history > LONG:
        return Finding("etcd", "warning", f"{text} that was never compacted: old beats fill it up", COMPACT)
    if member.history > VERY_LONG:
        return Finding("etcd", "warning", f"{text}: it is compacted too rarely", COMPACT)
    if member.size > MUCH:
        return Finding("etcd", "warning", text, "defragment it: etcdctl defrag (docs/stores.md)")
    return Finding("etcd", "good", text)


def _mebibytes(size: int) -> str:
    return f"{size / 1048576:.1f} MiB"
