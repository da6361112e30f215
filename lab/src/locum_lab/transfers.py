"""An ordinary client that fetches a file through a public address, and what it experiences.

One row per protocol. The clients are the usual programs with their own retries, without further help. The measurements
are the user's: how long nothing arrived, the program's complaints, whether the file is right.
"""

from __future__ import annotations

import filecmp
import itertools
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from locum.errors import LocumError, UsageError
from locum_lab import file_web, generic, nfs_service, processes, samba
from locum_lab.lab import Lab

#: Bytes. At the servers' rate this lasts seven seconds.
SIZE = 28_000_000
#: Bytes that arrive before the fault: the transfer is neither new to the cluster nor nearly over.
UNDER_WAY = 10_000_000
#: More bytes than this within this many seconds exceed the client's other traffic.
_STEP, _WINDOW = 16_384, 0.1
#: The rate of the client's cable, for servers without a limit.
_RATE = "32mbit"
#: The clients' own limit, seconds. Their defaults are minutes, too long for a measurement.
TIMEOUT = 5

_COMPLAINTS = re.compile(
    r"(Connection timed out|Connection reset[a-z ]*|Connection refused|No route to host|"
    r"Network is unreachable|timed out|NT_STATUS_[A-Z_]+|Connection closed|Control connection closed|"
    r"NFS[34]?ERR_[A-Z_]+|Failed to read[a-z ]*)"
)


class Client(msgspec.Struct, frozen=True):
    """``services``: those of the lab that it needs, its own first. ``program``: must be installed, from Debian's
    ``package``.

    ``command`` gets an address, the file on the servers, the target, and the client's own time limit in seconds; it
    continues by itself until it has the file. ``folder``: the servers' directory of files in the lab's shared
    directory.
    """

    services: tuple[str, ...]
    program: str
    package: str
    command: Callable[[str, Path, Path, int], list[str]]
    folder: str = "."

    @property
    def service(self) -> str:
        """The client's own service."""
        return self.services[0]


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _wget(url: str, target: Path, timeout: int) -> list[str]:
    return [
        "wget",
        "--progress=dot:giga",
        "--tries=100",
        "--waitretry=1",
        "--retry-connrefused",
        f"--timeout={timeout}",
        "-O",
        str(target),
        url,
    ]


def _ftp(address: str, source: Path, target: Path, timeout: int) -> list[str]:
    return _wget(f"ftp://{_host(address)}/{source.name}", target, timeout)


def _http(address: str, source: Path, target: Path, timeout: int) -> list[str]:
    return _wget(f"http://{_host(address)}:{file_web.PORT}/{source.name}", target, timeout)


def _generic(address: str, source: Path, target: Path, timeout: int) -> list[str]:
    return _wget(f"http://{_host(address)}:{generic.PORT}/{source.name}", target, timeout)


def _smb(address: str, source: Path, target: Path, timeout: int) -> list[str]:
    # smbclient resumes (reget); its user repeats the command.
    get = f"smbclient --no-pass --timeout={timeout} //{address}/{samba.SHARE} --command='reget {source.name} {target}'"
    return ["sh", "-c", f"until {get}; do sleep 0.2; done"]


def _nfs(version: int) -> Callable[[str, Path, Path, int], list[str]]:
    def command(address: str, source: Path, target: Path, _timeout: int) -> list[str]:
        # NFSv3 uses the server's directory name, NFSv4 the export's. After an error of nfs-cp its user starts again
        # from the beginning, since it overwrites nothing. It must not reconnect by itself: libnfs before 6.0 then keeps
        # half an answer of the old connection and may never understand the new one (its issue 497, and pull request
        # 424).
        folder = source.resolve().parent if version == 3 else Path(nfs_service.PSEUDO)
        url = f"nfs://{_host(address)}{folder}/{source.name}?version={version}&autoreconnect=0"
        return ["sh", "-c", f"until nfs-cp '{url}' {target}; do rm -f {target}; sleep 0.2; done"]

    return command


_NFS = ("nfs", "nfstickle")

CLIENTS: dict[str, Client] = {
    "FTP": Client(("vsftpd",), "wget", "wget", _ftp),
    "SMB": Client(("samba",), "smbclient", "smbclient", _smb),
    "NFSv3": Client(_NFS, "nfs-cp", "libnfs-utils", _nfs(3), "nfs"),
    "NFSv4": Client(_NFS, "nfs-cp", "libnfs-utils", _nfs(4), "nfs"),
    "HTTP": Client(("nginx",), "wget", "wget", _http),
    "generic": Client(("generic",), "wget", "wget", _generic),
}


