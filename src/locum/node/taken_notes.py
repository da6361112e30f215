"""Notes in the runtime directory of completely taken addresses, for the agent that follows a crash.

One small file per address, named after it, contains the incarnation and the interface. A note is written after
``takeip`` succeeded and removed before any of ``takeip``, ``updateip`` and ``releaseip`` begins, so that an interrupted
event is repeated. It is valid only in the membership in which it was written: a note of an earlier membership must
bring no address back, which another node may serve. A starting guard removes all notes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from locum.machine.addresses import Address


def remains_of(earlier: Iterable[str], configured: Iterable[str], present: Iterable[Address]) -> list[Address]:
    """The addresses of an earlier process that are still ``present`` though they are no longer ``configured``.

    ``earlier``: addresses that a note names or that the gate in the kernel judges. A note alone does not suffice: it is
    removed before an address changes, and the process may end just then. Only addresses with a lifetime are Locum's: an
    administrator has configured a permanent one since.
    """
    former = set(earlier).difference(configured)
    return [found for found in present if found.address in former and not found.permanent]


class TakenNotes:
    """The notes in ``directory``, which is created."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        os.makedirs(directory, mode=0o700, exist_ok=True)

    def add(self, address: str, incarnation: str, interface: str) -> None:
        """``address`` was taken completely, on ``interface``, by the membership ``incarnation``."""
        temporary = os.path.join(self._directory, ".new")
        with open(temporary, "w", encoding="ascii") as file:
            file.write(f"{incarnation} {interface}")
        os.replace(temporary, os.path.join(self._directory, address))

    def remove(self, address: str) -> None:
        """``address`` is about to change."""
        try:
            os.unlink(os.path.join(self._directory, address))
        except FileNotFoundError:
            pass

    def of(self, incarnation: str) -> dict[str, str]:
        """Address → interface of addresses taken completely in the membership ``incarnation``."""
        found = {}
        for name in os.listdir(self._directory):
            if not name.startswith("."):
                with open(os.path.join(self._directory, name), encoding="ascii") as file:
                    whose, _, interface = file.read().partition(" ")
                if whose == incarnation:
                    found[name] = interface
        return found

    def addresses(self) -> list[str]:
        """All addresses with a note, of any membership."""
        return [name for name in os.listdir(self._directory) if not name.startswith(".")]

    def clear(self) -> None:
        """Remove all notes."""
        for name in os.listdir(self._directory):
            self.remove(name)
