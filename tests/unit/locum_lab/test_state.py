"""What is remembered of a lab between two commands."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from locum.errors import LocumError, UsageError
from locum_lab import state
from locum_lab.lab import Lab
from locum_lab.layout import Layout
from locum_lab.processes import Process
from locum_lab.state import AppliedFault, LabState, NodeState


@pytest.fixture(autouse=True)
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of labs of this test's own, with a name short enough for sockets below it."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="lab") as directory:
        monkeypatch.setenv("LOCUM_LAB_DIR", directory)
        yield Path(directory)


def test_what_is_written_is_read() -> None:
    node = NodeState(daemon=Process(7, 11), faults=(AppliedFault("link", "eth2"),), services={"web": Process(8, 12)})
    written = LabState(layout=Layout(name="one"), nodes={"n1": node}, complete=True)
    with state.locked("one", create=True):
        state.write(written)
    assert state.read("one") == written
    assert state.known() == ("one",)


def test_nothing_is_left_of_a_lab_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="embedded"):
        Lab.up(Layout(name="one"), services=(), store="paper")
    assert state.known() == ()


def test_a_state_cut_short_is_no_state(base: Path) -> None:
    (base / "one").mkdir()
    (base / "one" / "state.json").write_text('{"layout": {"name"')
    assert state.read("one") is None


def test_a_lock_without_a_directory_makes_none(base: Path) -> None:
    with state.locked("none"):
        pass
    assert not (base / "none").exists()


def test_a_directory_too_long_for_sockets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCUM_LAB_DIR", "/tmp/" + "x" * 80)
    with pytest.raises(UsageError, match="LOCUM_LAB_DIR"):
        state.directory_of("lab")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a directory of another user")
def test_labs_do_not_live_in_a_directory_of_another_user(base: Path) -> None:
    os.chown(base, 64123, 64123)
    with pytest.raises(LocumError, match=r"LOCUM_LAB_DIR.* belongs to user 64123"):
        state.base()
    os.chown(base, 0, 0)
    assert state.base() == base


def test_the_folder_of_an_ordinary_user_is_made_private_or_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCUM_LAB_DIR")
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(base))
    found = state.base()
    assert found.parent == base
    assert found.stat().st_mode & 0o777 == 0o700
    found.chmod(0o755)
    with pytest.raises(LocumError, match="others can use it"):
        state.base()
    found.rmdir()
    base.chmod(0o1777)
    found.symlink_to(base)
    with pytest.raises(LocumError, match="cannot be a directory that only you can use"):
        state.base()
