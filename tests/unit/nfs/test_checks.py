"""Thresholds: how many failures until a restart, until unhealthy; what is gone, and what only is slow."""

from __future__ import annotations

from pathlib import Path

import pytest

from locum import rpc
from locum.nfs import checks
from locum.nfs.checks import Check, Verdict
from locum.script.counters import Counters

SLOW = rpc.RpcTimeout("no answer")
GONE = rpc.NotRegistered("not registered")


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Looks once, with what the service does."""
    counters = Counters(str(tmp_path / "failures"))

    def looked(check: Check, failure: Exception | None) -> Verdict:
        def ask(_check: Check, _timeout: float) -> None:
            if failure is not None:
                raise failure

        monkeypatch.setattr(checks, "ask", ask)
        return checks.look(check, counters, 1)

    return looked


PART = Check("nlockmgr", rpc.NLM, (4,), unhealthy_after=3, restart_every=2)
NFS = Check("nfs", rpc.NFS, (3,), unhealthy_after=2, restart_every=10, essential=True)


def test_slow_part(look) -> None:  # type: ignore[no-untyped-def]
    found = [look(PART, SLOW) for _ in range(4)]
    assert [one.unhealthy for one in found] == [False, False, True, True]
    assert [one.restart for one in found] == [False, True, False, True]
    assert all(one.hung for one in found)


def test_success_begins_anew(look) -> None:  # type: ignore[no-untyped-def]
    look(PART, SLOW)
    look(PART, SLOW)
    assert look(PART, None) == Verdict(PART)
    assert look(PART, SLOW).failures == 1


def test_part_that_is_gone_is_restarted_at_once(look) -> None:  # type: ignore[no-untyped-def]
    found = look(PART, GONE)
    assert found.restart
    assert not found.unhealthy
    assert not found.hung


def test_nfs_that_is_gone_is_unhealthy_at_once_and_when_slow_is_not(look) -> None:  # type: ignore[no-untyped-def]
    assert not look(NFS, SLOW).unhealthy
    look(NFS, None)
    assert look(NFS, GONE).unhealthy


def test_zero_is_never(look) -> None:  # type: ignore[no-untyped-def]
    never = Check("x", 1, (1,), unhealthy_after=0, restart_every=0, essential=True)
    for failure in (GONE, SLOW) * 10:
        found = look(never, failure)
        assert (found.unhealthy, found.restart) == (False, False)


def test_counters_survive_the_process(tmp_path: Path) -> None:
    assert Counters(str(tmp_path)).failed("a") == 1
    assert Counters(str(tmp_path)).failed("a") == 2
    (tmp_path / "a").write_text("")
    assert Counters(str(tmp_path)).failed("a") == 1


def test_settings() -> None:
    found = {
        one.name: one
        for one in checks.configured(
            {"nfs_unhealthy_after": 4, "status_restart_every": 0, "versions": (3, 4), "skip": ("mountd",)}
        )
    }
    assert "mountd" not in found
    assert found["nfs"].unhealthy_after == 4
    assert found["nfs"].versions == (3, 4)
    assert found["status"].restart_every == 0
    assert found["nlockmgr"] == next(one for one in checks.DEFAULTS if one.name == "nlockmgr")
