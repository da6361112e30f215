"""Raw netlink: sockets, messages, attributes, acknowledgements, dumps.

This file knows the framing that all netlink families share (RFC 3549; ``include/uapi/linux/netlink.h``), and not the
meaning of any family's messages. It is synchronous: the kernel carries out a request inside ``sendmsg`` and has queued
its answer when that call returns. No asyncio, no msgspec: the guard and the command line import this file, which must
cost them almost no time.

A socket belongs to the network namespace in which it was created, even if its process changes namespaces.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import NamedTuple

from locum.errors import NetlinkError, PermissionRequired

NLM_F_REQUEST = 0x01
NLM_F_ACK = 0x04
NLM_F_DUMP_INTR = 0x10
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_DUMP = 0x300
#: In an acknowledgement: the request is not echoed in full / attributes follow (``NETLINK_EXT_ACK``).
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200

NLMSG_ERROR = 2
NLMSG_DONE = 3

NLA_F_NESTED = 0x8000
_NLA_TYPE_MASK = 0x3FFF

SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11
NETLINK_GET_STRICT_CHK = 12

_NLMSGERR_ATTR_MSG = 1

_SO_RCVBUFFORCE = 33

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_INT = struct.Struct("=i")

HEADER_SIZE = _HEADER.size

#: The kernel fills dump buffers of at most 32 KiB, or the size of the last buffer that the reader offered.
_RECEIVE_SIZE = 65536
#: An answer is never late (see above); this limit, 5 s, keeps a kernel bug from hanging the agent for ever.
_ANSWER_TIMEOUT = struct.pack("@ll", 5, 0)
#: How many acknowledgements fit in the smallest default receive buffer (212,992 bytes; each takes about 1.3 KiB).
_MAX_UNREAD_ACKS = 64
_DUMP_ATTEMPTS = 8
#: The wanted size of a receive buffer, in bytes.
_RECEIVE_BUFFER = 1 << 20


class Message(NamedTuple):
    """One netlink message: type, flags, sequence number and the payload after the header."""

    type: int
    flags: int
    sequence: int
    payload: bytes


class Request(NamedTuple):
    """A message to send: type, flags (``NLM_F_REQUEST`` is added), payload without the netlink header."""

    type: int
    flags: int
    payload: bytes


def align(size: int) -> int:
    """``size`` rounded up to the four bytes to which netlink pads everything."""
    return (size + 3) & ~3


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    size = len(value) + 4
    return _ATTRIBUTE.pack(size, kind) + value + b"\0" * (-size & 3)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def string(kind: int, text: str) -> bytes:
    """An attribute that holds a zero-terminated string."""
    return attribute(kind, text.encode() + b"\0")


def iterate(payload: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """The attributes in ``payload`` from ``offset`` on: (type without its flag bits, value)."""
    end = len(payload)
    while offset + 4 <= end:
        size, kind = _ATTRIBUTE.unpack_from(payload, offset)
        if size < 4 or offset + size > end:
            return
        yield kind & _NLA_TYPE_MASK, payload[offset + 4 : offset + size]
        offset += align(size)


def parse(payload: bytes, offset: int = 0) -> dict[int, bytes]:
    """The attributes in ``payload`` by type; of several with one type, the last."""
    return dict(iterate(payload, offset))


def text(value: bytes) -> str:
    """A zero-terminated string attribute's text."""
    return value.split(b"\0", 1)[0].decode(errors="replace")


def messages(data: bytes) -> Iterator[Message]:
    """The messages in one datagram from the kernel; a damaged tail is left out."""
    offset, end = 0, len(data)
    while offset + HEADER_SIZE <= end:
        size, kind, flags, sequence, _port = _HEADER.unpack_from(data, offset)
        if size < HEADER_SIZE or offset + size > end:
            return
        yield Message(kind, flags, sequence, data[offset + HEADER_SIZE : offset + size])
        offset += align(size)


