"""Is an ONC RPC service there: asks the port mapper for its port, then calls its procedure 0, which does nothing.

Rules of this file: it stands alone, so that the shell functions can run it as a program. Protocol: RFC 5531 (calls),
RFC 1833 (port mapper version 2 for IPv4; rpcbind version 4 for IPv6), RFC 4506 (encoding).
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time

#: Names that may be given instead of program numbers (the common ones of rpc(5)).
PROGRAMS = {
    "portmapper": 100000,
    "rpcbind": 100000,
    "rstatd": 100001,
    "rusersd": 100002,
    "nfs": 100003,
    "ypserv": 100004,
    "mountd": 100005,
    "rquotad": 100011,
    "nlockmgr": 100021,
    "lockd": 100021,
    "status": 100024,
    "statd": 100024,
    "nfs_acl": 100227,
}

_PORTMAPPER, _PORTMAPPER_PORT = 100000, 111
_CALL, _REPLY, _RPC_VERSION = 0, 1, 2
_MSG_ACCEPTED, _SUCCESS = 0, 0
_ACCEPT_ERRORS = {1: "program unavailable", 2: "version not supported", 3: "procedure unavailable", 5: "system error"}
_LAST_FRAGMENT = 0x80000000


class RpcError(Exception):
    """There is no such service, or it does not answer; the message says which."""


def check(program: int | str, version: int, host: str = "127.0.0.1", *, tcp: bool = True, timeout: float = 5.0) -> None:
    """Call procedure 0 of ``program`` in ``version`` on ``host``. Raises RpcError.

    ``timeout`` is for everything together, in seconds.
    """
    number = program if isinstance(program, int) else PROGRAMS.get(program)
    if number is None:
        if not str(program).isdigit():
            raise RpcError(f"no RPC program is called {program!r}; give its number, or one of {', '.join(PROGRAMS)}")
        number = int(program)
    name = f"RPC program {program} version {version} ({'TCP' if tcp else 'UDP'}) on {host}"
    deadline = time.monotonic() + timeout
    try:
        port = _port_of(number, version, host, tcp, deadline)
        if port == 0:
            raise RpcError(f"{name} is not registered with the port mapper")
        _call(host, port, number, version, 0, b"", tcp, deadline)
    except TimeoutError:
        raise RpcError(f"{name} did not answer within {timeout:g} s") from None
    except (OSError, struct.error, UnicodeDecodeError) as error:
        raise RpcError(f"{name}: {getattr(error, 'strerror', None) or error}") from None
    except _Refused as error:
        raise RpcError(f"{name}: {error}") from None


class _Refused(Exception):
    """The call was answered, but not carried out."""


def _port_of(program: int, version: int, host: str, tcp: bool, deadline: float) -> int:
    protocol = socket.IPPROTO_TCP if tcp else socket.IPPROTO_UDP
    if ":" not in host:
        arguments = struct.pack(">4I", program, version, protocol, 0)
        answer = _call(host, _PORTMAPPER_PORT, _PORTMAPPER, 2, 3, arguments, tcp, deadline)
        return int(struct.unpack_from(">I", answer)[0])
    netid = "tcp6" if tcp else "udp6"
    arguments = struct.pack(">2I", program, version) + _string(netid) + _string("") + _string("")
    answer = _call(host, _PORTMAPPER_PORT, _PORTMAPPER, 4, 3, arguments, tcp, deadline)
    length = struct.unpack_from(">I", answer)[0]
    parts = answer[4 : 4 + length].decode("ascii").split(".")  # a universal address: host and port in two bytes
    return int(parts[-2]) * 256 + int(parts[-1]) if len(parts) > 2 else 0


def _string(text: str) -> bytes:
    data = text.encode("ascii")
    return struct.pack(">I", len(data)) + data + b"\0" * (-len(data) % 4)


def _call(
    host: str, port: int, program: int, version: int, procedure: int, arguments: bytes, tcp: bool, deadline: float
) -> bytes:
    transaction = int.from_bytes(os.urandom(4), "big")
    # The two empty structures are credentials and verifier of AUTH_NONE.
    request = struct.pack(">10I", transaction, _CALL, _RPC_VERSION, program, version, procedure, 0, 0, 0, 0) + arguments
    answer = _over_tcp(host, port, request, deadline) if tcp else _over_udp(host, port, request, deadline)
    return _result(answer, transaction)


def _over_tcp(host: str, port: int, request: bytes, deadline: float) -> bytes:
    with socket.create_connection((host, port), _left(deadline)) as connection:
        connection.sendall(struct.pack(">I", _LAST_FRAGMENT | len(request)) + request)
        answer = b""
        while True:
            header = struct.unpack(">I", _exactly(connection, 4, deadline))[0]
            answer += _exactly(connection, header & ~_LAST_FRAGMENT, deadline)
            if header & _LAST_FRAGMENT:
                return answer


def _over_udp(host: str, port: int, request: bytes, deadline: float) -> bytes:
    """Datagrams get lost: the request is sent again every second."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as channel:
        channel.connect((host, port))
        while True:
            channel.send(request)
            channel.settimeout(min(1.0, _left(deadline)))
            try:
                while True:
                    answer = channel.recv(65536)
                    if answer[:4] == request[:4]:
                        return answer
            except TimeoutError:
                _left(deadline)


def _exactly(connection: socket.socket, size: int, deadline: float) -> bytes:
    if size > 1 << 20:
        raise _Refused("the answer is not RPC")
    data = b""
    while len(data) < size:
        connection.settimeout(_left(deadline))
        piece = connection.recv(size - len(data))
        if not piece:
            raise _Refused("the connection was closed without an answer")
        data += piece
    return data


def _result(answer: bytes, transaction: int) -> bytes:
    """The results in a reply. Raises _Refused when it is not an acceptance."""
    received, kind, status = struct.unpack_from(">3I", answer)
    if received != transaction or kind != _REPLY:
        raise _Refused("the answer is not RPC")
    if status != _MSG_ACCEPTED:
        raise _Refused("the call was denied")
    verifier = struct.unpack_from(">I", answer, 16)[0]
    place = 20 + verifier + (-verifier % 4)
    accepted = struct.unpack_from(">I", answer, place)[0]
    if accepted != _SUCCESS:
        raise _Refused(_ACCEPT_ERRORS.get(accepted, f"error {accepted}"))
    return answer[place + 4 :]


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def main(arguments: list[str]) -> int:
    """``rpc.py PROGRAM VERSION [HOST [tcp|udp]]``, for the shell functions."""
    if not 2 <= len(arguments) <= 4 or not arguments[1].isdigit():
        print("usage: PROGRAM VERSION [HOST [tcp|udp]]", file=sys.stderr)
        return 2
    program, version, host, protocol = (*arguments, *("127.0.0.1", "tcp")[len(arguments) - 2 :])
    try:
        check(program, int(version), host, tcp=protocol != "udp")
    except RpcError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
