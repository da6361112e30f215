"""Requests to this node's daemon, from scripts and from the call-out of rpc.statd.

Rules of this file: only light parts of the standard library, because rpc.statd waits for the call-out. Requests are
those of ``docs/commands.md``.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from typing import Any

DEFAULT_SOCKET = "/run/locum/control.sock"


class NoDaemon(Exception):
    """The daemon is not running, or does not answer; the message says which."""


class Refused(Exception):
    """The daemon answered with an error. ``kind`` as in :mod:`locum.api.answers`; ``unavailable``: the store's."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


def ask(request: Mapping[str, object], *, path: str | None = None, timeout: float = 5.0) -> Any:
    """The daemon's result. ``path``: its control socket, LOCUM_SOCKET or the default when None. ``timeout`` in seconds
    for each step. Raises NoDaemon and Refused."""
    where = path or os.environ.get("LOCUM_SOCKET") or DEFAULT_SOCKET
    answer = b""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(where)
            connection.sendall(json.dumps(request).encode() + b"\n")
            while not answer.endswith(b"\n"):
                data = connection.recv(1 << 16)
                if not data:
                    raise NoDaemon(f"{where}: the daemon went away without an answer")
                answer += data
        except OSError as error:
            raise NoDaemon(f"{where}: {error.strerror or str(error) or 'no answer'}") from None
    try:
        message = json.loads(answer)
        if message.get("ok") is True:
            return message.get("result")
        raise Refused(str(message.get("error", "refused")), str(message.get("kind", "error")))
    except (ValueError, AttributeError):
        raise NoDaemon(f"{where}: the answer is not that of a Locum daemon") from None