def pack(request: Request, sequence: int) -> bytes:
    """``request`` as bytes on the socket."""
    size = HEADER_SIZE + len(request.payload)
    header = _HEADER.pack(size, request.type, request.flags | NLM_F_REQUEST, sequence, 0)
    return header + request.payload + b"\0" * (-size & 3)


def error(number: int, what: str, detail: str = "") -> NetlinkError | PermissionRequired:
    """The exception for the kernel's refusal ``number`` (positive errno) of ``what``."""
    why = os.strerror(number) + (f" ({detail})" if detail else "")
    if number == errno.EPERM:
        return PermissionRequired(f"{what}: {why}; this needs root, or CAP_NET_ADMIN in this network namespace")
    return NetlinkError(f"{what}: {why}", number)


def acknowledgement(message: Message) -> tuple[int, str]:
    """(errno as a positive number or 0, the kernel's explanation or "") from an ``NLMSG_ERROR`` message."""
    number = -_INT.unpack_from(message.payload)[0]
    if not message.flags & NLM_F_ACK_TLVS:
        return number, ""
    offset = 4 + HEADER_SIZE
    if not message.flags & NLM_F_CAPPED:  # the whole request is echoed before the attributes
        echoed = _HEADER.unpack_from(message.payload, 4)[0]
        offset = 4 + align(echoed)
    return number, text(parse(message.payload, offset).get(_NLMSGERR_ATTR_MSG, b""))


