"""The daemon's log: one line per thing worth knowing, on standard error, for journald or a file.

``console``: time, level, node, text. ``json``: the same as one object per line.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TextIO

LEVELS = ("debug", "info", "warning", "error")


class Log:
    """Writes lines of ``level`` and above; never raises, since a full disk must not stop a node."""

    def __init__(self, node: str, level: str = "info", form: str = "console", stream: TextIO | None = None) -> None:
        self._node = node
        self._least = LEVELS.index(level)
        self._json = form == "json"
        self._stream = stream if stream is not None else sys.stderr

    def __call__(self, text: str, level: str = "info") -> None:
        """Log ``text`` (may have several lines)."""
        if LEVELS.index(level) < self._least:
            return
        now = time.time()
        if self._json:
            line = json.dumps({"time": round(now, 3), "level": level, "node": self._node, "text": text})
        else:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now)) + f".{int(now * 1000) % 1000:03d}"
            line = f"{stamp} {level:<7} {self._node}: {text}"
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            pass
