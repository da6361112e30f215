"""The timeline: the actions of each machine, kept only when it will be read."""

from __future__ import annotations

from locum_sim.engine import Engine


class Trace:
    """Lines of (true time, machine, text). While not ``on`` nothing is kept, and callers build no text."""

    def __init__(self, engine: Engine, on: bool) -> None:
        self._engine = engine
        self.on = on
        self.lines: list[tuple[float, str, str]] = []

    def say(self, who: str, text: str) -> None:
        """Add a line."""
        if self.on:
            self.lines.append((self._engine.now, who, text))

    def show(self, since: float = 0.0, until: float = float("inf")) -> str:
        """The lines between two times, one per line."""
        return "\n".join(f"{when:12.6f}  {who:8} {text}" for when, who, text in self.lines if since <= when <= until)
