"""Requests of commands to the daemon: typed answers, a watch that survives a restart of the daemon, and notes about
outdated answers.

A daemon without contact with the store answers with its last known state. Every command that shows such a state reports
this: in text at the top or on standard error, in JSON by ``stale`` and ``age``, and by the exit status :data:`OLD`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from typing import TypeVar

import msgspec

from locum.api.client import DEFAULT_TIMEOUT, exchange, stream_raw
from locum.api.model import StatusReport
from locum.cli import output
from locum.cli.output import Screen
from locum.control_socket import NoDaemon
from locum.errors import ProtocolError

#: Exit status of a command whose output shows the daemon's last known state, which may be outdated.
OLD = 3
#: Pause before a watch looks again for a daemon that disappeared, in seconds.
LOOK_AGAIN = 0.5

T = TypeVar("T")


class Reply(msgspec.Struct, frozen=True):
    """A result as JSON text. ``old``: why it may be outdated, empty when it is current; ``age``: its maximum age in
    seconds in that case."""

    result: bytes
    old: tuple[str, ...] = ()
    age: float | None = None

    @property
    def status(self) -> int:
        """The exit status of a command that shows it."""
        return OLD if self.old else 0

    def marks(self) -> dict[str, object]:
        """``stale`` and ``age``, for JSON without such fields."""
        return {"stale": bool(self.old), "age": self.age if self.old else None}


def ask(
    socket_path: str, request: Mapping[str, object], timeout: float = DEFAULT_TIMEOUT, *, say: bool = True
) -> Reply:
    """Ask the daemon. ``say``: report an outdated answer on standard error."""
    answer = exchange(socket_path, request, timeout)
    reply = Reply(bytes(answer.result), answer.old, answer.age)
    if say:
        for reason in reply.old:
            print(f"locum: note: {output.clean(reason)}", file=sys.stderr)
        if reply.old:
            print(f"locum: note: the information {was_true(reply.age, time.time())}", file=sys.stderr)
    return reply


def was_true(age: float | None, wall: float) -> str:
    """The time of the answer's last confirmation, in words; ``wall`` is unix time in seconds."""
    if age is None:
        return "was never confirmed by the store"
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(wall - age))
    return f"was true at {when}, at this node's last contact with the store"


def old_lines(report: StatusReport, on: Screen, wall: float) -> list[str]:
    """The lines above a text report that may be outdated; none above a current one."""
    if not report.stale:
        return []
    reasons = [*report.warnings[:1], f"what follows {was_true(report.age, wall)}"]
    return [*output.items(reasons, on, "red", mark="! "), ""]


def decode(result: bytes, kind: type[T]) -> T:
    """Decode ``result`` as a ``kind``. Raises ProtocolError when it has another form."""
    try:
        return msgspec.json.decode(result, type=kind)
    except msgspec.DecodeError as error:
        raise ProtocolError(
            f"the daemon's answer has an unexpected form ({error}): update 'locum' and the daemon to the same version"
        ) from None


def decode_status(result: bytes) -> StatusReport:
    """Decode the report in ``result``. Raises ProtocolError when it has another form."""
    return decode(result, StatusReport)


def ask_status(socket_path: str, *, as_json: bool) -> Reply:
    """Ask for the daemon's status. A text report shows by itself that it is outdated."""
    return ask(socket_path, {"op": "status"}, say=as_json)


def watch_status(socket_path: str) -> Iterator[bytes]:
    """Yield the daemon's status as JSON text, now and after every change, for ever.

    When the daemon disappears (for instance because it restarts), wait for it, with a note on standard error. A daemon
    that is missing from the beginning is an error.
    """
    seen = False
    said = False
    while True:
        try:
            for result in stream_raw(socket_path, {"op": "watch"}):
                seen, said = True, False
                yield result
        except NoDaemon as error:
            if not seen:
                raise
            if not said:
                said = True
                print(f"locum: {output.clean(str(error))}; waiting for it", file=sys.stderr)
        time.sleep(LOOK_AGAIN)
