"""The directories in which NFS-Ganesha records its NFSv4 clients, read as others do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from locum.nfs import v4_records


def test_names_of_the_clients_at_addresses(tmp_path: Path) -> None:
    for record in (
        "::ffff:10.0.0.9-(3:one)",
        "::ffff:10.0.0.9-(3:two)",
        "::ffff:10.0.0.8-(5:three)",
        "fd77::9-(4:four)",
    ):
        (tmp_path / "v4recov" / record).mkdir(parents=True)
    assert v4_records.names(str(tmp_path), {"10.0.0.9"}) == ["one", "two"]
    assert v4_records.names(str(tmp_path), {"fd77::9"}) == ["four"]
    assert v4_records.names(str(tmp_path), set()) == []


def test_name_with_brackets(tmp_path: Path) -> None:
    (tmp_path / "v4recov" / "10.0.0.9-(8:a-(1:b)c)").mkdir(parents=True)
    assert v4_records.names(str(tmp_path), {"10.0.0.9"}) == ["a-(1:b)c"]


def test_name_with_a_stroke_is_text_and_bytes_are_not(tmp_path: Path) -> None:
    """Linux calls itself so for NFSv4.0, and no directory can be called so."""
    linux, other = b"Linux NFSv4.0 10.0.0.9/10.0.0.1".hex(), "0x00ff0102"
    for number, name in ((9, f"0x{linux}"), (8, other), (7, "0x12 is text")):
        (tmp_path / "v4recov" / f"10.0.0.{number}-({len(name)}:{name})").mkdir(parents=True)
    assert v4_records.names(str(tmp_path), {"10.0.0.9"}) == ["Linux NFSv4.0 10.0.0.9/10.0.0.1"]
    assert v4_records.names(str(tmp_path), {"10.0.0.8"}) == [other]
    assert v4_records.names(str(tmp_path), {"10.0.0.7"}) == ["0x12 is text"]


def test_name_that_is_spread_over_directories(tmp_path: Path) -> None:
    name = "x" * 400
    record = f"10.0.0.9-(400:{name})"
    (tmp_path / "v4recov" / record[:255] / record[255:]).mkdir(parents=True)
    # A server that died while it wrote leaves half a record.
    (tmp_path / "v4recov" / f"10.0.0.9-(300:{name[:240]}").mkdir()
    assert v4_records.names(str(tmp_path), {"10.0.0.9"}) == [name]


def test_handles_of_revoked_delegations_are_no_clients(tmp_path: Path) -> None:
    record = tmp_path / "v4recov" / "10.0.0.9-(3:one)"
    record.mkdir(parents=True)
    (record / "\x01handle)").touch()
    assert v4_records.names(str(tmp_path), {"10.0.0.9"}) == ["one"]


def test_no_records_yet(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        v4_records.names(str(tmp_path), {"10.0.0.9"})


def test_others_reach_both_kinds_of_records(tmp_path: Path) -> None:
    """As the server puts the path together: its own root, the argument, the name of the directory."""
    for node in ("n1", "n2"):
        v4_records.prepare(str(tmp_path / node))
        v4_records.prepare(str(tmp_path / node))
        for kind in ("v4recov", "v4old"):
            (tmp_path / node / kind / f"{node} {kind}").mkdir(parents=True)
    current, old = (tmp_path / "n1" / argument / "v4recov" for argument in v4_records.arguments("n2"))
    assert os.listdir(current) == ["n2 v4recov"]
    assert os.listdir(old) == ["n2 v4old"]
