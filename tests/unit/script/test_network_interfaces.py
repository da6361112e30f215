"""locum.script: addresses. The kernel's part is tested in the lab."""

from __future__ import annotations

import time

import pytest

from locum import script
from locum.script import Fail

pytestmark = pytest.mark.usefixtures("environment")


def test_i1_no_address_is_added_after_the_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCUM_DEADLINE", f"{time.clock_gettime(time.CLOCK_BOOTTIME) - 0.001:.9f}")
    with pytest.raises(Fail, match="the node's hold has ended: no address may be added"):
        script.add_address("lo", "192.0.2.1", "32")


def test_a_missing_interface_is_named() -> None:
    with pytest.raises(Fail, match="there is no interface nosuch0"):
        script.link_is_up("nosuch0")
