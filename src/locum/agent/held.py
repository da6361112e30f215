"""Notes in the runtime directory of which addresses were taken completely, for the agent that comes after a crash.

One small file per address, named after it, with the interface inside. A note is written after ``takeip`` succeeded
and removed before ``releaseip`` begins, so that a take or release that was interrupted is done again. They mean
something only together with the incarnation on the guard's page, and a starting guard removes them all.
"""

from __future__ import annotations

import os


class HeldNotes:
    """The notes in ``directory``, which is created."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        os.makedirs(directory, mode=0o700, exist_ok=True)

    def add(self, address: str, interface: str) -> None:
        """``address`` was taken completely, on ``interface``."""
        temporary = os.path.join(self._directory, ".new")
        with open(temporary, "w", encoding="ascii") as file:
            file.write(interface)
        os.replace(temporary, os.path.join(self._directory, address))

    def remove(self, address: str) -> None:
        """``address`` is about to be released."""
        try:
            os.unlink(os.path.join(self._directory, address))
        except FileNotFoundError:
            pass

    def all(self) -> dict[str, str]:
        """Address → interface."""
        found = {}
        for name in os.listdir(self._directory):
            if not name.startswith("."):
                with open(os.path.join(self._directory, name), encoding="ascii") as file:
                    found[name] = file.read()
        return found

    def clear(self) -> None:
        """Nothing is held."""
        for name in os.listdir(self._directory):
            self.remove(name)
