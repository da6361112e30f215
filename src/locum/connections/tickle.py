"""Tickles: a TCP ACK with a sequence number that cannot be right, sent to a client from the public address.

A client whose server died without a word waits in a read for as long as it likes. It must answer a segment that is out
of its window with an ACK of its own (RFC 9293, section 3.10.7.4). That ACK reaches the new holder of the address,
whose kernel knows no such connection and answers with a reset (section 3.5.2), with the sequence number that the client
expects: so the client's read fails at once, and the client connects again.

Rules of this file: it is told whom to tickle. The address has to be configured here and let through the gate, or the
kernel drops the tickle, or has no answer to what comes back.

A client's kernel may limit such answers to one in half a second for each connection (Linux: ``tcp_invalid_ratelimit``):
a tickle that got lost can be repeated at any time, but one whose *answer* got lost only after that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from locum.connections.segments import SEQUENCES, RawSender, Segment
from locum.machine.netlink import route


def tickle_once(address: str, entries: Iterable[bytes], number: int = 0) -> int:
    """Tickle the clients of ``entries`` (packed connections to ``address``) once; returns how many were sent.

    ``number`` counts the rounds. Blocks, about 10 µs for each. Raises PermissionRequired, NetlinkError, ValueError.
    """
    source = route.packed(address)
    sequence = SEQUENCES[number % len(SEQUENCES)]

    def segments() -> Iterator[Segment]:
        for entry in entries:
            if len(entry) == len(source) + 4:
                yield Segment(source, entry[4:], entry[:4], sequence)

    with RawSender(route.family_of(address), source) as sender:
        return sender.send(segments())
