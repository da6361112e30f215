"""Root in a directory of another user: nothing outside is opened, changed or given away, whatever lies there."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from locum import folder
from locum.folder import Folder, foreign_control, private_folder
from tests.unit.strangers import PLANTS, STRANGER, Outside, attacker, limited

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can work in the directories of others")


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    tmp_path.chmod(0o755)
    found = Outside(tmp_path / "outside")
    yield found
    found.close()


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    path = tmp_path / "theirs"
    path.mkdir()
    os.chown(path, STRANGER, STRANGER)
    return path


def test_what_is_written_belongs_to_the_owner_of_the_directory(theirs: Path) -> None:
    with Folder(str(theirs)) as opened:
        opened.append("a", b"one\n", 100)
        opened.append("a", b"two\n", 100)
        opened.replace("b", b"three\n", mode=0o640)
        assert opened.read("a", 100) == b"one\ntwo\n"
        assert opened.read("a", 3, 4) == b"two"
        assert (opened.size("a"), opened.size("absent")) == (8, 0)
        assert sorted(opened.names()) == ["a", "b"]
    for name, mode in (("a", 0o600), ("b", 0o640)):
        status = (theirs / name).stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (STRANGER, STRANGER, mode)


@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("act", ["read", "append", "replace", "remove", "size"])
def test_planted_things_are_refused_or_replaced_and_lead_nowhere(
    theirs: Path, outside: Outside, plant: str, act: str
) -> None:
    PLANTS[plant](theirs / "name", outside.secret)
    outside.watch()
    refused = ""
    with limited(), Folder(str(theirs)) as opened:
        try:
            match act:
                case "read":
                    assert opened.read("name", 100) == bytes(100)
                case "append":
                    opened.append("name", b"x", 100)
                case "replace":
                    opened.replace("name", b"x")
                    assert (theirs / "name").read_bytes() == b"x"
                case "remove":
                    opened.remove("name")
                    assert not os.path.lexists(theirs / "name")
                case "size":
                    assert opened.size("name") == 1 << 40
        except OSError as error:
            refused = str(error)
    assert outside.touched() == ""
    assert [path.name for path in theirs.iterdir() if path.name.startswith(".")] == []
    if act in ("append", "read", "size"):
        assert bool(refused) == (plant != "huge file" or act == "append")
    if act in ("replace", "remove") and "directory" not in plant.replace("link to a directory", ""):
        assert not refused


def test_a_file_swapped_between_check_and_use_is_not_the_one_that_is_opened(
    theirs: Path, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    (theirs / "name").write_text("good\n")
    os.chown(theirs / "name", STRANGER, STRANGER)
    real = folder._flaw

    def swapping(status: os.stat_result, owner: int) -> str:
        problem = real(status, owner)
        (theirs / "name").unlink()
        (theirs / "name").symlink_to(outside.secret)
        return problem

    monkeypatch.setattr(folder, "_flaw", swapping)
    outside.watch()
    with Folder(str(theirs)) as opened:
        assert opened.read("name", 100) == b"good\n"
    assert outside.touched() == ""


def test_a_new_file_swapped_before_it_is_given_away_gives_nothing_else_away(
    theirs: Path, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fchown

    def swapping(handle: int, uid: int, gid: int) -> None:
        (temporary,) = theirs.iterdir()
        temporary.unlink()
        temporary.symlink_to(outside.secret)
        real(handle, uid, gid)

    monkeypatch.setattr(os, "fchown", swapping)
    outside.watch()
    with Folder(str(theirs)) as opened:
        opened.replace("name", b"x")
    assert os.readlink(theirs / "name") == str(outside.secret)  # the attacker's own doing, in his directory
    assert outside.touched() == ""


def test_a_directory_swapped_while_it_is_opened_leads_nowhere(
    theirs: Path, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = theirs / "inner"
    inner.mkdir()
    os.chown(inner, STRANGER, STRANGER)
    real: Any = os.stat

    def swapping(path: object, **options: object) -> Any:
        found = real(path, **options)
        if path == "inner":
            inner.rmdir()
            inner.symlink_to(outside.secret.parent)
        return found

    outside.watch()
    monkeypatch.setattr(os, "stat", swapping)
    with pytest.raises(OSError, match="inner"):
        Folder(str(inner))
    monkeypatch.undo()
    assert outside.touched() == ""


def test_an_attacker_who_swaps_all_the_time_wins_nothing(theirs: Path, outside: Outside) -> None:
    """Every swap that he can think of, as fast as he can, against everything that root does."""

    def act() -> None:
        for plant in ("symbolic link", "dangling link", "FIFO", "link to a directory"):
            (theirs / "new").unlink(missing_ok=True)
            PLANTS[plant](theirs / "new", outside.secret)
            os.replace(theirs / "new", theirs / "name")
            (theirs / "new").write_text("mine\n")
            os.replace(theirs / "new", theirs / "name")
            for path in theirs.glob(".*"):
                (theirs / "new").symlink_to(outside.secret)
                os.replace(theirs / "new", path)

    outside.watch()
    with limited(), attacker(act), Folder(str(theirs)) as opened:
        for _ in range(400):
            for work in (
                lambda: opened.append("name", b"x\n", 1 << 20),
                lambda: opened.read("name", 100),
                lambda: opened.replace("name", b"y\n", sync=False),
                lambda: opened.remove("name"),
            ):
                with contextlib.suppress(OSError):
                    work()
    assert outside.touched() == ""


def test_a_symbolic_link_is_followed_only_out_of_directories_of_root(tmp_path: Path, theirs: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (tmp_path / "link").symlink_to("mine")
    (theirs / "link").symlink_to(mine)
    Folder(str(tmp_path / "link")).close()
    with pytest.raises(OSError, match="symbolic link"):
        Folder(str(theirs / "link"))
    with pytest.raises(OSError, match="symbolic link"):
        Folder(str(theirs / "link" / "deeper"))


@pytest.mark.parametrize(
    ("owner", "mode", "fine"), [(STRANGER, 0o755, True), (0, 0o755, False), (STRANGER + 1, 0o755, False)]
)
def test_a_directory_inside_must_have_the_same_owner(theirs: Path, owner: int, mode: int, fine: bool) -> None:
    """Or one that belongs to a third could be moved to where root expects the attacker's."""
    inner = theirs / "inner"
    inner.mkdir(mode)
    os.chown(inner, owner, owner)
    if fine:
        Folder(str(inner)).close()
    else:
        with pytest.raises(OSError, match="belongs to user"):
            Folder(str(inner))


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_a_directory_that_others_can_write_is_refused(theirs: Path, mode: int) -> None:
    theirs.chmod(mode)
    with pytest.raises(OSError, match="can be written by others"):
        Folder(str(theirs))


