"""What servers and clients of NFSv3 say to each other about locks: packets at a guest's cable, and a rival's questions.

Times are monotonic seconds of this machine.
"""

from __future__ import annotations

import socket
import threading
import time
from typing import Self

import msgspec

from locum import rpc
from locum.connections.segments import WINDOW
from locum.errors import LocumError
from locum.nfs import nsm
from locum.xdr import Malformed, Unpacker
from locum_lab import namespaces, nlm
from locum_lab.nlm import LockClient, Status
from locum_lab.nsm_receiver import decode_notify

_ETH_P_ALL, _IPV4 = 3, 0x0800
_CALL, _REPLY = 0, 1
_LOCK = 2
#: Limit for one more answer of a server that is slow, or away, in seconds.
_LATEST_WITHIN = 120.0
#: Limit in seconds for one answer of a lock manager; one that takes longer counts as away.
_ANSWERS_WITHIN = 20.0
_NFS_PORT = 2049


class Notified(msgspec.Struct, frozen=True):
    """An SM_NOTIFY to the client: from which address, with which name and state number, over TCP or UDP."""

    at: float
    source: str
    name: str
    state: int
    tcp: bool


class Asked(msgspec.Struct, frozen=True):
    """The client asks ``server`` for a lock; ``answers`` are those that came, with their times."""

    at: float
    server: str
    reclaim: bool
    transaction: int
    answers: list[tuple[float, Status]] = msgspec.field(default_factory=list)

    @property
    def granted(self) -> float | None:
        """When the lock was granted."""
        return min((at for at, status in self.answers if status is Status.GRANTED), default=None)


class Wire:
    """The notifications to a client, and its requests for locks, read from the TAP device of its interface.

    ``tickled``: when a tickle of a connection to the NFS server came, and from which address.
    """

    def __init__(self, hub: str, tap: str) -> None:
        self._hub, self._tap = hub, tap
        self.notified: list[Notified] = []
        self.asked: list[Asked] = []
        self.tickled: list[tuple[float, str]] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        def opened() -> socket.socket:
            # Of what a bridge sends to a port, only those hear that ask for every protocol.
            found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
            found.bind((self._tap, _ETH_P_ALL))
            found.settimeout(0.2)
            return found

        self._socket = namespaces.inside(self._hub, opened)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._socket.close()

    def granted(self, server: str, *, since: float = 0.0) -> float | None:
        """When this server has granted a reclaim for the first time."""
        found = [one.granted for one in self.asked if one.reclaim and one.server == server]
        return min((at for at in found if at is not None and at >= since), default=None)

    def notified_by(self, source: str) -> list[Notified]:
        """The notifications that came from this address."""
        return [one for one in self.notified if one.source == source]

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                frame = self._socket.recv(65536)
            except TimeoutError:
                continue
            try:
                self._read(frame, time.monotonic())
            except (Malformed, IndexError, ValueError):
                continue  # the middle of a stream, or another protocol

    def _read(self, frame: bytes, at: float) -> None:
        if int.from_bytes(frame[12:14], "big") != _IPV4:
            return
        packet = frame[14:]
        source, target, protocol = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20]), packet[9]
        payload = packet[(packet[0] & 15) * 4 : int.from_bytes(packet[2:4], "big")]
        tcp = protocol == socket.IPPROTO_TCP
        if tcp:
            if int.from_bytes(payload[:2], "big") == _NFS_PORT and int.from_bytes(payload[14:16], "big") == WINDOW:
                self.tickled.append((at, source))
            message = payload[(payload[12] >> 4) * 4 :][4:]
        elif protocol == socket.IPPROTO_UDP:
            message = payload[8:]
        else:
            return
        values = Unpacker(message)
        transaction, direction = values.uint(), values.uint()
        if direction == _REPLY:
            self._reply(transaction, source, message, at)
            return
        version, program, its_version, procedure = (values.uint() for _ in range(4))
        if (direction, version) != (_CALL, 2):
            return
        for _ in range(2):  # credentials and verifier
            values.uint()
            values.opaque(400)
        if (program, its_version, procedure) == (nsm.PROGRAM, nsm.VERSION, nsm.SM_NOTIFY):
            name, state = decode_notify(values.rest)
            self.notified.append(Notified(at, source, name, state, tcp))
        elif (program, its_version, procedure) == (nlm.PROGRAM, nlm.VERSION, _LOCK):
            self.asked.append(Asked(at, target, _reclaims(values), transaction))

    def _reply(self, transaction: int, source: str, message: bytes, at: float) -> None:
        for one in self.asked:
            if (one.transaction, one.server) == (transaction, source):
                results = Unpacker(rpc.decode_reply(message, transaction))
                results.opaque(1024)  # the cookie
                one.answers.append((at, Status(results.uint())))


