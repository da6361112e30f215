"""The environment of a script."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment of script 50.web."""
    for name, value in {
        "LOCUM_SCRIPT": "50.web",
        "LOCUM_NODE": "n1",
        "LOCUM_RUNTIME": str(tmp_path / "runtime"),
        "LOCUM_STATE": str(tmp_path / "state"),
        "LOCUM_SCRIPT_STATE": str(tmp_path / "state" / "scripts" / "50.web"),
        "LOCUM_SETTINGS": "{}",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("LOCUM_SOCKET", "LOCUM_DEADLINE", "LOCUM_LIFETIME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path
