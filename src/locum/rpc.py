"""ONC RPC as a client, from scripts: calls over UDP and TCP, IPv4 and IPv6, and the port mapper.

Rules of this file: small blocking functions with one limit for the whole call; no threads, nothing asynchronous.
It knows calls and ports, no service. Protocol: RFC 5531 (messages, record marking), RFC 1833 (port mapper version 2
for IPv4, rpcbind version 4 for IPv6).
"""

from __future__ import annotations

import os
import socket
import struct
import time

from locum.errors import LocumError
from locum.xdr import Malformed, Packer, Unpacker

PORTMAPPER, PORTMAPPER_PORT = 100000, 111
NFS, MOUNTD, NLM, STATD = 100003, 100005, 100021, 100024

CALL, REPLY, RPC_VERSION = 0, 1, 2
AUTH_NONE, AUTH_SYS = 0, 1
_ACCEPT = {
    1: "program unavailable",
    2: "version not supported",
    3: "procedure unavailable",
    4: "arguments not understood",
}
LAST_FRAGMENT = 0x80000000
_LONGEST_ANSWER = 1 << 22

_IP_BIND_ADDRESS_NO_PORT = 24  # <linux/in.h>

#: An unanswered datagram is sent again after this number of seconds, then after twice that time.
_FIRST_REPEAT = 0.5


class RpcError(LocumError):
    """The call failed; the message has the reason."""


class RpcTimeout(RpcError):
    """No answer within the limit."""


class NotRegistered(RpcError):
    """The port mapper answers, but the program is not registered."""


def new_transaction() -> int:
    """A random number that identifies a call."""
    return int.from_bytes(os.urandom(4), "big")


def encode_call(
    transaction: int, program: int, version: int, procedure: int, arguments: bytes = b"", *, system: bool = False
) -> bytes:
    """The message of a call. ``system``: with credentials of AUTH_SYS (root), which NFS servers require; else none."""
    message = Packer().uint(transaction, CALL, RPC_VERSION, program, version, procedure)
    if system:
        # Stamp, machine name, uid, gid, no further groups (RFC 5531, appendix A).
        body = Packer().uint(0).string(socket.gethostname()[:255]).uint(0, 0, 0).data
        message.uint(AUTH_SYS).opaque(body)
    else:
        message.uint(AUTH_NONE, 0)
    return message.uint(AUTH_NONE, 0).data + arguments


def decode_reply(answer: bytes, transaction: int) -> bytes:
    """The results in an answer. Raises RpcError when the call was not carried out, Malformed for an invalid answer."""
    reply = Unpacker(answer)
    if reply.uint() != transaction or reply.uint() != REPLY:
        raise Malformed("not the answer to this call")
    if reply.uint() != 0:
        raise RpcError("the call was denied")
    reply.uint()
    reply.opaque(400)
    accepted = reply.uint()
    if accepted != 0:
        raise RpcError(_ACCEPT.get(accepted, f"error {accepted}"))
    return reply.rest


def encode_reply(transaction: int, results: bytes = b"", accepted: int = 0) -> bytes:
    """A server's answer: ``accepted`` 0 for a call that was carried out, else the reason (RFC 5531, section 9)."""
    return Packer().uint(transaction, REPLY, 0, AUTH_NONE, 0, accepted).data + results


def call(
    host: str,
    port: int,
    program: int,
    version: int,
    procedure: int,
    arguments: bytes = b"",
    *,
    tcp: bool = True,
    timeout: float = 5.0,
    source: str | None = None,
    system: bool = False,
) -> bytes:
    """Call a procedure and return its encoded results.

    ``source``: the local source address. ``timeout`` in seconds, for the whole call. Raises RpcTimeout and RpcError.
    """
    deadline = time.monotonic() + timeout
    transaction = new_transaction()
    message = encode_call(transaction, program, version, procedure, arguments, system=system)
    over = _over_tcp if tcp else _over_udp
    where = f"program {program} version {version} on {host} port {port}/{'tcp' if tcp else 'udp'}"
    try:
        return decode_reply(over(host, port, message, source, deadline), transaction)
    except TimeoutError:
        raise RpcTimeout(f"{where}: no answer within {round(timeout, 1):g} s") from None
    except (Malformed, struct.error) as error:
        raise RpcError(f"{where}: the answer is not RPC: {error}") from None
    except OSError as error:
        raise RpcError(f"{where}: {error.strerror or error}") from None
    except RpcError as error:
        raise RpcError(f"{where}: {error}") from None


