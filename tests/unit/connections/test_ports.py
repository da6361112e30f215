"""The ports that scripts have declared."""

from __future__ import annotations

import os
from pathlib import Path

from locum.connections.ports import DeclaredPorts


def test_ports_of_all_files_are_read_again_when_they_change(tmp_path: Path) -> None:
    ports = DeclaredPorts(str(tmp_path / "listen"))
    assert ports.read() == frozenset()
    (tmp_path / "listen").mkdir()
    (tmp_path / "listen" / "50.samba").write_text("445 139\n")
    (tmp_path / "listen" / "60.nfs").write_text("2049\n")
    assert ports.read() == {445, 139, 2049}
    (tmp_path / "listen" / "60.nfs").unlink()
    assert ports.read() == {445, 139}
    (tmp_path / "listen" / "50.samba").write_text("445\n")
    assert ports.read() == {445}


def test_nonsense_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"0 70000 -1 http \xff \xc2\xb2 80")
    assert DeclaredPorts(str(tmp_path)).read() == {80}


def test_a_file_that_vanishes_meanwhile_does_no_harm(tmp_path: Path) -> None:
    os.symlink(tmp_path / "nowhere", tmp_path / "dangling")
    (tmp_path / "good").write_text("80")
    ports = DeclaredPorts(str(tmp_path))
    ports.read()
    (tmp_path / "dangling").unlink()
    assert ports.read() == {80}


def test_ranges_that_nobody_listens_on_come_from_a_directory_of_their_own(tmp_path: Path) -> None:
    ports = DeclaredPorts(str(tmp_path / "listen"))
    (tmp_path / "connections").mkdir()
    (tmp_path / "connections" / "40.vsftpd").write_text("50021-50023\n20-20\n7\n")
    assert ports.read() == {20, 7, 50021, 50022, 50023}
    (tmp_path / "connections" / "40.vsftpd").write_text("5-3 1- -9 0-4 1-70000 x-y 8-8\n")
    assert ports.read() == {8}
    (tmp_path / "connections" / "40.vsftpd").unlink()
    assert ports.read() == frozenset()
