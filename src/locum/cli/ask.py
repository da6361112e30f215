"""Asking the daemon, for commands: typed answers, and a watch that outlives a restart of the daemon."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import msgspec

from locum.api.client import NoDaemon, call_raw, stream_raw
from locum.api.model import StatusReport
from locum.errors import ProtocolError

#: Pause before a watch looks again for a daemon that went away, in seconds.
LOOK_AGAIN = 0.5

_status = msgspec.json.Decoder(StatusReport)


def decode_status(result: bytes) -> StatusReport:
    """The report in ``result``. Raises ProtocolError when it is none."""
    try:
        return _status.decode(result)
    except msgspec.DecodeError as error:
        raise ProtocolError(
            f"the daemon's answer is not a status of this version ({error}): are 'locum' and the daemon of one version?"
        ) from None


def ask_status(socket_path: str) -> bytes:
    """The daemon's status as JSON text."""
    return call_raw(socket_path, {"op": "status"})


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
                print(f"locum: {error}; waiting for it", file=sys.stderr)
        time.sleep(LOOK_AGAIN)
