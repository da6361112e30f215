"""End connections on a kernel that cannot destroy them, by resets that appear to come from the client.

A reset must carry exactly the number that the server's kernel expects next. So an impossible ACK is first sent to the
server in the client's name. The server answers the client with an ACK that says what it expects. This answer is
captured on its way out, and the reset follows. CTDB does the same ("killtcp").

The address must still be configured here and let through the gate, since the server's kernel must receive and answer.
Segments of the real clients are kept out meanwhile (:func:`blockade`), so that no connection is added. Everything
blocks: for a second when a connection does not answer.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
import zlib
from collections.abc import Collection, Iterator, Sequence

from locum import nft
from locum.connections.segments import ACK, RST, SEQUENCES, RawSender, Segment, parse
from locum.connections.sockets import scan
from locum.errors import NetlinkError, PermissionRequired
from locum.machine.netlink import filters, inet_diag, route
from locum.machine.netlink.inet_diag import Found

_ETH_P_ALL = 3
_BUFFER = 4 << 20
_SO_RCVBUFFORCE = 33
_SNAP = 128  # headers suffice

#: Tries for connections without an answer, and seconds between two. The server's kernel may limit its answers to one
#: per half second for each connection.
ATTEMPTS, PAUSE = 3, 0.35

# Classic BPF instructions that locum.machine.netlink.filters lacks.
_LOAD_WORD, _LOAD_BYTE = 0x20, 0x30
_JUMP_EQUAL = 0x15
_RETURN = 0x06

#: Longest wait for nft, in seconds.
_NFT_LIMIT = 10.0


def reset(address: str, connections: Sequence[Found], *, clients: bool = False) -> list[Found]:
    """Reset ``connections`` to ``address`` here, and with ``clients`` at the clients as well.

    Returns those that did not answer. In the present network namespace. Raises PermissionRequired, NetlinkError,
    ValueError (not an address).
    """
    local = route.packed(address)
    waiting = {found.peer + found.identity[:4]: found for found in connections if found.address == local}
    others = [found for found in connections if found.address != local]
    with _capture(local) as captured, RawSender(route.family_of(address)) as sender:
        for number in range(ATTEMPTS):
            sender.send(
                Segment(found.peer, local, _turned(found.identity[:4]), SEQUENCES[number % len(SEQUENCES)])
                for found in list(waiting.values())
            )
            limit = time.monotonic() + PAUSE
            while waiting and (left := limit - time.monotonic()) > 0:
                if not select.select([captured], [], [], left)[0]:
                    break
                for answer in _answers(captured, local):
                    found = waiting.pop(answer.destination + answer.ports, None)
                    if found is not None:
                        sender.send(_resets(answer, clients))
            if not waiting:
                break
    return [*waiting.values(), *others]


def _turned(ports: bytes) -> bytes:
    return ports[2:] + ports[:2]


def _resets(answer: Segment, clients: bool) -> Iterator[Segment]:
    """The reset for the server that sent ``answer``, and the one for its client."""
    yield Segment(
        answer.destination, answer.source, _turned(answer.ports), answer.acknowledged, answer.sequence, RST | ACK
    )
    if clients:
        yield Segment(answer.source, answer.destination, answer.ports, answer.sequence, answer.acknowledged, RST | ACK)


def _answers(captured: socket.socket, source: bytes) -> Iterator[Segment]:
    while True:
        try:
            packet = captured.recv(_SNAP)
        except BlockingIOError:
            return
        found = parse(packet)
        if found is not None and found.source == source and found.flags & ACK and not found.flags & RST:
            yield found


def _capture(source: bytes) -> socket.socket:
    """A socket that receives TCP segments from ``source`` as they leave, from the IP header on."""
    try:
        # Packets can arrive before the filter is set, so each is checked again.
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        made = socket.socket(socket.AF_PACKET, kind, socket.htons(_ETH_P_ALL))
    except PermissionError as problem:
        raise PermissionRequired("cannot open a packet socket; this needs root, or CAP_NET_RAW") from problem
    try:
        with contextlib.suppress(OSError):
            made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        filters.attach(made, _only_from(source))
    except OSError as problem:
        made.close()
        raise NetlinkError(f"cannot watch for answers: {problem.strerror}", problem.errno or 0) from problem
    return made


def _only_from(source: bytes) -> list[filters.Instruction]:
    """Keep IP packets with TCP from that address. Version, protocol and source have fixed places."""
    four = len(source) == 4
    start, place = (12, 9) if four else (8, 6)
    checks = [(_LOAD_BYTE, place, socket.IPPROTO_TCP)]
    checks += [(_LOAD_WORD, start + at, int.from_bytes(source[at : at + 4], "big")) for at in range(0, len(source), 4)]
    program: list[filters.Instruction] = []
    for number, (load, at, value) in enumerate(checks):
        program.append((load, 0, 0, at))
        # If different, jump to the last instruction.
        program.append((_JUMP_EQUAL, 0, 2 * (len(checks) - number - 1) + 1, value))
    return [*program, (_RETURN, 0, 0, _SNAP), (_RETURN, 0, 0, 0)]


def end_all(address: str, reset_ports: Collection[int] = ()) -> tuple[list[Found], list[Found]]:
    """Keep other hosts out, and reset all connections to ``address``, at the clients as well for ``reset_ports``.

    Returns (connections found, connections that did not answer). Raises as :func:`reset` does.
    """
    with blockade(address), inet_diag.open_socket() as netlink:
        found = scan(netlink, [route.packed(address)])
        both_ends = [f for f in found if f.port in reset_ports]
        left = reset(address, both_ends, clients=True) if both_ends else []
        others = [f for f in found if f.port not in reset_ports]
        left += reset(address, others) if others else []
        return found, left


@contextlib.contextmanager
def blockade(address: str) -> Iterator[bool]:
    """Within it, TCP from other hosts to ``address`` is dropped, as by CTDB's ``ip_block``, by a table of its own.
    Yields whether that table could be loaded."""
    table = f"locum_release_{zlib.crc32(address.encode()):08x}"
    rule = f'iifname != "lo" {"ip6" if ":" in address else "ip"} daddr {address} meta l4proto tcp drop'
    chain = f"chain arrive {{ type filter hook prerouting priority -310; policy accept;\n{rule}\n}}"
    active = _nft(f"add table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n{chain}\n}}\n")
    try:
        yield active
    finally:
        if active:
            _nft(f"delete table inet {table}\n")


def _nft(text: str) -> bool:
    with contextlib.suppress(nft.CannotRun):
        return not nft.load(text, _NFT_LIMIT)
    return False
