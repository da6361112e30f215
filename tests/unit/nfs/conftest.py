"""The environment of an event script, for code that asks for its settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes this process a script 60.nfs with settings; returns its directory. Commands come from its ``bin``."""

    def make(**settings: object) -> Path:
        for name in ("runtime", "state", "script", "bin"):
            (tmp_path / name).mkdir(exist_ok=True)
        for name, value in {
            "LOCUM_SCRIPT": "60.nfs",
            "LOCUM_NODE": "n1",
            "LOCUM_RUNTIME": str(tmp_path / "runtime"),
            "LOCUM_STATE": str(tmp_path / "state"),
            "LOCUM_SCRIPT_STATE": str(tmp_path / "script"),
            "LOCUM_SETTINGS": json.dumps(settings),
            "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
        }.items():
            monkeypatch.setenv(name, value)
        return tmp_path

    return make


def command(directory: Path, name: str, text: str) -> None:
    """A shell script in ``bin`` that takes the place of a program."""
    path = directory / "bin" / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
