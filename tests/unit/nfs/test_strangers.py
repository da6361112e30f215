"""The directories of rpc.statd's user, in which root works: he gets nothing that is not his."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from locum.control_socket import NoDaemon
from locum.nfs import callout, monitor_list
from tests.unit.strangers import PLANTS, STRANGER, Outside, attacker, limited

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can work in the directories of others")

STATD_NAMES = ("lock", "journal", "journal.new", "keep", "keep.new")
SM_NAMES = ("10.0.0.9", "10.0.0.9.new", "stranger")


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    tmp_path.chmod(0o755)
    found = Outside(tmp_path / "outside")
    yield found
    found.close()


def theirs(state: Path, name: str) -> Path:
    path = state / name
    path.mkdir(parents=True)
    os.chown(path, STRANGER, STRANGER)
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A daemon that is away for new changes (they have a time) and there for the journal's."""
    changes: list[dict[str, Any]] = []

    def answer(request: Any, *, timeout: float, **_: Any) -> dict[str, object]:
        if timeout == callout.PATIENCE:
            raise NoDaemon("away")
        changes.extend(request["changes"])
        return {}

    monkeypatch.setattr(callout, "ask", answer)
    return changes


def everything(state: str, sm: str) -> dict[str, Callable[[], object]]:
    """All that root does in these directories."""
    return {
        "record": lambda: callout.record(["add-client", "10.0.0.9", "me"], state=state),
        "deliver": lambda: callout.deliver(state=state),
        "keep": lambda: callout.keep(60, state=state),
        "is_kept": lambda: callout.is_kept(callout.directory(state)),
        "rebuild": lambda: monitor_list.rebuild(sm, {"10.0.0.9": "10.0.0.1"}),
    }


@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("name", [*STATD_NAMES, *SM_NAMES])
@pytest.mark.usefixtures("asked")
def test_whatever_lies_where_root_expects_a_file_leads_nowhere(
    tmp_path: Path, outside: Outside, plant: str, name: str
) -> None:
    statd, sm = theirs(tmp_path / "state", "statd"), theirs(tmp_path / "nfs", "sm")
    PLANTS[plant]((statd if name in STATD_NAMES else sm) / name, outside.secret)
    outside.watch()
    refused: list[OSError] = []
    with limited():
        for work in everything(str(tmp_path / "state"), str(sm)).values():
            try:
                work()
            except OSError as error:
                refused.append(error)
    assert [error for error in refused if not error.strerror or not error.filename] == []
    assert outside.touched() == ""
    for directory in (statd, sm):
        for path in directory.iterdir():
            assert path.lstat().st_uid in (0, STRANGER)
            if path.is_file() and not path.is_symlink():
                assert path.name == name or path.stat().st_uid == STRANGER


@pytest.mark.parametrize("target", ["statd", "sm"])
@pytest.mark.usefixtures("asked")
def test_the_directory_itself_may_be_a_link_to_one_of_root(tmp_path: Path, outside: Outside, target: str) -> None:
    """``/var/lib/nfs/statd`` belongs to rpc.statd's user, so ``sm`` in it is what he makes of it."""
    home = theirs(tmp_path, "home")
    (home / "statd").symlink_to(outside.secret.parent)
    (home / "sm").symlink_to(outside.secret.parent)
    outside.watch()
    steps = everything(str(home), str(home / "sm"))
    for name in ("rebuild",) if target == "sm" else ("record", "deliver", "keep", "is_kept"):
        with contextlib.suppress(OSError):
            steps[name]()
    assert outside.touched() == ""


