"""What is remembered of a lab between two commands."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from locum.errors import UsageError
from locum.lab import state
from locum.lab.lab import Lab
from locum.lab.layout import Layout
from locum.lab.processes import Process
from locum.lab.state import AppliedFault, LabState, NodeState


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
