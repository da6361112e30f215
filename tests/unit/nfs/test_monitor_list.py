"""rpc.statd's files."""

from __future__ import annotations

from pathlib import Path

from locum.nfs import monitor_list


def test_rebuilt(tmp_path: Path) -> None:
    (tmp_path / "10.0.0.8").write_text("what rpc.statd wrote\n")
    (tmp_path / "10.0.0.7").write_text("of an address that has left\n")
    assert monitor_list.rebuild(str(tmp_path), {"10.0.0.8": "10.0.0.1", "10.0.0.9": "10.0.0.1"}) == (1, 1, ())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10.0.0.8", "10.0.0.9"]
    assert (tmp_path / "10.0.0.8").read_text() == "what rpc.statd wrote\n"
    fields = (tmp_path / "10.0.0.9").read_text().split()
    assert fields == ["0100007f", "000186b5", "00000003", "00000010", "0" * 32, "10.0.0.9", "10.0.0.1"]
    assert (tmp_path / "10.0.0.9").stat().st_mode & 0o777 == 0o600
    assert monitor_list.rebuild(str(tmp_path), {}) == (0, 2, ())


def test_names_that_are_no_file_names_are_left_out(tmp_path: Path) -> None:
    directory = tmp_path / "sm"
    directory.mkdir()
    wicked = {"../escape": "a", "": "a", ".hidden": "a", "a/b": "a", "new\nline": "a", "two words": "a"}
    assert monitor_list.rebuild(str(directory), wicked) == (0, 0, ())
    assert [path.name for path in tmp_path.iterdir()] == ["sm"]


def test_a_file_of_the_same_host_in_another_spelling_is_its_own(tmp_path: Path) -> None:
    """rpc.statd names it as the client's resolver does."""
    (tmp_path / "Client.Example.com").write_text("what rpc.statd wrote\n")
    assert monitor_list.rebuild(str(tmp_path), {"client.example.com": "10.0.0.1"}) == (0, 0, ())
    assert [path.name for path in tmp_path.iterdir()] == ["Client.Example.com"]


def test_found(tmp_path: Path) -> None:
    assert monitor_list.find(str(tmp_path)) == str(tmp_path)
    assert monitor_list.find(str(tmp_path / "absent")) is None