def _reclaims(arguments: Unpacker) -> bool:
    """The flag ``reclaim`` of the arguments of NLM_LOCK (XNFS, chapter 10)."""
    arguments.opaque(1024)  # the cookie
    arguments.boolean()  # to be waited for
    arguments.boolean()  # exclusive
    for _ in range(3):  # the client's name, the file, the owner
        arguments.opaque(1024)
    arguments.sint()
    arguments.uhyper()
    arguments.uhyper()
    return arguments.boolean()


class Answer(msgspec.Struct):
    """What a server answered from ``first`` to ``last``; None: nothing, its lock manager was away."""

    status: Status | None
    first: float
    last: float


class Rival:
    """Asks a server for a lock of a file again and again; gives it back when it got it. ``answers``: in their order."""

    def __init__(self, hub: str, server: str, export: str, file: str, *, interval: float = 0.5) -> None:
        self.answers: list[Answer] = []
        self._hub, self._export, self._file, self._interval = hub, export, file, interval
        self._locks = LockClient(server, "rival", owner=9, timeout=_ANSWERS_WITHIN)
        self._handle = b""
        self._asked = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def latest(self) -> Status | None:
        """The answer to a question that began after this call. Raises LocumError without one."""
        deadline = time.monotonic() + _LATEST_WITHIN
        wanted = self._asked + 2  # one question may be on its way
        while self._asked < wanted:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise LocumError(f"the rival has not asked within {_LATEST_WITHIN:g} s, or its thread has ended")
            time.sleep(0.1)
        return self.answers[-1].status

    def within(self, begin: float, end: float) -> set[Status | None]:
        """The answers between two times."""
        return {answer.status for answer in self.answers if answer.first < end and answer.last > begin}

    def restarts(self) -> list[tuple[float, float]]:
        """Where the lock manager went away between two answers, and was in its grace period then: their times."""
        return [
            (before.last, after.first)
            for before, away, after in zip(self.answers, self.answers[1:], self.answers[2:], strict=False)
            if away.status is None and after.status is Status.DENIED_GRACE_PERIOD
        ]

    def _run(self) -> None:
        namespaces.enter(self._hub)
        while not self._end.is_set():
            answer = self._try()
            now = time.monotonic()
            if not self.answers or self.answers[-1].status is not answer:
                self.answers.append(Answer(answer, now, now))
            self.answers[-1].last = now
            self._asked += 1
            self._end.wait(self._interval)

    def _try(self) -> Status | None:
        try:
            self._handle = self._handle or self._locks.lookup(self._locks.root(self._export), self._file)
            answer = self._locks.lock(self._handle)
            if answer is Status.GRANTED:
                self._locks.unlock(self._handle)
        except rpc.RpcError:
            return None
        return answer


def described(begun: float, wire: Wire, *rivals: Rival) -> str:
    """What was on the wire and what rivals were answered, a line each, in seconds since ``begun``."""
    lines = [
        (one.at, f"{'TCP' if one.tcp else 'UDP'} SM_NOTIFY from {one.source}: {one.name}") for one in wire.notified
    ]
    lines += [(at, f"tickle from {source}") for at, source in wire.tickled]
    for one in wire.asked:
        lines.append((one.at, f"client asks {one.server} to {'reclaim' if one.reclaim else 'lock'}"))
        lines += [(at, f"{one.server} answers the client: {status.name}") for at, status in one.answers]
    for number, asking in enumerate(rivals, 1):
        for answer in asking.answers:
            name = answer.status.name if answer.status is not None else "away"
            lines.append((answer.first, f"rival {number}, until {answer.last - begun:.1f}: {name}"))
    return "\n".join(f"  {at - begun:7.1f} {text}" for at, text in sorted(lines))
