"""A service without a script of its own, for 70.service: Python's web server on the node's own files."""

from __future__ import annotations

import sys
from pathlib import Path

PORT = 8081


def settings(directory: Path, node: str) -> dict[str, object]:
    """Write what it serves into ``directory``; the settings of 70.service."""
    files = directory / "files"
    files.mkdir(parents=True, exist_ok=True)
    (files / "index.html").write_text(f"{node}\n")
    command = [sys.executable, "-m", "http.server", "--bind", "::", "--directory", str(files), str(PORT)]
    return {
        "command": command,
        "ports": [PORT],
        "directories": [str(files)],
        "check": ["curl", "--silent", "--fail", "--max-time", "3", f"http://127.0.0.1:{PORT}/"],
        "move": ["sh", "-c", f"echo moved >>{directory}/moves"],
    }
