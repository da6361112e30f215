"""The results of commands about connections, and the notation of endpoints.

Values only, and light to import: the command line decodes into them. ``docs/connections.md`` documents the JSON. Fields
are only ever added.
"""

from __future__ import annotations

import msgspec

from locum import hosts
from locum.errors import UsageError


class ConnectionReport(msgspec.Struct, frozen=True, order=True):
    """A connection: the client's endpoint, the port of the public address, whether a command added it."""

    client: str
    port: int
    added: bool = False


class AddressConnections(msgspec.Struct, frozen=True):
    """The connections of a public address. ``node`` serves it, if any; ``ports``: port → number of connections.

    ``connections`` are listed when the request names the address.
    """

    address: str
    node: str | None
    count: int
    ports: dict[str, int] = {}
    connections: tuple[ConnectionReport, ...] = ()


class ConnectionsResult(msgspec.Struct, frozen=True):
    """The result of a command about connections: how many it concerned, and a sentence for people."""

    message: str
    count: int
    left: int = 0


def parse_endpoint(text: str) -> tuple[str, int]:
    """``192.0.2.1:445``, ``[2001:db8::1]:445`` → (address in its canonical form, port). Raises UsageError."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = hosts.address(host[1:-1] if bracketed else host)
    except ValueError:
        address = ""
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else 0
    if not address or not colon or not 0 < number < 65536 or (":" in host) != bracketed:
        raise UsageError(f"{text!r} is not ADDRESS:PORT ([ADDRESS]:PORT for IPv6)")
    return address, number
