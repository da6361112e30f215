"""The last output of a service that has ended: reports name its log, which otherwise only the script knows.

Rules of this file: it reads the records and logs of services that a script has started detached
(:mod:`locum.script.services`, ``functions``). Only light imports: this runs in the runner.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from locum.processes import boot_id, is_alive

#: Shown part of a log: lines, and bytes.
_LINES, _BYTES = 8, 2000
#: Part of its last line that a reason quotes, characters.
_QUOTED = 120


class LastWords(NamedTuple):
    """A service that has ended by itself: its name, its log, and the last lines of that."""

    service: str
    log: str
    lines: list[str]

    @property
    def reason(self) -> str:
        """The end of a sentence that says why the script failed."""
        if not self.lines:
            return f"its service has ended and wrote nothing to {self.log}"
        return f"its service has ended, last words in {self.log}: {self.lines[-1][:_QUOTED]}"

    @property
    def note(self) -> str:
        """For the output of the script."""
        if not self.lines:
            return f"{self.service} has ended; its log {self.log} is empty"
        return "\n".join([f"[{self.service} has ended. The end of its log {self.log}:", *self.lines]) + "]"


def last_words(script: str, environment: Mapping[str, str], since: float) -> list[LastWords]:
    """The services that ``script`` has started detached and that have ended by themselves, also those that were
    restarted for that reason since the unix time ``since``."""
    runtime, state = environment.get("LOCUM_RUNTIME", ""), environment.get("LOCUM_STATE", "")
    directory = os.path.join(runtime, "services")
    found = []
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(".pid"))
    except OSError:
        return []
    for name in names:
        service = name.removesuffix(".pid")
        if (service == script or service.startswith(f"{script}-")) and _ended(os.path.join(directory, name), since):
            log = os.path.join(state, "services", f"{service}.log")
            found.append(LastWords(service, log, _end_of(log)))
    return found


def _ended(record: str, since: float) -> bool:
    try:
        with open(record, encoding="ascii", errors="replace") as file:
            started = os.fstat(file.fileno()).st_mtime
            pid, start, boot = file.read().split()
        # An empty record belongs to a service that was stopped.
        return boot == boot_id() and (started >= since or not is_alive(int(pid), int(start)))
    except (OSError, ValueError):
        return False


def _end_of(log: str) -> list[str]:
    try:
        with open(log, "rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - _BYTES, 0))
            text = file.read().decode("utf-8", "backslashreplace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-_LINES:]
