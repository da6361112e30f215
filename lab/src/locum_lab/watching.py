"""Probe and observer as processes beside a lab, and their output so far."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

from locum.errors import LocumError
from locum_lab import observer, probe
from locum_lab.lab import Lab
from locum_lab.observer import Record
from locum_lab.probe import Attempt
from locum_lab.tail import Tail


class Watching:
    """Runs ``locum lab probe`` and ``locum lab observe`` from the start to :meth:`end`.

    ``probe_interval``, ``probe_timeout``, ``ask_interval``: seconds. A time-out below a second distinguishes a lost
    request (sent again after a second) from a late answer of a busy machine. ``attempts`` and ``records`` are the
    result of the last :meth:`read`.
    """

    def __init__(
        self, lab: Lab, *, probe_interval: float = 0.01, probe_timeout: float = 0.9, ask_interval: float = 0.01
    ) -> None:
        self.attempts: list[Attempt] = []
        self.records: list[Record] = []
        self._files = {kind: lab.directory / f"{kind}.jsonl" for kind in ("probe", "observe")}
        self._tails = {kind: Tail(path) for kind, path in self._files.items()}
        options = {
            "probe": ["--interval", f"{probe_interval * 1000:g}", "--timeout", f"{probe_timeout * 1000:g}"],
            "observe": ["--interval", f"{ask_interval * 1000:g}"],
        }
        self._processes = {
            kind: subprocess.Popen(
                [
                    *(sys.executable, "-m", "locum_lab.command", kind, "--name", lab.layout.name),
                    *(*options[kind], "--output", str(path)),
                ],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            for kind, path in self._files.items()
        }
        lab.wait_for("probe and observer", lambda: all(path.exists() for path in self._files.values()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.kill()
            process.communicate()

    @property
    def files(self) -> dict[str, Path]:
        """Their output files."""
        return self._files

    def read(self) -> None:
        """Read their output since the last call. Raises LocumError when one of them has ended."""
        for kind, process in self._processes.items():
            if process.poll() is not None:
                _, reason = process.communicate()
                raise LocumError(f"locum lab {kind} ended: {reason.decode(errors='replace').strip()}")
        self._take()

    def end(self) -> Record:
        """End both, read the rest, and return the observer's last record."""
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self._processes.values():
            process.communicate(timeout=60)
        self._take()
        if not self.records or self.records[-1].event != "end":
            raise LocumError("the observer ended without a verdict")
        return self.records[-1]

    def _take(self) -> None:
        self.attempts += map(probe.read, self._tails["probe"].lines())
        self.records += map(observer.read, self._tails["observe"].lines())
