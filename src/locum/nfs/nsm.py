"""Notify NFS clients that a server's lock manager has lost their locks: SM_NOTIFY of the status monitor protocol.

This file sends; the caller selects the clients. Protocol: X/Open XNFS, chapter 11: program 100024, version
1, procedure 6 with the name of the monitored host and its state number. A client compares the name with the one under
which it registered the server: an address, or a host name.

A notification comes *from* the public address: clients also compare the sender. Each client's own port mapper is asked
first. A client whose status monitor has no UDP, or that does not answer datagrams for a while, is tried over TCP.
Everything is repeated, at growing intervals, until it is acknowledged or the time is over.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from locum import hosts, rpc
from locum.xdr import Malformed, Packer

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

PROGRAM, VERSION, SM_NOTIFY = 100024, 1, 6

#: Seconds until an unanswered datagram is sent again: first, and at most.
FIRST_REPEAT, LONGEST_REPEAT = 0.5, 4.0
#: Seconds until a client without an answer to datagrams is tried over TCP.
TCP_AFTER = 2.0
#: Number of unanswered datagrams after which the port is requested again: the status monitor may have been restarted
#: (sm-notify of nfs-utils does the same).
_SAME_PORT = 4
#: How many conversations over TCP run at the same time, and the limit for one in seconds.
_TCP_LIMIT, _TCP_PATIENCE = 16, 5.0


class Notification(msgspec.Struct, frozen=True):
    """One message: from our address ``source`` to ``client`` (an address): the host ``name`` has state ``state``."""

    source: str
    client: str
    name: str
    state: int


class Outcome(msgspec.Struct, frozen=True):
    """``problem`` is empty when the client acknowledged."""

    notification: Notification
    problem: str = ""
    seconds: float = 0.0


def encode_notify(name: str, state: int) -> bytes:
    """The arguments of SM_NOTIFY; the state is a signed 32-bit number, and states grow within the positive ones."""
    return Packer().string(name).sint(state & 0x7FFFFFFF).data


def notify(
    notifications: Iterable[Notification], timeout: float = 30.0, *, mapper_port: int = rpc.PORTMAPPER_PORT
) -> list[Outcome]:
    """Send every notification, all clients at once, and wait for the acknowledgements, ``timeout`` seconds at most.

    A client that does not answer raises nothing; its outcome says so.
    """
    return _Round(timeout, mapper_port).run(list(notifications))


class _Talk:
    """One notification in progress. ``asking`` while it waits for the port mapper's answer, then for SM_NOTIFY's. It is
    tried over TCP at ``tcp_due``; ``tcp_only`` when the port mapper knows no UDP."""

    def __init__(self, notification: Notification, begun: float) -> None:
        self.notification = notification
        self.begun = begun
        self.transaction = rpc.new_transaction()
        self.message = b""
        self.target: tuple[str, int] = (notification.client, 0)
        self.asking = True
        self.due = begun
        self.repeat = FIRST_REPEAT
        self.sent = 0
        self.tcp_due = begun + TCP_AFTER
        self.tcp_repeat = FIRST_REPEAT
        self.tcp_only = False
        self.problem = "its port mapper does not answer"


class _Round:
    """Conversations over UDP, through one socket for each of our addresses; those over TCP run in threads."""

    def __init__(self, timeout: float, mapper_port: int) -> None:
        self._end = time.monotonic() + timeout
        self._mapper_port = mapper_port
        self._sockets: dict[str, socket.socket] = {}
        self._open: dict[int, _Talk] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._tcp: dict[Future[str], _Talk] = {}
        self._outcomes: list[Outcome] = []

    def run(self, notifications: Sequence[Notification]) -> list[Outcome]:
        """Carry out all of them."""
        with selectors.DefaultSelector() as selector:
            try:
                for notification in notifications:
                    self._begin(notification, selector)
                while self._open and time.monotonic() < self._end:
                    self._send_due()
                    self._try_tcp()
                    soonest = min([talk.due for talk in self._open.values()] + [self._end])
                    wait = max(soonest - time.monotonic(), 0.0)
                    # A thread's result does not wake the selector.
                    for key, _ in selector.select(min(wait, 0.05) if self._tcp else min(wait, 0.5)):
                        self._receive(key.fileobj)  # type: ignore[arg-type]
                    self._collect_tcp()
            finally:
                for opened in self._sockets.values():
                    opened.close()
                if self._pool is not None:
                    self._pool.shutdown(wait=False, cancel_futures=True)
        for talk in list(self._open.values()):
            self._done(talk, talk.problem)
        return self._outcomes

    def _begin(self, notification: Notification, selector: selectors.BaseSelector) -> None:
        talk = _Talk(notification, time.monotonic())
        try:
            if notification.source not in self._sockets:
                self._sockets[notification.source] = opened = bound_socket(notification.source)
                selector.register(opened, selectors.EVENT_READ)
        except OSError as error:
            self._done(talk, f"cannot send from {notification.source}: {error.strerror or error}")
            return
        self._ask(talk)

    def _ask(self, talk: _Talk) -> None:
        """Ask for the status monitor's port next."""
        client = talk.notification.client
        version, arguments = rpc.encode_getport(PROGRAM, VERSION, tcp=False, v6=":" in client)
        talk.message = rpc.encode_call(talk.transaction, rpc.PORTMAPPER, version, 3, arguments)
        talk.target = (client, self._mapper_port)
        talk.sent = 0
        self._open[talk.transaction] = talk

    def _ask_again(self, talk: _Talk) -> None:
        del self._open[talk.transaction]
        talk.asking = True
        talk.transaction = rpc.new_transaction()
        self._ask(talk)

    def _send_due(self) -> None:
        now = time.monotonic()
        for talk in list(self._open.values()):
            if talk.due > now:
                continue
            if not talk.asking and talk.sent >= _SAME_PORT:
                self._ask_again(talk)
            talk.due = now + talk.repeat
            talk.repeat = min(talk.repeat * 2, LONGEST_REPEAT)
            try:
                self._sockets[talk.notification.source].sendto(talk.message, talk.target)
                talk.sent += 1
            except BlockingIOError:
                talk.due = now + 0.01
            except OSError as error:  # no route now, or an ICMP answer to the datagram before
                talk.problem = error.strerror or str(error)

    def _receive(self, opened: socket.socket) -> None:
        while True:
            try:
                data, sender = opened.recvfrom(65536)
            except BlockingIOError:
                return
            except OSError:  # an ICMP message about one of the clients: it is asked again nevertheless
                continue
            talk = self._open.get(int.from_bytes(data[:4], "big"))
            # From another sender than the client: not an answer.
            if talk is not None and hosts.address(sender[0].partition("%")[0]) == talk.target[0].partition("%")[0]:
                self._answered(talk, data)

    def _answered(self, talk: _Talk, data: bytes) -> None:
        try:
            results = rpc.decode_reply(data, talk.transaction)
            if not talk.asking:
                self._done(talk, "")
                return
            port = rpc.decode_getport(results, v6=":" in talk.notification.client)
        except (rpc.RpcError, Malformed, ValueError, struct.error) as error:
            # Not an acknowledgement: the status monitor is starting, or has another port now.
            talk.problem = str(error)
            if not talk.asking:
                self._ask_again(talk)
            return
        if port == 0:
            # Ask the port mapper again as well: a starting status monitor may have UDP later.
            if not talk.tcp_only:
                talk.tcp_only, talk.tcp_due = True, time.monotonic()
                talk.problem = "its status monitor is not registered"
            return
        del self._open[talk.transaction]
        talk.asking = False
        talk.transaction = rpc.new_transaction()
        talk.message = rpc.encode_call(
            talk.transaction,
            PROGRAM,
            VERSION,
            SM_NOTIFY,
            encode_notify(talk.notification.name, talk.notification.state),
        )
        talk.target = (talk.notification.client, port)
        talk.due, talk.repeat, talk.sent = time.monotonic(), FIRST_REPEAT, 0
        talk.problem = "its status monitor does not acknowledge"
        self._open[talk.transaction] = talk

    def _done(self, talk: _Talk, problem: str) -> None:
        self._open.pop(talk.transaction, None)
        self._outcomes.append(Outcome(talk.notification, problem, time.monotonic() - talk.begun))

    def _try_tcp(self) -> None:
        """Try clients that are due; first those known to have only TCP."""
        now = time.monotonic()
        free = _TCP_LIMIT - len(self._tcp)
        if free <= 0:
            return
        busy = {talk.transaction for talk in self._tcp.values()}
        due = [talk for talk in self._open.values() if talk.tcp_due <= now and talk.transaction not in busy]
        if not due:
            return
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

            self._pool = ThreadPoolExecutor(_TCP_LIMIT)
        for talk in sorted(due, key=lambda one: (not one.tcp_only, one.tcp_due))[:free]:
            self._tcp[self._pool.submit(self._by_tcp, talk.notification)] = talk

    def _collect_tcp(self) -> None:
        for future in [future for future in self._tcp if future.done()]:
            talk = self._tcp.pop(future)
            if talk.transaction not in self._open:
                continue  # acknowledged over UDP meanwhile
            problem = future.result()
            if not problem:
                self._done(talk, "")
                continue
            if talk.tcp_only:
                talk.problem = problem
            talk.tcp_due = time.monotonic() + talk.tcp_repeat
            talk.tcp_repeat = min(talk.tcp_repeat * 2, LONGEST_REPEAT)

    def _by_tcp(self, one: Notification) -> str:
        limit = max(min(self._end - time.monotonic(), _TCP_PATIENCE), 0.1)
        try:
            port = rpc.port_of(
                one.client,
                PROGRAM,
                VERSION,
                tcp=True,
                timeout=limit,
                source=one.source,
                mapper_port=self._mapper_port,
            )
            arguments = encode_notify(one.name, one.state)
            rpc.call(one.client, port, PROGRAM, VERSION, SM_NOTIFY, arguments, timeout=limit, source=one.source)
        except rpc.RpcError as error:
            return str(error)
        return ""


def bound_socket(address: str) -> socket.socket:
    """A socket for datagrams from ``address``, from a reserved port if this process may use one: some clients accept
    nothing else. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    start = int.from_bytes(os.urandom(2), "big")
    for step in range(400):
        opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            opened.bind((address, 600 + (start + step) % 400))
        except PermissionError:
            opened.close()
            break
        except OSError as error:
            opened.close()
            if error.errno == 98:  # EADDRINUSE
                continue
            raise
        return opened
    opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        opened.bind((address, 0))
    except OSError:
        opened.close()
        raise
    return opened
