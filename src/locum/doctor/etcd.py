"""What the doctor says of an etcd's members: do all answer, and is old history dropped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from locum.doctor import Finding
from locum.errors import StoreUnavailable

if TYPE_CHECKING:
    from locum.store.etcd.space import Space

#: etcd takes no more writes when its database has 2 GiB (its default quota): a quarter of that is worth a word.
MUCH = 512 * 1024 * 1024
#: Revisions that have piled up without a compaction: five times what docs/stores.md has etcd keep.
LONG = 50_000
#: Revisions that are many even where some were dropped: a day of beats of some nodes.
VERY_LONG = 1_000_000

COMPACT = (
    "start etcd with --auto-compaction-mode=revision --auto-compaction-retention=10000, and defragment it once"
    " (docs/stores.md)"
)


def judge(found: list[Space | StoreUnavailable]) -> Iterator[Finding]:
    """Findings about every member that is configured."""
    for member in found:
        if isinstance(member, StoreUnavailable):
            yield Finding("etcd", "warning", str(member), "a member that is down is one loss that is no longer borne")
        else:
            yield _judge(member)


def _judge(member: Space) -> Finding:
    history = f"a history of {member.history:,} revisions"
    text = (
        f"{member.endpoint}: etcd {member.version}, database {_mebibytes(member.size)}"
        f" ({_mebibytes(member.used)} of it in use), {history}"
    )
    if not member.compacted and member.history > LONG:
        return Finding("etcd", "warning", f"{text} that was never compacted: it fills up with old beats", COMPACT)
    if member.history > VERY_LONG:
        return Finding("etcd", "warning", f"{text}: it is compacted too rarely", COMPACT)
    if member.size > MUCH:
        return Finding("etcd", "warning", text, "defragment it: etcdctl defrag (docs/stores.md)")
    return Finding("etcd", "good", text)


def _mebibytes(size: int) -> str:
    return f"{size / 1048576:.1f} MiB"
