"""Tickles: a TCP ACK with an invalid sequence number, sent to a client from the public address.

A client whose server died silently waits in a read without limit. It must answer a segment outside its window with an
ACK (RFC 9293, section 3.10.7.4). That ACK reaches the new holder of the address, whose kernel knows no such connection
and answers with a reset (section 3.5.2), with the sequence number that the client expects. So the client's read fails
at once, and the client connects again.

The caller chooses the clients. The address must be configured here and let through the gate; otherwise the kernel drops
the tickle, or does not answer the client's ACK.

A client's kernel may limit such ACKs to one per half second for each connection (Linux: ``tcp_invalid_ratelimit``): a
lost tickle can be repeated at any time, but after a lost *answer* only a later tickle helps.
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
