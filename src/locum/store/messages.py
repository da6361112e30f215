"""The messages between the embedded store's server and its clients, one frame each (:mod:`locum.json_lines`).

A client numbers its requests; answers carry the number and may come in any order. A watch is a request whose answer
is a stream of events with its number, until it is lost or ended by Unwatch. Requests of one connection are carried out
in the order of their sending.

Rules of this file: values only.
"""

from __future__ import annotations

from typing import Final

import msgspec

from locum.store.base import Batch, CommitResult, Condition, Operation, Snapshot

#: Sent in the greeting; changes when an old client and a new server would misunderstand each other.
PROTOCOL: Final = 3


class Read(msgspec.Struct, frozen=True, tag_field="request", tag="read"):
    """Answered by a Reply with a snapshot of the keys under ``prefix``."""

    id: int
    prefix: str


class Names(msgspec.Struct, frozen=True, tag_field="request", tag="names"):
    """Answered by a Reply with the first parts of the keys after ``prefix``."""

    id: int
    prefix: str


class Commit(msgspec.Struct, frozen=True, tag_field="request", tag="commit"):
    """Answered by a Reply with a result."""

    id: int
    conditions: tuple[Condition, ...]
    operations: tuple[Operation, ...]


class Watch(msgspec.Struct, frozen=True, tag_field="request", tag="watch"):
    """Answered by any number of Replies with a batch or with progress, finally by one with ``lost``."""

    id: int
    prefix: str
    after: int


class Unwatch(msgspec.Struct, frozen=True, tag_field="request", tag="unwatch"):
    """Ends the watch with this number; not answered."""

    id: int


Request = Read | Names | Commit | Watch | Unwatch


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """An answer to, or an event of, the request ``id``; exactly one of the other fields is set.

    ``progress``: the watch has passed this revision without a change under its prefix. ``lost``: the watch has
    ended with WatchLost, for this reason. ``error``: the request failed, for this reason; ``invalid`` distinguishes a
    request that can never succeed from one that the store could not carry out. A Reply with ``id`` 0 is about
    the connection: an error that ends it, or the greeting (``protocol``).
    """

    id: int = 0
    snapshot: Snapshot | None = None
    names: tuple[str, ...] | None = None
    result: CommitResult | None = None
    batch: Batch | None = None
    progress: int | None = None
    lost: str | None = None
    error: str | None = None
    invalid: bool = False
    protocol: int | None = None


requests: Final = msgspec.json.Decoder(Request)
replies: Final = msgspec.json.Decoder(Reply)
