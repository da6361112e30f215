"""The entries of the cluster's history, as they are stored: values only.

Keys sort by time. A key is the revision of the store that began the entry, its kind, and whom it is about: every node
derives the same key for the same change, so that a second copy of it is impossible.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["moves", "state", "refused", "leader", "command"]


class Moves(msgspec.Struct, frozen=True, omit_defaults=True):
    """Addresses that went from one node to another ("": none), and for how many milliseconds each was unserved.

    Counted by the store's claims, from the end of the old node's claim to the complete take; of a node that died, from
    its last beat. -1: unknown.
    """

    source: str
    target: str
    addresses: tuple[str, ...]
    unserved: tuple[int, ...] = ()


class Occurrence(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that happened in the cluster. ``at``: unix time in seconds, by the clock of who wrote it down.

    ``node``: whom it is about. ``cause`` says why, in words. ``state`` (of kind ``state``): the new one, after ``was``.
    ``by``: who gave a command, and ``command`` which one. ``epoch``, ``moves``: a plan and what it changed.
    ``addresses``: those that were refused. ``open``: it was written down before it had ended. ``replaced``: another
    plan came before it had ended.
    """

    key: str
    kind: Kind
    at: float
    node: str = ""
    cause: str = ""
    was: str = ""
    state: str = ""
    command: str = ""
    by: str = ""
    epoch: int = 0
    moves: tuple[Moves, ...] = ()
    addresses: tuple[str, ...] = ()
    open: bool = False
    replaced: bool = False

    def concerns(self, name: str) -> bool:
        """Whether a node or an address of this name has a part in it."""
        if name in (self.node, *self.addresses):
            return True
        return any(name in (group.source, group.target, *group.addresses) for group in self.moves)


def key_of(revision: int, kind: Kind, *whom: str) -> str:
    """The key of an occurrence that ``revision`` began."""
    return ".".join((f"{revision:016d}", kind, *whom))
