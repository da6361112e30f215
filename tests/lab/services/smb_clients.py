"""A user of the domain: logs in once, or holds a file open and writes to it without end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from locum_lab import domain, smb_session
from locum_lab.tail import Tail

#: What a client may be told when its connection ends: STATUS_CONNECTION_DISCONNECTED, _RESET, _REFUSED (MS-ERREF). A
#: time-out is not among them: the client would have waited for it.
CONNECTION_ENDED = {"0xC000020C", "0xC000020D", "0xC0000236"}
#: What it may also be told while it connects to an emulated server again: STATUS_IO_TIMEOUT, _HOST_UNREACHABLE.
_NOT_YET = {"0xC00000B5", "0xC000023D"}
#: Limit in seconds for a step of the client, and for one with an emulated server.
_WITHIN, _EMULATED_WITHIN = 120.0, 600.0


class Step(msgspec.Struct, frozen=True):
    """What the client of :mod:`locum_lab.smb_session` did at boot time ``t``."""

    t: float
    said: str
    number: int = -1
    error: str = ""


class WaitFor(Protocol):
    """Waits until a condition returns a true value, for so many seconds at most, and returns that."""

    def __call__(self, what: str, condition: Callable[[], Any], limit: float, /) -> Any: ...


class Session:
    """The client of :mod:`locum_lab.smb_session`, for the length of a ``with`` block.

    ``host``: the beginning of a command line that runs the rest on the client. ``file``: the file that it holds open.
    ``directory``: gets what it writes about its steps. ``emulated``: the servers are slow. The client waits as long as
    it takes for the answer to a write, so that only the end of its connection makes it connect again; time-outs of
    Samba's library while it does so are no fault of the servers.
    """

    def __init__(
        self, host: Sequence[str], file: str, directory: Path, wait_for: WaitFor, *, emulated: bool = False
    ) -> None:
        path = directory / f"session-{file}.jsonl"
        path.unlink(missing_ok=True)
        self._tail = Tail(path)
        self._all: list[Step] = []
        self._file = file
        self._wait_for = wait_for
        self._limit = _EMULATED_WITHIN if emulated else _WITHIN
        self._reconnecting = CONNECTION_ENDED | (_NOT_YET if emulated else set())
        words = [domain.name(domain.SERVICE), domain.SHARE, domain.USER, domain.REALM, domain.PASSWORD, file]
        if emulated:
            words.append(f"{_EMULATED_WITHIN:g}")
        with path.open("wb") as output:
            self._process = subprocess.Popen(
                [*host, "/usr/bin/python3", "-P", smb_session.__file__, *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=sys.stderr,
            )

    def __enter__(self) -> Session:
        self.wait_wrote(0.0)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def steps(self) -> list[Step]:
        """Every step so far."""
        self._all += (msgspec.json.decode(line, type=Step) for line in self._tail.lines())
        return self._all

    def errors_since(self, t: float) -> list[str]:
        """What went wrong after boot time ``t``."""
        return [step.error for step in self.steps() if step.said == "error" and step.t > t]

    def wait_said(self, said: str, since: float) -> Step:
        """Wait for the first step of that kind after ``since``."""

        def found() -> Step | None:
            assert self._process.poll() is None, "the client has ended"
            return next((step for step in self.steps() if step.said == said and step.t > since), None)

        step = self._wait_for(f"the client: {said}", found, self._limit)
        assert isinstance(step, Step)
        return step

    def wait_wrote(self, since: float) -> Step:
        """Wait until the server confirms a line after ``since``; the first that it did."""
        return self.wait_said("wrote", since)

    def check_went_on(self, since: float, shared: Path) -> None:
        """The client was told at once that its connection had ended, and went on where it was; nothing is missing."""
        reopened = self.wait_said("open", since)
        self.wait_wrote(reopened.t)
        errors = self.errors_since(since)
        assert errors
        assert errors[0] in CONNECTION_ENDED
        assert set(errors) <= self._reconnecting
        number = max(step.number for step in self.steps() if step.said == "wrote")
        expected = b"".join(map(smb_session.line, range(number + 1)))
        assert (shared / self._file).read_bytes()[: len(expected)] == expected


def login(host: Sequence[str], command: str, *, kerberos: bool, address: str | None) -> list[str]:
    """The command line that carries out a command of smbclient at the service's public name, from a client's host;
    ``address`` chooses one of its addresses.
    """
    chosen = ["--ip-address", address] if address else []
    return [*host, *domain.connect(domain.name(domain.SERVICE), command, kerberos=kerberos), *chosen]
