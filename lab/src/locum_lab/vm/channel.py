"""Two protocols of lines of JSON over Unix sockets: QEMU's monitor (QMP) and its agent inside the guest.

Sources: QEMU's documentation, "QEMU Machine Protocol Specification" and "QEMU Guest Agent Protocol Reference". Both
sockets serve one connection at a time and let others wait; so every request has a connection of its own, and several
processes can talk to one guest.
"""

from __future__ import annotations

import base64
import json
import random
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from locum.errors import LocumError

#: Between two questions whether a command in the guest has ended, in seconds: at first, and at most. The agent writes
#: each question to the journal, which takes an emulated processor's time.
_ASK_AGAIN, _ASK_AT_MOST = 0.05, 1.0
#: Between two attempts to reach a socket at which other commands queue, in seconds.
_QUEUE_AGAIN = 0.1
#: Bytes of a file in one request.
_CHUNK = 1 << 20


class GuestError(LocumError):
    """QEMU or the agent in a guest refused a request, or did not answer."""


class Done(msgspec.Struct, frozen=True):
    """A command that ended in a guest: its exit status (minus the signal when one ended it) and its output."""

    status: int
    stdout: str
    stderr: str


class _Lines:
    """A connection that carries JSON objects, one a line."""

    def __init__(self, path: Path, limit: float) -> None:
        self._path = path
        self._deadline = time.monotonic() + limit
        self._buffer = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._wait(self._socket.connect, str(path))
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, value: object, prefix: bytes = b"") -> None:
        self._wait(self._socket.sendall, prefix + json.dumps(value).encode() + b"\n")

    def line(self) -> bytes:
        while b"\n" not in self._buffer:
            received = self._wait(self._socket.recv, 1 << 16)
            if not received:
                raise GuestError(f"{self._path}: the connection was closed; has the guest ended?")
            self._buffer += received
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def value(self) -> dict[str, Any]:
        return dict(json.loads(self.line()))

    def _wait(self, call: Any, *arguments: object) -> Any:
        try:
            while (left := self._deadline - time.monotonic()) > 0:
                self._socket.settimeout(left)
                try:
                    return call(*arguments)
                except BlockingIOError:
                    # Other commands queue at the socket already, as many as it takes.
                    time.sleep(_QUEUE_AGAIN)
            raise TimeoutError
        except TimeoutError:
            raise GuestError(f"{self._path}: no answer in time") from None
        except OSError as error:
            raise GuestError(f"{self._path}: {error.strerror or error}; has the guest ended?") from None


def _result(answer: dict[str, Any], what: str) -> Any:
    if "error" in answer:
        raise GuestError(f"{what}: {answer['error'].get('desc', answer['error'])}")
    return answer.get("return")


class Monitor:
    """QEMU's monitor of one guest; ``limit``: seconds for an answer."""

    def __init__(self, path: Path, limit: float = 60.0) -> None:
        self._path = path
        self._limit = limit

    def execute(self, command: str, **arguments: object) -> Any:
        """Carry out a QMP command and return its result. Raises GuestError."""
        with _Lines(self._path, self._limit) as lines:
            lines.value()  # the greeting
            for name, values in (("qmp_capabilities", {}), (command, arguments)):
                lines.send({"execute": name, "arguments": values})
                while True:
                    answer = lines.value()
                    if "event" not in answer:
                        break
                result = _result(answer, command)
            return result

    def answers(self, limit: float = 2.0) -> bool:
        """Whether QEMU answers within ``limit`` seconds."""
        try:
            Monitor(self._path, limit).execute("query-status")
        except GuestError:
            return False
        return True


class Agent:
    """The agent inside a guest; it works without the guest's networks. ``limit``: seconds for an answer."""

    def __init__(self, path: Path, limit: float = 120.0) -> None:
        self._path = path
        self._limit = limit

    def execute(self, command: str, *, limit: float | None = None, **arguments: object) -> Any:
        """Carry out a command of the agent and return its result. Raises GuestError."""
        number = random.getrandbits(31)
        with _Lines(self._path, self._limit if limit is None else limit) as lines:
            # Byte 0xff makes the agent forget half a request of an earlier connection. It comes back before the answer,
            # after whatever was meant for that connection.
            lines.send({"execute": "guest-sync-delimited", "arguments": {"id": number}}, prefix=b"\xff")
            while True:
                _, delimiter, text = lines.line().rpartition(b"\xff")
                if delimiter and json.loads(text).get("return") == number:
                    break
            lines.send({"execute": command, "arguments": {k.replace("_", "-"): v for k, v in arguments.items()}})
            return _result(lines.value(), command)

    def answers(self, limit: float = 2.0) -> bool:
        """Whether the agent answers within ``limit`` seconds."""
        try:
            self.execute("guest-ping", limit=limit)
        except GuestError:
            return False
        return True

    def run(self, argv: Sequence[str], *, text: str = "", timeout: float = 300.0) -> Done:
        """Run a command in the guest as root and wait for it. Raises GuestError after ``timeout`` seconds."""
        pid = self.start(argv, text=text)
        deadline, pause = time.monotonic() + timeout, _ASK_AGAIN
        while True:
            found = self.execute("guest-exec-status", pid=pid)
            if found["exited"]:
                status = -found["signal"] if "signal" in found else found["exitcode"]
                return Done(status, _decoded(found.get("out-data", "")), _decoded(found.get("err-data", "")))
            if time.monotonic() > deadline:
                raise GuestError(f"{' '.join(argv)} did not end in the guest within {timeout:g} s")
            time.sleep(pause)
            pause = min(2 * pause, _ASK_AT_MOST)

    def start(self, argv: Sequence[str], *, text: str = "") -> int:
        """Start a command in the guest without waiting; returns its pid."""
        found = self.execute(
            "guest-exec",
            path=argv[0],
            arg=list(argv[1:]),
            env=["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8"],
            input_data=base64.b64encode(text.encode()).decode(),
            capture_output=True,
        )
        return int(found["pid"])

    def write(self, path: str, content: bytes) -> None:
        """Write a file in the guest; its directory must exist."""
        handle = self.execute("guest-file-open", path=path, mode="w")
        try:
            for start in range(0, len(content), _CHUNK):
                part = base64.b64encode(content[start : start + _CHUNK]).decode()
                self.execute("guest-file-write", handle=handle, buf_b64=part)
        finally:
            self.execute("guest-file-close", handle=handle)

    def read(self, path: str) -> bytes:
        """The content of a file in the guest."""
        handle = self.execute("guest-file-open", path=path, mode="r")
        content = b""
        try:
            while True:
                found = self.execute("guest-file-read", handle=handle, count=_CHUNK)
                content += base64.b64decode(found["buf-b64"])
                if found["eof"] or not found["count"]:
                    return content
        finally:
            self.execute("guest-file-close", handle=handle)


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode(errors="replace")
