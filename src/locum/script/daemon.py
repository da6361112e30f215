"""Requests from a script to the daemon."""

from __future__ import annotations

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

    Without a daemon (LOCUM_SOCKET is not set, or no daemon listens) nothing happens. Raises Fail when it refuses or
    closes the connection without an answer.
    """
    from locum.control_socket import ConnectionClosed, NoDaemon, ask  # noqa: PLC0415
    from locum.errors import LocumError  # noqa: PLC0415

    path = os.environ.get("LOCUM_SOCKET")
    if not path:
        return "no daemon"
    try:
        result = ask({"op": "tunable-defaults"}, path=path, timeout=_TIMEOUT)
    except LocumError as error:
        if isinstance(error, NoDaemon) and not isinstance(error, ConnectionClosed):
            return "no daemon"
        raise Fail(f"the tunables were not applied: {error}") from None
    return str(result.get("message", "")) if isinstance(result, dict) else ""
