"""The demo's display: which node serves which address, the current action, and the table at the end.

On a terminal, a picture that is drawn several times a second; elsewhere plain lines, each written once.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from locum.clock import boottime
from locum_lab import observer, probe
from locum_lab.figures import Row
from locum_lab.layout import Layout
from locum_lab.tail import Tail

#: An address whose last answer is older than this (seconds) is shown as not served.
_STALE = 0.3


class Display:
    """``files`` are those of the probe and the observer, read anew for each picture."""

    def __init__(self, layout: Layout, files: dict[str, Path], console: Console) -> None:
        self._layout = layout
        self._console = console
        self._tails = {kind: Tail(path) for kind, path in files.items()}
        self._heard: dict[str, str] = {}
        self._answered: dict[str, float] = {}
        self._done: deque[Text] = deque(maxlen=12)
        self._now = ""

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Show the picture until the block is left."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, get_renderable=self._picture, refresh_per_second=10, transient=True):
            yield

    def begin(self, text: str) -> None:
        """Show the current action."""
        self._now = text
        if not self._console.is_terminal:
            self._console.print(text, highlight=False)

    def say(self, text: str, style: str = "") -> None:
        """Show a result."""
        self._now = ""
        self._done.append(Text(text, style=style))
        if not self._console.is_terminal:
            self._console.print(f"  {text}", highlight=False)

    def _picture(self) -> Group:
        for line in self._tails["observe"].lines():
            record = observer.read(line)
            if record.event == "speaks":
                self._heard[record.address] = record.node
            elif record.event == "silent" and self._heard.get(record.address) == record.node:
                del self._heard[record.address]
        for line in self._tails["probe"].lines():
            attempt = probe.read(line)
            if attempt.ok:
                self._answered[attempt.address] = max(attempt.t, self._answered.get(attempt.address, 0.0))
        return Group(self._addresses(), Panel(Group(*self._done, Text(self._now, style="bold yellow")), title="events"))

    def _addresses(self) -> Table:
        table = Table(title="which node serves which address", expand=False)
        table.add_column("address")
        for node in self._layout.node_names:
            table.add_column(node, justify="center", min_width=6)
        table.add_column("client")
        now = boottime()
        for public in self._layout.public_addresses:
            address = public.address
            speaker = self._heard.get(address)
            cells = ["●" if node == speaker else "" for node in self._layout.node_names]
            age = now - self._answered.get(address, 0.0)
            client = Text("answered", "green") if age < _STALE else Text("no answer", "bold red")
            table.add_row(address, *(Text(cell, "green") for cell in cells), client)
        return table


def figures(rows: Sequence[Row]) -> Table:
    """The table at the end."""
    table = Table(title="gaps: longest time between two answered requests, in seconds", box=box.SIMPLE_HEAD, padding=0)
    for name in ("", "rounds", "median", "longest", "target", "reached", "moves", "holders"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for row in rows:
        moves = f"{row.moves}" + (f" ({row.others} needless)" if row.others else "")
        table.add_row(
            row.fault,
            str(row.rounds),
            _seconds(row.median),
            _seconds(row.longest),
            _seconds(row.target),
            Text("yes", "green") if row.reached else Text("NO", "bold red"),
            moves,
            Text(str(row.holders), "green" if row.holders == 1 else "bold red"),
        )
    return table


def _seconds(value: float) -> str:
    return "0" if value == 0 else f"{value:.3f}"
