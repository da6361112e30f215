"""The failure that a script's author declares."""

from __future__ import annotations


class Fail(Exception):
    """Raise this to make the script fail: ``message`` is its output, ``status`` (1 to 255) its exit status."""

    def __init__(self, message: str = "failed", status: int = 1) -> None:
        super().__init__(message)
        self.status = status if 1 <= status <= 255 else 1
