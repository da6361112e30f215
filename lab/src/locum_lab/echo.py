"""A UDP echo service for one node: answers each datagram with its content, a blank and the node's name.

It answers from the requested address, also when that address came to the node after the start. It is started by its
file name with ``python -S -E``, for a fast start, and imports nothing of Locum.
    python -S -E echo.py NAME [PORT]
"""

from __future__ import annotations

import select
import socket
import sys

_IP_PKTINFO = 8  # <linux/in.h>; Python's socket module has no name for it


def serve(name: str, port: int = 7) -> None:
    """Answer for ever."""
    answer = b" " + name.encode()
    poll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    for family, level, option in (
        (socket.AF_INET, socket.IPPROTO_IP, _IP_PKTINFO),
        (socket.AF_INET6, socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO),
    ):
        opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.setsockopt(level, option, 1)
        opened.bind(("", port))
        sockets[opened.fileno()] = opened
        poll.register(opened, select.EPOLLIN)
    while True:
        for descriptor, _ in poll.poll():
            opened = sockets[descriptor]
            try:
                while True:
                    data, ancillary, _, sender = opened.recvmsg(2048, 128)
                    # The packet information of the request serves for the answer: same interface, and the requested
                    # address as source (ip(7): ipi_spec_dst is used for sending).
                    opened.sendmsg([data + answer], ancillary, 0, sender)
            except OSError:  # nothing more to read, or the address has just gone
                continue


if __name__ == "__main__":
    serve(sys.argv[1], *map(int, sys.argv[2:3]))