def named(name: str) -> Client:
    """The client of that protocol. Raises UsageError, and LocumError when its program is not installed."""
    if name not in CLIENTS:
        raise UsageError(f"no client {name!r}; there are {', '.join(CLIENTS)}")
    client = CLIENTS[name]
    if shutil.which(client.program) is None:
        raise LocumError(f"{client.program} is not installed (Debian package: {client.package})")
    return client


def slow_down(lab: Lab) -> None:
    """Limit the rate of the client's cable, so that a transfer lasts long enough to be interrupted."""
    done = lab.run("hub", ["tc", "qdisc", "replace", "dev", "client", "root", "tbf", "rate", _RATE, *_BUCKET])
    if done.returncode != 0:
        raise LocumError(f"tc: {done.stderr.strip()}")


_BUCKET = ("burst", "64kb", "latency", "100ms")


def _received(pid: int) -> int:
    """Bytes that a process on the lab's client has received from the network; 0 before it runs.

    The file's size would not do: programs write in steps of megabytes.
    """
    try:
        if os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino:
            return 0
        with open(f"/proc/{pid}/net/dev", encoding="ascii") as file:
            for line in file:
                name, _, numbers = line.partition(":")
                if name.strip() == "eth0":
                    return int(numbers.split()[0])
    except (OSError, ValueError):
        pass
    return 0


class Transfer:
    """A transfer in progress; a context manager that ends it. Times are of time.monotonic, seconds."""

    def __init__(self, lab: Lab, protocol: str, address: str, name: str = "file", timeout: int = TIMEOUT) -> None:
        client = named(protocol)
        self.source = lab.shared / client.folder / name
        if not self.source.exists():
            temporary = lab.directory / f"{name}.new"
            temporary.write_bytes(os.urandom(SIZE))
            temporary.replace(self.source)
        place = lab.directory / "client"
        place.mkdir(exist_ok=True)
        self.target = place / f"{protocol}-{name}"
        self.target.unlink(missing_ok=True)
        self._log = place / f"{protocol}-{name}.log"
        self._arrived = 0
        self._counted = 0.0
        self._first: int | None = None
        self._grew: list[float] = []
        with self._log.open("wb") as output:
            self._child = subprocess.Popen(
                lab.command("client", client.command(address, self.source, self.target, timeout)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.began = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pid in processes.sessions({self._child.pid}):
            process = processes.find(pid)
            if process is not None:
                processes.send(process, signal.SIGKILL)
        self._child.wait()

    def look(self) -> bool:
        """Note whether data arrived; False when the client has ended."""
        ended = self._child.poll() is not None
        arrived = 0 if ended else _received(self._child.pid)
        if self._first is None and arrived:
            self._first = arrived
        now = time.monotonic()
        if arrived >= self._arrived + _STEP:
            self._grew.append(now)
            self._arrived, self._counted = arrived, now
        elif now > self._counted + _WINDOW:
            self._arrived, self._counted = arrived, now
        return not ended

    def look_while(self, action: Callable[[], object]) -> None:
        """Run ``action`` on a thread, and look meanwhile. Raises its exception."""
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(action)
            while not done.done():
                self.look()
                time.sleep(0.005)
        done.result()

    def wait_under_way(self, limit: float = 60.0) -> None:
        """Wait until UNDER_WAY bytes have arrived. Raises LocumError when they do not."""
        self._watch(lambda: self._arrived - (self._first or 0) >= UNDER_WAY, limit, "begin")
        if self._child.poll() is not None:
            raise LocumError(f"the client ended too early: {self.output()}")

    def wait_end(self, limit: float = 120.0) -> None:
        """Wait until the client has ended by itself. Raises LocumError after ``limit`` seconds."""
        self._watch(lambda: False, limit, "end")

    def _watch(self, enough: Callable[[], bool], limit: float, what: str) -> None:
        deadline = time.monotonic() + limit
        while self.look() and not enough():
            if time.monotonic() > deadline:
                raise LocumError(f"the transfer did not {what} within {limit:g} s: {self.output()}")
            time.sleep(0.005)

    def intact(self) -> bool:
        """Whether the client succeeded and has the correct file."""
        return self._child.poll() == 0 and filecmp.cmp(self.source, self.target, shallow=False)

    def output(self) -> str:
        """The client's output."""
        return self._log.read_text(errors="replace").strip()

    def complaints(self, since: int = 0) -> tuple[str, ...]:
        """The client's error messages, each once; ``since`` skips that many characters of its output."""
        return tuple(dict.fromkeys(match.group(1) for match in _COMPLAINTS.finditer(self.output()[since:])))

    def stall(self, since: float) -> float:
        """The longest time after ``since`` in which nothing arrived, in seconds."""
        times = [since, *(t for t in self._grew if t >= since)]
        return max((after - before for before, after in itertools.pairwise(times)), default=0.0)
