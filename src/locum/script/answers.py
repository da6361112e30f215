"""Checks that a server of a protocol answers: a server that hangs still has its listening socket.

The shortest exchange that only a working server can answer; no login, and nothing that a server counts as its client's
failure.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable

from locum.script.failure import Fail

_SMB2_HEADER = 64
_DIALECTS = (0x0202, 0x0210, 0x0300, 0x0302)  # 3.1.1 requires negotiate contexts; any valid answer suffices
_LARGEST = 1 << 17


def check_ftp(port: int = 21, host: str = "127.0.0.1", timeout: float = 5.0) -> None:
    """Raise Fail unless an FTP server greets within ``timeout`` seconds (reply 220, RFC 959 section 5.4).

    A server at its limit of clients answers 421 and is healthy: otherwise all of its clients would move to the next
    node, which would then be full.
    """
    where = f"FTP server on {host} port {port}"
    greeting = _ask(where, host, port, b"", lambda data: b"\n" in data, timeout, farewell=b"QUIT\r\n")
    if not greeting.startswith((b"220", b"421")):
        said = greeting.split(b"\n", 1)[0].decode("ascii", "backslashreplace").strip()
        raise Fail(f"{where}: greeted with {said!r}")


def check_smb(port: int = 445, host: str = "127.0.0.1", timeout: float = 5.0) -> None:
    """Raise Fail unless an SMB server answers a negotiation (MS-SMB2 section 2.2.3) within ``timeout`` seconds."""
    where = f"SMB server on {host} port {port}"
    answer = _ask(where, host, port, _negotiation(), _smb_complete, timeout)
    # The result does not matter: an error is an answer as well.
    if answer[4:8] != b"\xfeSMB":
        raise Fail(f"{where}: the answer is not SMB")


def check_http(port: int, path: str = "/", *, host: str = "127.0.0.1", timeout: float = 5.0) -> int:
    """Request ``path`` by HTTP and return the status code of the answer. Raises Fail without an answer within
    ``timeout`` seconds, when the answer is not HTTP, or when the code is 400 or more."""
    where = f"http://{f'[{host}]' if ':' in host else host}:{port}{path}"
    request = f"GET {path} HTTP/1.0\r\nHost: {host}\r\nUser-Agent: locum\r\n\r\n".encode()
    answer = _ask(where, host, port, request, _http_complete, timeout, may_be_cut=True)
    words = answer.split(b"\r\n", 1)[0].split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise Fail(f"{where}: the answer is not HTTP")
    status = int(words[1])
    if status >= 400:
        raise Fail(f"{where}: answered {status}")
    return status


def _http_complete(data: bytes) -> bool:
    return b"\r\n\r\n" in data or len(data) >= 65536


def _negotiation() -> bytes:
    """An SMB2 NEGOTIATE request, framed for direct TCP transport (MS-SMB2 section 2.1)."""
    header = b"\xfeSMB" + struct.pack("<HHIHHIIQIIQ16s", _SMB2_HEADER, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, bytes(16))
    signing_enabled = 1
    body = struct.pack("<HHHHI16sQ", 36, len(_DIALECTS), signing_enabled, 0, 0, os.urandom(16), 0)
    message = header + body + struct.pack(f"<{len(_DIALECTS)}H", *_DIALECTS)
    return struct.pack(">I", len(message)) + message


def _smb_complete(data: bytes) -> bool:
    return len(data) >= 8 and len(data) >= 4 + min(int.from_bytes(data[1:4], "big"), _LARGEST)


def _ask(
    where: str,
    host: str,
    port: int,
    question: bytes,
    complete: Callable[[bytes], bool],
    timeout: float,
    farewell: bytes = b"",
    may_be_cut: bool = False,
) -> bytes:
    """Read the server's answer until it is complete. Raises Fail, also when the connection closes before, unless the
    answer ``may_be_cut``."""
    import socket  # noqa: PLC0415

    deadline = time.monotonic() + timeout
    answer = b""
    try:
        with socket.create_connection((host, port), timeout) as client:
            client.sendall(question)
            while not complete(answer):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                client.settimeout(left)
                data = client.recv(65536)
                if not data and may_be_cut:
                    break
                if not data:
                    raise Fail(f"{where}: closed the connection without an answer")
                answer += data
            if farewell:
                client.sendall(farewell)
                client.settimeout(0.5)
                client.recv(4096)
    except TimeoutError:
        if not complete(answer):
            raise Fail(f"{where}: no answer within {timeout:g} s") from None
    except OSError as error:
        if not complete(answer):
            raise Fail(f"{where}: {error.strerror or error}") from None
    return answer
