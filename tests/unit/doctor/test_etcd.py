"""What the doctor says of what an etcd keeps."""

from __future__ import annotations

import pytest

from locum.doctor.etcd import judge
from locum.errors import StoreUnavailable
from locum.store.etcd.space import Space

MIB = 1024 * 1024


def member(*, size: int = 20 * MIB, history: int = 10_300, compacted: bool = True) -> Space:
    return Space("10.1.0.1:2379", "3.4.23", size, 5 * MIB, history, compacted)


def test_a_tidy_member_is_good() -> None:
    [finding] = judge([member()])
    assert finding.level == "good"
    assert finding.text == (
        "10.1.0.1:2379: etcd 3.4.23, database 20.0 MiB (5.0 MiB of it in use), a history of 10,300 revisions"
    )


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (member(history=60_000, compacted=False), "auto-compaction-mode=revision"),
        (member(history=2_000_000), "auto-compaction-mode=revision"),
        (member(size=600 * MIB), "etcdctl defrag"),
        (StoreUnavailable("etcd: 10.1.0.1:2379: connection refused"), "tolerates one loss less"),
    ],
)
def test_what_will_become_a_problem_is_a_warning_with_advice(found: Space | StoreUnavailable, words: str) -> None:
    [finding] = judge([found])
    assert finding.level == "warning"
    assert words in finding.advice


def test_a_young_etcd_has_not_been_compacted_yet() -> None:
    [finding] = judge([member(history=2_000, compacted=False)])
    assert finding.level == "good"
