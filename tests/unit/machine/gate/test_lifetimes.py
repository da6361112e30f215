"""Lifetimes of addresses: whole seconds, rounded to the safe side."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.machine.gate import lifetimes


@given(st.floats(0.05, 3600))
def test_lifetimes_are_whole_seconds_rounded_to_the_safe_side(hold: float) -> None:
    enforced, alone = lifetimes.lifetime_for(hold), lifetimes.lifetime_without_gate(hold)
    assert enforced - lifetimes.EARLINESS >= hold, "the kernel must not take away what a beat in time would keep"
    assert enforced < hold + 1.1 or enforced == 1
    assert alone == max(1, math.floor(hold))
    assert hold + lifetimes.gone_after(alone) <= hold + lifetimes.margin_without_gate(hold), "given just before its end"


@pytest.mark.parametrize(
    ("hold", "lifetime", "margin"), [(2.0, 2, 3.25), (0.4, 1, 2.25), (2.9, 2, 3.25), (1.0, 1, 2.25)]
)
def test_the_margin_without_a_gate(hold: float, lifetime: int, margin: float) -> None:
    assert lifetimes.lifetime_without_gate(hold) == lifetime
    assert lifetimes.margin_without_gate(hold) == pytest.approx(margin)
