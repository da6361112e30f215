"""Notes of what was taken: they mean something only in the membership in which they were written."""

from __future__ import annotations

from pathlib import Path

from locum.node.taken_notes import TakenNotes


def test_a_note_is_found_by_the_membership_that_wrote_it(tmp_path: Path) -> None:
    notes = TakenNotes(str(tmp_path / "held"))
    notes.add("10.0.0.1", "abc", "eth0")
    notes.add("fd00::1", "abc", "eth1")
    notes.remove("fd00::1")
    assert TakenNotes(str(tmp_path / "held")).of("abc") == {"10.0.0.1": "eth0"}


def test_i1_a_note_of_an_earlier_membership_brings_no_address_back(tmp_path: Path) -> None:
    notes = TakenNotes(str(tmp_path / "held"))
    notes.add("10.0.0.1", "before", "eth0")
    notes.add("10.0.0.2", "now", "eth0")
    assert notes.of("now") == {"10.0.0.2": "eth0"}


def test_what_cannot_be_read_is_nobodys(tmp_path: Path) -> None:
    notes = TakenNotes(str(tmp_path / "held"))
    (tmp_path / "held" / "10.0.0.1").write_text("eth0", encoding="ascii")
    assert notes.of("eth0x") == {}
    notes.clear()
    assert not list((tmp_path / "held").iterdir())