class NetlinkSocket:
    """A netlink socket for requests. One thread at a time may use it."""

    def __init__(self, family: int) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        except OSError as problem:
            raise error(problem.errno or errno.EIO, f"cannot open a netlink socket of family {family}") from problem
        try:
            widen(self._socket, _RECEIVE_BUFFER)
            for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
                try:
                    self._socket.setsockopt(SOL_NETLINK, option, 1)
                except OSError:  # an older kernel: its answers are only less detailed
                    pass
            self._socket.bind((0, 0))
            # SO_RCVTIMEO instead of settimeout(), which would poll before each receive.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _ANSWER_TIMEOUT)
        except BaseException:
            self._socket.close()
            raise
        self._sequence = 0

    def __enter__(self) -> NetlinkSocket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._socket.close()

    def fileno(self) -> int:
        """The socket's file descriptor, -1 when closed."""
        return self._socket.fileno()

    @property
    def socket(self) -> socket.socket:
        """The underlying socket, for options and batches that this class does not know."""
        return self._socket

    def next_sequence(self, count: int = 1) -> int:
        """Reserve ``count`` sequence numbers and return the first."""
        first = self._sequence + 1
        self._sequence = (self._sequence + count) & 0x7FFFFFFF
        return first

    def request(self, kind: int, flags: int, payload: bytes, what: str) -> None:
        """Send one request and wait for its acknowledgement.

        ``what`` names the request in errors. Raises NetlinkError, PermissionRequired.
        """
        number, detail = self.request_many([Request(kind, flags, payload)])[0]
        if number:
            raise error(number, what, detail)

    def request_many(self, requests: Sequence[Request]) -> list[tuple[int, str]]:
        """Send ``requests`` in as few system calls as their answers allow; each succeeds or fails separately.

        Returns for each (errno as a positive number or 0, the kernel's explanation or "").
        Raises NetlinkError (ENOBUFS) when answers were lost: the requests may have been carried out.
        """
        results: list[tuple[int, str]] = []
        for start in range(0, len(requests), _MAX_UNREAD_ACKS):
            results += self._acknowledged(requests[start : start + _MAX_UNREAD_ACKS])
        return results

    def _acknowledged(self, requests: Sequence[Request]) -> list[tuple[int, str]]:
        self.drain()
        first = self.next_sequence(len(requests))
        data = b"".join(
            pack(Request(request.type, request.flags | NLM_F_ACK, request.payload), first + number)
            for number, request in enumerate(requests)
        )
        self.send(data)
        results: list[tuple[int, str] | None] = [None] * len(requests)
        missing = len(requests)
        while missing:
            for message in self.receive():
                position = message.sequence - first
                if message.type == NLMSG_ERROR and 0 <= position < len(requests) and results[position] is None:
                    results[position] = acknowledgement(message)
                    missing -= 1
        return [result for result in results if result is not None]

    def dump(self, kind: int, payload: bytes, what: str) -> list[Message]:
        """Every message of a dump. A dump that a change interrupted is requested again.

        Raises NetlinkError, PermissionRequired.
        """
        for _attempt in range(_DUMP_ATTEMPTS):
            complete, found = self._dump_once(kind, payload, what)
            if complete:
                return found
        raise NetlinkError(f"{what}: the table keeps changing while it is read", errno.EAGAIN)

    def get(self, kind: int, payload: bytes, what: str) -> Message:
        """Send a request whose answer is one message (a "get" of one object). Raises as :meth:`dump`."""
        sequence = self.begin(kind, 0, payload)
        while True:
            for message in self.receive():
                if message.sequence != sequence:
                    continue
                if message.type == NLMSG_ERROR:
                    number, detail = acknowledgement(message)
                    raise error(number or errno.EIO, what, detail)
                return message

    def _dump_once(self, kind: int, payload: bytes, what: str) -> tuple[bool, list[Message]]:
        sequence = self.begin(kind, NLM_F_DUMP, payload)
        found: list[Message] = []
        complete = True
        while True:
            try:
                batch = self.receive()
            except NetlinkError as problem:
                if problem.errno == errno.ENOBUFS:
                    return False, []
                raise
            for message in batch:
                if message.sequence != sequence:
                    continue
                if message.flags & NLM_F_DUMP_INTR:
                    complete = False
                if message.type == NLMSG_ERROR:
                    number, detail = acknowledgement(message)
                    if number:
                        raise error(number, what, detail)
                    continue
                if message.type == NLMSG_DONE:
                    number = -_INT.unpack_from(message.payload)[0] if len(message.payload) >= 4 else 0
                    if number > 0:
                        raise error(number, what)
                    return complete, found
                found.append(message)

    def begin(self, kind: int, flags: int, payload: bytes) -> int:
        """Send one request after discarding what is left of the last one; returns its sequence number.

        Raises NetlinkError, PermissionRequired.
        """
        self.drain()
        sequence = self.next_sequence()
        self.send(pack(Request(kind, flags, payload), sequence))
        return sequence

    def send(self, data: bytes) -> None:
        """Send prepared messages. Raises NetlinkError, PermissionRequired."""
        try:
            self._socket.send(data)
        except OSError as problem:
            raise error(problem.errno or errno.EIO, "the kernel did not accept a netlink request") from problem

    def receive(self) -> list[Message]:
        """The messages of the next datagram from the kernel; waits for it (Python repeats a call that a signal
        interrupted). Raises NetlinkError: ENOBUFS when answers were lost, ETIMEDOUT without an answer."""
        while True:
            try:
                data, sender = self._socket.recvfrom(_RECEIVE_SIZE)
            except BlockingIOError:
                raise NetlinkError("the kernel did not answer a netlink request", errno.ETIMEDOUT) from None
            except OSError as problem:
                raise error(problem.errno or errno.EIO, "cannot read a netlink answer") from problem
            if sender[0] == 0:  # any process can send to this port; only the kernel's port is 0
                return list(messages(data))

    def drain(self) -> None:
        """Discard the rest of an interrupted exchange: an unfinished dump refuses the next one (EBUSY)."""
        while True:
            try:
                self._socket.recv(_RECEIVE_SIZE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as problem:
                if problem.errno != errno.ENOBUFS:
                    raise error(problem.errno or errno.EIO, "cannot read a netlink answer") from problem


def widen(sock: socket.socket, receive_buffer: int) -> None:
    """Give ``sock`` a receive buffer of that many bytes, or the most that this process may have."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, receive_buffer)
    except OSError:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        except OSError:
            pass


def join(sock: socket.socket, groups: Iterable[int]) -> None:
    """Subscribe a *bound* socket to multicast groups by number (a later ``bind`` would undo it)."""
    for group in groups:
        sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
