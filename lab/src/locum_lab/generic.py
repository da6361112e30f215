"""A service without its own script, for 70.service: Python's web server with the lab's shared files."""

from __future__ import annotations

import sys
from pathlib import Path

PORT = 8081


def settings(directory: Path, shared: Path) -> dict[str, object]:
    """The settings of 70.service; ``directory`` gets a line in ``moves`` for each ``recovered`` after a move."""
    directory.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "http.server", "--bind", "::", "--directory", str(shared), str(PORT)]
    return {
        "command": command,
        "ports": [PORT],
        "directories": [str(shared)],
        "check": ["curl", "--silent", "--fail", "--max-time", "3", f"http://127.0.0.1:{PORT}/"],
        "move": ["sh", "-c", f"echo moved >>{directory}/moves"],
    }
