"""Socket filters (classic BPF) for netlink sockets: the kernel drops messages that would only be discarded here.

A filter sees a message from its netlink header on and keeps all or none of it. Loads of two and four bytes read in
network order; the netlink header is in the machine's order.
"""

from __future__ import annotations

import array
import socket
import struct
import sys
from collections.abc import Collection, Sequence

_SO_ATTACH_FILTER = 26

_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_LOAD_HALF = 0x28  # BPF_LD | BPF_H | BPF_ABS
_JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

_KEEP, _DROP = 0xFFFFFFFF, 0

#: (code, jump if true, jump if false, constant); jumps are relative to the next instruction.
Instruction = tuple[int, int, int, int]

_INSTRUCTION = struct.Struct("=HBBI")


def attach(sock: socket.socket, program: Sequence[Instruction]) -> None:
    """Attach ``program`` to ``sock``. Raises OSError."""
    code = array.array("B", b"".join(_INSTRUCTION.pack(*instruction) for instruction in program))
    # struct sock_fprog: a count, padded, and a pointer
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), code.buffer_info()[0]))


def _as_loaded(value: int, size: int) -> int:
    """The result of a network-order load of ``value`` stored in the machine's order."""
    return int.from_bytes(value.to_bytes(size, sys.byteorder), "big")


def type_from_others(kind: int, ports: Collection[int]) -> list[Instruction]:
    """Keep messages of type ``kind`` that a netlink port other than ``ports`` caused.

    In ``struct nlmsghdr`` the type is at 4, and the port at 12.
    """
    same_port = [(_JUMP_EQUAL, len(ports) - place, 0, _as_loaded(port, 4)) for place, port in enumerate(ports)]
    return [
        (_LOAD_HALF, 0, 0, 4),
        (_JUMP_EQUAL, 0, len(ports) + 2, _as_loaded(kind, 2)),
        (_LOAD_WORD, 0, 0, 12),
        *same_port,
        (_RETURN, 0, 0, _KEEP),
        (_RETURN, 0, 0, _DROP),
    ]


def listening_inet_sockets() -> list[Instruction]:
    """Keep ``struct inet_diag_msg`` of sockets with a local port and no peer: (former) listeners.

    The structure follows the netlink header; its ports, at 4 and 6, are in network order, the peer's address is at
    24. A connection that was reset has lost its peer's port (``tcp_disconnect``), but not the address.
    """
    peer_words = (40, 44, 48, 52)
    program: list[Instruction] = [(_LOAD_HALF, 0, 0, 20), (_JUMP_EQUAL, 3 + 2 * len(peer_words), 0, 0)]
    program += [(_LOAD_HALF, 0, 0, 22), (_JUMP_EQUAL, 0, 1 + 2 * len(peer_words), 0)]
    for number, place in enumerate(peer_words):
        to_drop = 1 + 2 * (len(peer_words) - 1 - number)
        program += [(_LOAD_WORD, 0, 0, place), (_JUMP_EQUAL, 0, to_drop, 0)]
    return [*program, (_RETURN, 0, 0, _KEEP), (_RETURN, 0, 0, _DROP)]