def test_directories_are_made_only_where_no_other_user_can_write(tmp_path: Path, theirs: Path) -> None:
    Folder(str(tmp_path / "a" / "b"), create=0o755).close()
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o755
    with pytest.raises(FileNotFoundError):
        Folder(str(theirs / "a"), create=0o755)


def test_a_lock_that_the_attacker_keeps_is_waited_for_in_vain_but_not_for_ever(theirs: Path) -> None:
    with limited(), Folder(str(theirs)) as one, Folder(str(theirs)) as other:
        with one.locked(1), pytest.raises(OSError, match="another process"), other.locked(0.05):
            pass
        with other.locked(1):
            pass


def test_foreign_control(tmp_path: Path, theirs: Path) -> None:
    assert foreign_control(str(tmp_path / "not" / "there")) == ""
    assert f"{theirs} belongs to user {STRANGER}" in foreign_control(str(theirs / "not" / "there"))
    (theirs / "x").mkdir()
    assert str(theirs) in foreign_control(str(theirs / "x"))
    (tmp_path / "link").symlink_to(theirs)
    assert str(theirs) in foreign_control(str(tmp_path / "link"))
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    assert "chmod go-w" in foreign_control(str(open_to_all / "x"))
    # As /tmp: nobody can replace what is there; what is not there yet can be made by anybody.
    open_to_all.chmod(0o1777)
    (open_to_all / "mine").mkdir()
    assert foreign_control(str(open_to_all / "mine")) == ""
    assert foreign_control(str(open_to_all / "absent")) != ""


def test_private_folder(tmp_path: Path, theirs: Path) -> None:
    private_folder(str(tmp_path / "new"))
    private_folder(str(tmp_path / "new"))
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    (tmp_path / "wide").mkdir(mode=0o755)
    with pytest.raises(OSError, match="others can use it"):
        private_folder(str(tmp_path / "wide"))
    with pytest.raises(OSError, match="belongs to user"):
        private_folder(str(theirs))
    (tmp_path / "sticky").mkdir()
    (tmp_path / "sticky").chmod(0o1777)
    (tmp_path / "sticky" / "link").symlink_to(tmp_path / "new")
    with pytest.raises(OSError, match="symbolic link"):
        private_folder(str(tmp_path / "sticky" / "link"))
