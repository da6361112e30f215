"""TCP ports and Unix sockets of services: checks for listeners and answers, and declarations for the daemon.

All time-outs are short: a monitor that hangs is worse than one that fails.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from locum.script.context import required, script_name
from locum.script.failure import Fail
from locum.script.waiting import DEFAULT_TIMEOUT, wait_for

_LISTEN = "0A"  # TCP_LISTEN in include/net/tcp_states.h, as /proc/net/tcp prints it


def is_listening(port: int) -> bool:
    """Whether a process of this network namespace listens on TCP ``port``, on any address. No packet is sent."""
    wanted = f"{port:04X}"
    for name in ("tcp", "tcp6"):
        try:
            with open(f"/proc/net/{name}", encoding="ascii") as file:
                for line in file:
                    fields = line.split(None, 4)
                    if len(fields) > 3 and fields[3] == _LISTEN and fields[1].rpartition(":")[2] == wanted:
                        return True
        except FileNotFoundError:
            continue  # a kernel without IPv6
    return False


def can_connect(port: int, host: str, timeout: float = 5.0) -> bool:
    """Whether a TCP connection to ``host`` and ``port`` can be made within ``timeout`` seconds."""
    import socket  # noqa: PLC0415

    try:
        with socket.create_connection((host, port), timeout):
            return True
    except OSError:
        return False


def check_port(port: int, host: str | None = None, timeout: float = 5.0) -> None:
    """Raise Fail unless a process listens on TCP ``port`` here, or, with ``host``, unless a connection to it can be
    made within ``timeout`` seconds."""
    if host is None:
        if not is_listening(port):
            raise Fail(f"nothing listens on TCP port {port}")
    elif not can_connect(port, host, timeout):
        raise Fail(f"no connection to TCP port {port} of {host}")


def wait_for_port(port: int, host: str | None = None, timeout: float = DEFAULT_TIMEOUT) -> None:
    """Wait until :func:`check_port` succeeds. Raises Fail after ``timeout`` seconds."""
    if host is None:
        wait_for(f"a listener on TCP port {port}", lambda: is_listening(port), timeout)
    else:
        wait_for(f"a connection to TCP port {port} of {host}", lambda: can_connect(port, host, 1.0), timeout)


def check_unix_socket(path: str) -> None:
    """Raise Fail unless a process accepts connections on the Unix stream socket ``path``."""
    import socket  # noqa: PLC0415

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(5)
        try:
            client.connect(path)
        except OSError as error:
            raise Fail(f"{path}: {error.strerror or error}") from None


def expect_listen(*ports: int) -> None:
    """Declare that the service listens on these TCP ports, in addition to those declared before. The daemon watches
    them and runs ``monitor`` at once when the last listener of one is gone."""
    _declare("listen", sorted({*expected_ports(), *ports}))


def expect_no_listen(*ports: int) -> None:
    """Withdraw the declaration of these ports, or of all without arguments; call it before a planned stop."""
    _declare("listen", [port for port in expected_ports() if ports and port not in ports])


def register_connections(*ports: int | str) -> None:
    """Record the TCP connections to these ports, in addition to those on which the service listens: numbers, or
    ``FIRST-LAST``. Replaces the previous request; without arguments, withdraws it. Raises Fail for an invalid port."""
    for port in ports:
        first, dash, last = str(port).partition("-")
        numbers = (first, last) if dash else (first,)
        if not all(word.isascii() and word.isdigit() and 0 < int(word) < 65536 for word in numbers):
            raise Fail(f"{str(port)!r} is neither a TCP port nor a range of ports such as 50021-50040")
    _declare("connections", ports)


def expected_ports() -> list[int]:
    """The ports that the script has declared (:func:`expect_listen`)."""
    return [int(word) for word in _declared("listen") if word.isdecimal()]


def _path(kind: str) -> str:
    return os.path.join(required("LOCUM_RUNTIME"), kind, script_name())


def _declared(kind: str) -> list[str]:
    try:
        with open(_path(kind), encoding="ascii", errors="replace") as file:
            return file.read().split()
    except FileNotFoundError:
        return []


def _declare(kind: str, ports: Sequence[int | str]) -> None:
    """Replace the script's file in one step, and only when it changed: the daemon reads it again after a change."""
    path = _path(kind)
    words = [str(port) for port in ports]
    if words == _declared(kind):
        return
    if not words:
        os.unlink(path)
        return
    directory, name = os.path.split(path)
    os.makedirs(directory, exist_ok=True)
    temporary = os.path.join(os.path.dirname(directory), f".{kind}-{name}.new")
    with open(temporary, "w", encoding="ascii") as file:
        file.writelines(f"{word}\n" for word in words)
    os.replace(temporary, path)
