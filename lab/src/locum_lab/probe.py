"""The client: sends requests to every public address continuously and records each answer and each failure.

Two methods: ``http`` fetches ``/`` over a fresh connection each time; ``udp`` sends a datagram to an echo service
(:mod:`locum_lab.echo`). Attempts to one address do not wait for each other: a new one starts every ``interval``, so
that the return of a silent address is seen at once (a lost SYN is sent again only after a second).

One ``epoll`` loop, no asyncio: hundreds of connections a second must not occupy a processor.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import os
import select
import socket
import struct
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Protocol, TextIO

import msgspec

from locum.clock import boottime

ECHO_PORT = 7

_REQUEST = b"GET / HTTP/1.0\r\n\r\n"
_LINGER_NONE = struct.pack("ii", 1, 0)


class Attempt(msgspec.Struct, frozen=True):
    """One line of output.

    ``t`` is the time of sending (boot time, seconds), ``node`` the answering node, ``latency`` milliseconds until the
    answer, ``error`` the reason without one: ``timeout`` or the name of an errno.
    """

    t: float
    address: str
    ok: bool
    node: str = ""
    latency: float = 0.0
    error: str = ""


Emit = Callable[[Attempt], None]


class Prober(Protocol):
    """One method of asking."""

    def descriptor(self) -> int:
        """The descriptor to wait for: readable when :meth:`collect` has work."""
        ...

    def ask(self, address: str) -> None:
        """Begin one attempt."""
        ...

    def collect(self) -> None:
        """Read what has arrived and emit decided attempts."""
        ...

    def expire(self) -> None:
        """Give up attempts older than the time-out."""
        ...


class _Fetch:
    """One HTTP request in progress."""

    __slots__ = ("address", "received", "sent", "socket", "t")

    def __init__(self, address: str, opened: socket.socket, t: float) -> None:
        self.address = address
        self.socket = opened
        self.t = t
        self.sent = False
        self.received = b""


class HttpProber:
    """Fetches ``/`` over a fresh connection; the body's first word is the node's name. ``timeout`` in seconds."""

    def __init__(self, emit: Emit, timeout: float, port: int = 80) -> None:
        self._emit = emit
        self._timeout = timeout
        self._port = port
        self._epoll = select.epoll()
        self._fetches: OrderedDict[int, _Fetch] = OrderedDict()

    def descriptor(self) -> int:
        return self._epoll.fileno()

    def ask(self, address: str) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        opened = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        # Reset at the end instead of waiting in TIME_WAIT: ports must not run out.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
        fetch = _Fetch(address, opened, boottime())
        result = opened.connect_ex((address, self._port))
        if result not in (0, errno.EINPROGRESS):
            self._fail(fetch, errno.errorcode.get(result, str(result)))
            return
        self._fetches[opened.fileno()] = fetch
        self._epoll.register(opened, select.EPOLLOUT)

    def collect(self) -> None:
        for descriptor, _ in self._epoll.poll(0):
            fetch = self._fetches[descriptor]
            try:
                self._advance(fetch)
            except BlockingIOError:
                pass
            except OSError as error:
                del self._fetches[descriptor]
                self._fail(fetch, errno.errorcode.get(error.errno or 0, str(error)))

    def _advance(self, fetch: _Fetch) -> None:
        if not fetch.sent:
            fetch.socket.send(_REQUEST)  # raises the connection's error
            fetch.sent = True
            self._epoll.modify(fetch.socket, select.EPOLLIN)
            return
        data = fetch.socket.recv(4096)
        fetch.received += data
        _, complete, body = fetch.received.partition(b"\r\n\r\n")
        if data and not (complete and body.endswith(b"\n")):
            return
        del self._fetches[fetch.socket.fileno()]
        words = body.split()
        if fetch.received.split(b" ", 2)[1:2] == [b"200"] and words:
            latency = (boottime() - fetch.t) * 1000
            fetch.socket.close()
            self._emit(Attempt(fetch.t, fetch.address, True, words[0].decode(errors="replace"), round(latency, 3)))
        else:
            self._fail(fetch, "bad-answer")

    def expire(self) -> None:
        oldest = boottime() - self._timeout
        while self._fetches:
            descriptor, fetch = next(iter(self._fetches.items()))
            if fetch.t > oldest:
                return
            del self._fetches[descriptor]
            self._fail(fetch, "timeout")

    def _fail(self, fetch: _Fetch, error: str) -> None:
        fetch.socket.close()
        self._emit(Attempt(fetch.t, fetch.address, False, error=error))


class UdpProber:
    """Sends a datagram with the time of sending; the echo returns it with the node's name. ``timeout`` in seconds."""

    def __init__(self, emit: Emit, timeout: float, port: int = ECHO_PORT) -> None:
        self._emit = emit
        self._timeout = timeout
        self._port = port
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        for family in (socket.AF_INET, socket.AF_INET6):
            opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._sockets[family] = opened
            self._epoll.register(opened, select.EPOLLIN)
        self._pending: OrderedDict[tuple[str, float], None] = OrderedDict()

    def descriptor(self) -> int:
        return self._epoll.fileno()

    def ask(self, address: str) -> None:
        t = boottime()
        opened = self._sockets[socket.AF_INET6 if ":" in address else socket.AF_INET]
        try:
            opened.sendto(struct.pack("d", t) + address.encode(), (address, self._port))
        except OSError as error:
            self._emit(Attempt(t, address, False, error=errno.errorcode.get(error.errno or 0, str(error))))
            return
        self._pending[address, t] = None

    def collect(self) -> None:
        for opened in self._sockets.values():
            while True:
                try:
                    data = opened.recv(2048)
                except BlockingIOError:
                    break
                except OSError:  # an ICMP error about an earlier datagram, which times out
                    continue
                (t,) = struct.unpack_from("d", data)
                address, _, node = data[8:].decode(errors="replace").partition(" ")
                if (address, t) in self._pending:
                    del self._pending[address, t]
                    self._emit(Attempt(t, address, True, node, round((boottime() - t) * 1000, 3)))

    def expire(self) -> None:
        oldest = boottime() - self._timeout
        while self._pending:
            address, t = next(iter(self._pending))
            if t > oldest:
                return
            del self._pending[address, t]
            self._emit(Attempt(t, address, False, error="timeout"))


