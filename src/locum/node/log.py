"""The daemon's log: lines on standard error, for journald or a file.

``console``: time, level, node, text. ``json``: the same as one object per line.

Logging never waits: lines go through :mod:`locum.lines`; lines that standard error does not accept are counted.
"""

from __future__ import annotations

import json
import time
from typing import TextIO

from locum.escape import paragraph
from locum.lines import standard_error

LEVELS = ("debug", "info", "warning", "error")


class Log:
    """Writes lines of ``level`` and above. It never waits and never raises: neither a stopped reader nor a full disk
    may stop a node. ``stream`` replaces standard error, in tests."""

    def __init__(self, node: str, level: str = "info", form: str = "console", stream: TextIO | None = None) -> None:
        self._node = node
        self._least = LEVELS.index(level)
        self._json = form == "json"
        self._stream = stream
        standard_error.notice = self._dropped

    def __call__(self, text: str, level: str = "info") -> None:
        """Log ``text``. In multi-line text, lines after the first are indented. Characters that could command a
        terminal or forge a line are escaped (:mod:`locum.escape`)."""
        if LEVELS.index(level) < self._least:
            return
        line = self._line(text, level)
        if self._stream is None:
            standard_error.put(line)
        else:
            self._stream.write(line + "\n")

    def _line(self, text: str, level: str) -> str:
        now = time.time()
        if self._json:
            return json.dumps({"time": round(now, 3), "level": level, "node": self._node, "text": text})
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now)) + f".{int(now * 1000) % 1000:03d}"
        return f"{stamp} {level:<7} {self._node}: {paragraph(text)}"

    def _dropped(self, count: int, why: str) -> str:
        because = f" ({why})" if why else ""
        lines = "1 log line was" if count == 1 else f"{count} log lines were"
        return self._line(f"{lines} dropped: standard error did not accept them{because}", "warning")
