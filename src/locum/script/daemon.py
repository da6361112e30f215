"""Requests of a script to the daemon."""

from __future__ import annotations

import json
import os

from locum.script.context import required
from locum.script.failure import Fail

#: Longest wait for the daemon, which normally answers at once, seconds.
_TIMEOUT = 20.0


def monitor_again() -> None:
    """Run ``monitor`` once more in a second, instead of after MonitorInterval: something looks wrong, and it is too
    early to report it."""
    with open(os.path.join(required("LOCUM_RUNTIME"), "again"), "w", encoding="ascii"):
        pass


def apply_tunables() -> str:
    """Make the daemon set those tunables of the configuration that have not been set. Returns its message.

    Without a daemon (LOCUM_SOCKET is not set, or no daemon listens) nothing happens. Raises Fail when it refuses.
    """
    import socket  # noqa: PLC0415

    path = os.environ.get("LOCUM_SOCKET")
    if not path:
        return "no daemon"
    answer = b""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_TIMEOUT)
        try:
            connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return "no daemon"
        try:
            connection.sendall(b'{"op":"tunable-defaults"}\n')
            while not answer.endswith(b"\n"):
                data = connection.recv(65536)
                if not data:
                    break
                answer += data
        except OSError as error:
            raise Fail(f"{path}: {error.strerror or error}") from None
    try:
        message = json.loads(answer)
        ok, result = bool(message.get("ok")), message.get("result")
    except (ValueError, AttributeError):
        raise Fail(f"{path}: the daemon's answer is not JSON") from None
    if not ok:
        raise Fail(f"the tunables were not applied: {message.get('error')}")
    return str(result.get("message", "")) if isinstance(result, dict) else ""
