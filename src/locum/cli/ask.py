"""Asking the daemon, for commands: typed answers, a watch that outlives a restart of the daemon, and what to say when
the daemon's knowledge is old.

A daemon that does not hear from the store answers with what it heard last. Every command that shows this says so: in
text at its head or on standard error, in JSON by ``stale`` and ``age``, and by the exit status :data:`OLD`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from typing import TypeVar

import msgspec

from locum.api.client import DEFAULT_TIMEOUT, NoDaemon, exchange, stream_raw
from locum.api.model import StatusReport
from locum.cli import output
from locum.cli.output import Screen
from locum.errors import ProtocolError

#: Exit status of a command that showed what the daemon heard last, which may be over.
OLD = 3
#: Pause before a watch looks again for a daemon that went away, in seconds.
LOOK_AGAIN = 0.5

T = TypeVar("T")


class Told(msgspec.Struct, frozen=True):
    """A result as JSON text. ``old``: why it may be over, empty when it is the present; ``age``: how many seconds old
    it may be then."""

    result: bytes
    old: tuple[str, ...] = ()
    age: float | None = None

    @property
    def status(self) -> int:
        """The exit status of a command that shows it."""
        return OLD if self.old else 0

    def marks(self) -> dict[str, object]:
        """``stale`` and ``age``, for JSON that has no place for them of its own."""
        return {"stale": bool(self.old), "age": self.age if self.old else None}


def ask(socket_path: str, request: Mapping[str, object], timeout: float = DEFAULT_TIMEOUT, *, say: bool = True) -> Told:
    """Ask the daemon. ``say``: tell on standard error when the answer may be over."""
    answer = exchange(socket_path, request, timeout)
    told = Told(bytes(answer.result), answer.old, answer.age)
    if say:
        for reason in told.old:
            print(f"locum: note: {output.clean(reason)}", file=sys.stderr)
        if told.old:
            print(f"locum: note: what is shown {was_true(told.age, time.time())}", file=sys.stderr)
    return told


def was_true(age: float | None, wall: float) -> str:
    """Since when it may be over, in words; ``wall`` is unix time in seconds."""
    if age is None:
        return "was never confirmed by the store"
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(wall - age))
    return f"was true at {when}, when this node heard from the store last"


def old_lines(report: StatusReport, on: Screen, wall: float) -> list[str]:
    """What stands above a report for people that may be over; nothing above one that is the present."""
    if not report.stale:
        return []
    reasons = [*report.warnings[:1], f"what follows {was_true(report.age, wall)}"]
    return [*output.items(reasons, on, "red", mark="! "), ""]


def decode(result: bytes, kind: type[T]) -> T:
    """``result`` as a ``kind``. Raises ProtocolError when it is none."""
    try:
        return msgspec.json.decode(result, type=kind)
    except msgspec.DecodeError as error:
        raise ProtocolError(
            f"the daemon's answer is not of this version ({error}): are 'locum' and the daemon of one version?"
        ) from None


def decode_status(result: bytes) -> StatusReport:
    """The report in ``result``. Raises ProtocolError when it is none."""
    return decode(result, StatusReport)


def ask_status(socket_path: str, *, as_json: bool) -> Told:
    """The daemon's status. Text shows by itself that it is old."""
    return ask(socket_path, {"op": "status"}, say=as_json)


def watch_status(socket_path: str) -> Iterator[bytes]:
    """The daemon's status as JSON text, now and after every change, for ever.

    A daemon that goes away (a restart, say) is waited for, with a word on standard error; one that was not there to
    begin with is an error.
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
