"""The runner's protocol: what its two ends say to each other, one JSON document a line over a socket pair.

Rules of this file: the messages and their encoding; both ends use it, so it has only light imports.

The runner begins with a :class:`Greeting`. The agent sends a :class:`Request` for each run of an event, and for each
job gets an :class:`Answer`, up to the first that ends the event (I4): that one is the last. A :class:`Cancel` kills the
script that runs; the answer says so, and is the last. One that comes after the end of its run is void. When the socket
closes, the agent is gone: the runner kills the script that runs, and exits.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from locum.events.runner.results import ScriptResult

T = TypeVar("T")


class Job(msgspec.Struct, frozen=True):
    """One script to run for one event: everything that is needed to start it. ``limit``: seconds."""

    script: str
    path: str
    python: bool
    event: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    limit: float

    @property
    def command(self) -> list[str]:
        """The end of its command line, after an interpreter."""
        return [self.path, self.event, *self.arguments]


class Request(msgspec.Struct, frozen=True, tag="run"):
    """Run ``jobs``, at least one, in this order. ``run`` numbers the requests."""

    run: int
    jobs: tuple[Job, ...]


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Kill the script of request ``run``."""

    run: int


class Greeting(msgspec.Struct, frozen=True, tag="ready"):
    """``refused``: why the runner cannot work, None when it is ready. ``ended``: the script that an earlier runner left
    and that this one had to end."""

    refused: str | None = None
    ended: str | None = None


class Answer(msgspec.Struct, frozen=True, tag="result"):
    """The result of a job of request ``run``; ``last``: no other follows."""

    run: int
    result: ScriptResult
    last: bool


def encode(message: msgspec.Struct) -> bytes:
    """``message`` as a line."""
    return msgspec.json.encode(message) + b"\n"


class Lines(Generic[T]):
    """Bytes in, messages out."""

    def __init__(self, kind: Any) -> None:
        """``kind``: the type of messages, T."""
        self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(kind)
        self._rest = b""

    def feed(self, data: bytes) -> list[T]:
        """The messages that ``data`` completes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [self._decoder.decode(line) for line in lines]