def encode_getport(program: int, version: int, *, tcp: bool, v6: bool) -> tuple[int, bytes]:
    """The request to the port mapper: its version, and the arguments of its procedure 3 (GETPORT, GETADDR)."""
    if not v6:
        return 2, Packer().uint(program, version, socket.IPPROTO_TCP if tcp else socket.IPPROTO_UDP, 0).data
    netid = "tcp6" if tcp else "udp6"
    return 4, Packer().uint(program, version).string(netid).string("").string("").data


def decode_getport(results: bytes, *, v6: bool) -> int:
    """The port in its answer; 0 when the program is not registered."""
    answer = Unpacker(results)
    if v6:
        parts = answer.string().split(".")  # a universal address: host, then the port in two bytes (RFC 5665)
        if not all(part.isascii() and part.isdigit() and len(part) <= 3 for part in parts[-2:]) and len(parts) > 2:
            raise Malformed("not a universal address")
        port = int(parts[-2]) * 256 + int(parts[-1]) if len(parts) > 2 else 0
    else:
        port = answer.uint()
    if port > 65535:
        raise Malformed(f"{port} is not a port")
    return port


def port_of(
    host: str,
    program: int,
    version: int,
    *,
    tcp: bool = True,
    timeout: float = 5.0,
    source: str | None = None,
    mapper_port: int | None = None,
) -> int:
    """The port of a program. Raises NotRegistered, RpcTimeout, RpcError."""
    v6 = ":" in host
    mapper_version, arguments = encode_getport(program, version, tcp=tcp, v6=v6)
    results = call(
        host,
        mapper_port or PORTMAPPER_PORT,
        PORTMAPPER,
        mapper_version,
        3,
        arguments,
        tcp=tcp,
        timeout=timeout,
        source=source,
    )
    try:
        port = decode_getport(results, v6=v6)
    except (Malformed, ValueError, UnicodeError) as error:
        raise RpcError(f"port mapper on {host}: {error}") from None
    if port == 0:
        kind = "tcp" if tcp else "udp"
        raise NotRegistered(
            f"program {program} version {version}/{kind} is not registered with the port mapper of {host}"
        )
    return port


def null_call(program: int, version: int, host: str = "127.0.0.1", *, tcp: bool = True, timeout: float = 5.0) -> None:
    """Call procedure 0 of a program, which does nothing.

    Raises NotRegistered, RpcTimeout, RpcError.
    """
    end = time.monotonic() + timeout
    known = program == PORTMAPPER
    port = PORTMAPPER_PORT if known else port_of(host, program, version, tcp=tcp, timeout=timeout)
    call(host, port, program, version, 0, tcp=tcp, timeout=max(end - time.monotonic(), 0.001))


def _over_tcp(host: str, port: int, message: bytes, source: str | None, deadline: float) -> bytes:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as connection:
        if source:
            # The kernel chooses the port once it knows the other end. Otherwise it may choose one that a recent
            # connection to the same place has used, which is refused.
            connection.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            connection.bind((source, 0))
        connection.settimeout(_left(deadline))
        connection.connect((host, port))
        connection.sendall(struct.pack(">I", LAST_FRAGMENT | len(message)) + message)
        return read_record(connection, deadline)


def read_record(connection: socket.socket, deadline: float) -> bytes:
    """One message from a TCP connection, its fragments joined. Raises OSError and Malformed."""
    record = b""
    while True:
        header = struct.unpack(">I", _exactly(connection, 4, deadline))[0]
        size = header & ~LAST_FRAGMENT
        if len(record) + size > _LONGEST_ANSWER:
            raise Malformed("too long")
        record += _exactly(connection, size, deadline)
        if header & LAST_FRAGMENT:
            return record


def _over_udp(host: str, port: int, message: bytes, source: str | None, deadline: float) -> bytes:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    repeat = _FIRST_REPEAT
    with socket.socket(family, socket.SOCK_DGRAM) as channel:
        if source:
            channel.bind((source, 0))
        channel.connect((host, port))
        while True:
            channel.send(message)
            again = time.monotonic() + repeat
            repeat *= 2
            while True:
                left = min(again - time.monotonic(), _left(deadline))
                if left <= 0:
                    break
                channel.settimeout(left)
                try:
                    answer = channel.recv(65536)
                except TimeoutError:
                    continue
                if answer[:4] == message[:4]:
                    return answer


def _exactly(connection: socket.socket, size: int, deadline: float) -> bytes:
    data = b""
    while len(data) < size:
        connection.settimeout(_left(deadline))
        piece = connection.recv(size - len(data))
        if not piece:
            raise ConnectionError("the connection was closed without an answer")
        data += piece
    return data


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
