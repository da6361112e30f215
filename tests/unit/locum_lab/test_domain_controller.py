"""The archive of a domain controller is made once for each version of Samba, of its recipe and of its addresses."""

from __future__ import annotations

from pathlib import Path

import pytest

from locum.errors import LocumError
from locum_lab import domain_controller


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses for which a domain was made; for the address "fails" it cannot be made."""
    calls: list[str] = []

    def make(directory: Path, address: str, public: list[str]) -> bytes:
        directory.mkdir()
        calls.append(address)
        if address == "fails":
            raise LocumError("no")
        return f"{address} {public}".encode()

    monkeypatch.setattr(domain_controller, "make", make)
    monkeypatch.setattr(domain_controller, "_version", lambda: "4")
    return calls


def _kept(cache: Path) -> list[str]:
    return [path.name for path in cache.glob("domain-*")]


def test_the_archive_is_kept_for_the_next_time(tmp_path: Path, made: list[str]) -> None:
    first = domain_controller.get(tmp_path, "10.77.0.9", ["10.77.0.2"])
    assert domain_controller.get(tmp_path, "10.77.0.9", ["10.77.0.2"]) == first
    assert made == ["10.77.0.9"]


def test_another_version_of_samba_makes_another_and_the_old_one_goes(
    tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    domain_controller.get(tmp_path, "10.77.0.9", ["10.77.0.2"])
    before = _kept(tmp_path)
    monkeypatch.setattr(domain_controller, "_version", lambda: "5")
    domain_controller.get(tmp_path, "10.77.0.9", ["10.77.0.2"])
    assert len(made) == 2
    assert len(_kept(tmp_path)) == 1
    assert _kept(tmp_path) != before


def test_a_domain_that_could_not_be_made_is_not_kept(tmp_path: Path, made: list[str]) -> None:
    for _ in range(2):
        with pytest.raises(LocumError):
            domain_controller.get(tmp_path, "fails", [])
    assert made == ["fails", "fails"]
    assert _kept(tmp_path) == []