@pytest.mark.usefixtures("asked")
def test_an_attacker_who_swaps_files_all_the_time_wins_nothing(tmp_path: Path, outside: Outside) -> None:
    statd, sm = theirs(tmp_path / "state", "statd"), theirs(tmp_path / "nfs", "sm")
    line = json.dumps({"do": "add", "client": "10.0.0.9", "server": "", "at": 1.0}) + "\n"

    def act() -> None:
        for directory, names in ((statd, STATD_NAMES), (sm, SM_NAMES)):
            for name in names:
                for plant in ("symbolic link", "FIFO"):
                    PLANTS[plant](directory / "x", outside.secret)
                    os.replace(directory / "x", directory / name)
                    (directory / "x").write_text(line)
                    os.replace(directory / "x", directory / name)

    outside.watch()
    steps = everything(str(tmp_path / "state"), str(sm))
    with limited(120), attacker(act):
        for _ in range(60):
            for work in steps.values():
                with contextlib.suppress(OSError):
                    work()
    assert outside.touched() == ""


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000,
        b'{"do": "add", "client": "../../etc/x", "server": ""}',
        b'{"do": "add", "client": "a\\u001b[2J", "server": ""}',
        b'{"do": "add", "client": ["a"], "server": ""}',
        b'{"do": "run", "client": "a", "server": ""}',
        b'{"do": ["add"], "client": "a", "server": ""}',
        b'["add", "a"]',
        b"7",
        b"\xff\xfe",
        b"",
        b"x" * (1 << 20),
    ],
)
def test_lines_that_an_attacker_wrote_into_the_journal_are_passed_over(
    tmp_path: Path, asked: list[dict[str, Any]], line: bytes
) -> None:
    statd = theirs(tmp_path, "statd")
    good = b'{"do": "add", "client": "Good.Example.", "server": "10.0.0.1", "at": 5}\n'
    (statd / "journal").write_bytes(line + b"\n" + good)
    os.chown(statd / "journal", STRANGER, STRANGER)
    callout.deliver(state=str(tmp_path))
    assert asked == [{"do": "add", "client": "good.example", "server": "10.0.0.1", "at": 5.0}]
    assert (statd / "journal").read_bytes() == b""


@pytest.mark.parametrize("at", ["NaN", "Infinity", "1e300", '"x"', "null", "true"])
def test_a_time_that_is_none_or_to_come_does_not_outlive_the_present(
    tmp_path: Path, asked: list[dict[str, Any]], at: str
) -> None:
    import time  # noqa: PLC0415

    statd = theirs(tmp_path, "statd")
    (statd / "journal").write_text(f'{{"do": "add", "client": "a", "server": "", "at": {at}}}\n')
    os.chown(statd / "journal", STRANGER, STRANGER)
    assert callout.deliver(state=str(tmp_path)) == 1
    assert 0 <= asked[0]["at"] <= time.time()


@pytest.mark.usefixtures("asked")
def test_a_journal_without_end_does_not_keep_an_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statd = theirs(tmp_path, "statd")
    line = b'{"do": "add", "client": "a", "server": "", "at": 5}\n'
    (statd / "journal").write_bytes(line)
    os.chown(statd / "journal", STRANGER, STRANGER)
    real = callout._hand_over

    def feeding(*arguments: Any) -> int:
        with (statd / "journal").open("ab") as file:
            file.write(line * 2)
        return real(*arguments)

    monkeypatch.setattr(callout, "_hand_over", feeding)
    with limited():
        assert callout.deliver(state=str(tmp_path)) >= callout._ROUNDS


@pytest.mark.usefixtures("asked")
def test_a_lock_that_is_kept_does_not_keep_rpc_statd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl  # noqa: PLC0415

    statd = theirs(tmp_path, "statd")
    monkeypatch.setattr(callout, "_LOCK_PATIENCE", 0.05)
    handle = os.open(statd, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with limited(), pytest.raises(OSError, match="lock"):
        callout.record(["add-client", "a"], state=str(tmp_path))
    os.close(handle)


def test_what_cannot_be_noted_fails_no_event(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (theirs(tmp_path, "statd") / "keep").mkdir()
    callout.keep(60, state=str(tmp_path))
    assert "will not be notified" in capfd.readouterr().out
