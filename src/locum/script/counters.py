"""Counts failures in a row between runs of a script."""

from __future__ import annotations

import contextlib
import os


class Counters:
    """Failures in a row, as files in a directory."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def failed(self, name: str) -> int:
        """Count one more; return the number."""
        os.makedirs(self._directory, exist_ok=True)
        path = os.path.join(self._directory, name)
        try:
            with open(path, encoding="ascii") as file:
                count = int(file.read()) + 1
        except (OSError, ValueError):
            count = 1
        with open(path, "w", encoding="ascii") as file:
            file.write(str(count))
        return count

    def succeeded(self, name: str) -> None:
        """Reset the count."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._directory, name))
