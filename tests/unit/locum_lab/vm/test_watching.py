"""When the observer's verdict is worth something."""

from __future__ import annotations

import pytest

from locum.errors import LocumError
from locum_lab.observer import Record
from locum_lab.vm.watching import verdict

BEGIN = Record(1.0, "begin")
SPEAKS = (Record(2.0, "speaks", "10.77.0.2", "n1"), Record(2.1, "speaks", "fd77::2", "n2"))
END = Record(9.0, "end", packets=70, asked=140, violations=3)
ADDRESSES = ("10.77.0.2", "fd77::2")


def test_the_verdict_is_the_last_record() -> None:
    assert verdict([BEGIN, *SPEAKS, END], ADDRESSES) is END


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([], "without a verdict"),
        ([BEGIN, *SPEAKS], "without a verdict"),
        ([BEGIN, *SPEAKS, Record(9.0, "end", packets=70, asked=140, lost=1)], "missed 1 frames"),
        ([BEGIN, Record(9.0, "end", asked=140)], r"heard no node for 10\.77\.0\.2, fd77::2$"),
        ([BEGIN, SPEAKS[0], END], "heard no node for fd77::2$"),
    ],
)
def test_a_verdict_of_an_observer_that_cannot_have_seen_everything_is_refused(
    records: list[Record], reason: str
) -> None:
    with pytest.raises(LocumError, match=reason):
        verdict(records, ADDRESSES)