def run(
    prober: Prober,
    addresses: Sequence[str],
    interval: float,
    stopping: Callable[[], bool],
) -> None:
    """Begin an attempt for each address every ``interval`` seconds until ``stopping`` returns True.

    The addresses take turns, evenly over the interval.
    """
    start = time.monotonic()
    turns = [(start + interval * index / max(1, len(addresses)), address) for index, address in enumerate(addresses)]
    heapq.heapify(turns)
    poll = select.poll()
    poll.register(prober.descriptor(), select.POLLIN)
    while not stopping():
        now = time.monotonic()
        # A late process skips no turn, except after a long pause.
        while turns and turns[0][0] <= now:
            due, address = turns[0]
            prober.ask(address)
            heapq.heapreplace(turns, (max(due + interval, now - interval), address))
        prober.expire()
        wait = min(turns[0][0] - time.monotonic(), 0.1) if turns else 0.1
        poll.poll(max(0.0, wait * 1000))
        prober.collect()


def writer(output: TextIO) -> tuple[Emit, Callable[[], None]]:
    """Functions that write attempts as JSON lines, and that flush held lines.

    Lines are written in batches every 0.1 s: hundreds of small writes a second would cost more than the requests.
    """
    waiting: deque[bytes] = deque()
    last = [time.monotonic()]

    def flush() -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(output.fileno(), b"".join(waiting)) if waiting else None
        waiting.clear()
        last[0] = time.monotonic()

    def emit(attempt: Attempt) -> None:
        waiting.append(msgspec.json.encode(attempt) + b"\n")
        if time.monotonic() - last[0] >= 0.1:
            flush()

    return emit, flush


def read(line: str | bytes) -> Attempt:
    """Parse the attempt of one line."""
    return msgspec.json.decode(line, type=Attempt)
