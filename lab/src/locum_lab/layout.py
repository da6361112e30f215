"""The structure of a lab: names, networks and addresses, computed from a few numbers.

No I/O. A lab is `nodes` network namespaces and one client on two bridges:

- the *private* network 10.78.0.0/24: ``eth0`` of every node;
- the *public* network 10.77.0.0/24 and fd77::/64: ``eth1`` (and ``eth2``) of every node, and the client.

Both bridges are in a separate namespace, the *hub*, so that the host's own network shows nothing of a lab. A node has
only public addresses on the public network. So the first of them is a primary address and the others are its
secondaries, the case in which errors are likely.
"""

from __future__ import annotations

import re

import msgspec

from locum.errors import UsageError

#: The prefix of every network namespace of every lab; ``down`` finds leftovers by it.
PREFIX = "locum-"

CLIENT_V4 = "10.77.0.1"
CLIENT_V6 = "fd77::1"
#: The observer's address, configured on no interface.
OBSERVER_V4 = "10.77.0.250"
OBSERVER_MAC = "02:4c:00:00:ff:fe"

MAX_NODES = 64
MAX_ADDRESSES = 250
MAX_CLIENTS = 8

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,23}")


class PublicAddress(msgspec.Struct, frozen=True):
    """One address of the pool with its prefix length."""

    address: str
    bits: int


class Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The numbers that define a lab.

    ``nodes``: number of nodes. ``addresses``: number of public addresses, alternating IPv4 and IPv6. ``interfaces``:
    public interfaces per node, 1 or 2. ``hold``: seconds, as in the nodes' configuration. ``clients``: number of guests
    without Locum, in a lab of virtual machines.
    """

    name: str = "lab"
    nodes: int = 3
    addresses: int = 6
    interfaces: int = 1
    hold: float = 2.0
    clients: int = 0

    def check(self) -> None:
        """Raise :class:`UsageError` when a number is out of range."""
        if not _NAME.fullmatch(self.name):
            raise UsageError(
                f"lab name {self.name!r}: use 1 to 24 characters of a-z, 0-9 and '-', not starting with '-'"
            )
        if not 1 <= self.nodes <= MAX_NODES:
            raise UsageError(f"--nodes {self.nodes}: a lab has 1 to {MAX_NODES} nodes")
        if not 0 <= self.addresses <= MAX_ADDRESSES:
            raise UsageError(f"--addresses {self.addresses}: a lab has 0 to {MAX_ADDRESSES} public addresses")
        if self.interfaces not in (1, 2):
            raise UsageError(f"--interfaces {self.interfaces}: a node has 1 or 2 public interfaces")
        if not 0.1 <= self.hold <= 60:
            raise UsageError(f"--hold {self.hold}: expected 0.1 to 60 seconds")
        if not 0 <= self.clients <= MAX_CLIENTS:
            raise UsageError(f"--clients {self.clients}: a lab has 0 to {MAX_CLIENTS} client guests")

    @property
    def node_names(self) -> tuple[str, ...]:
        """``n1``, ``n2``, …"""
        return tuple(f"n{number}" for number in range(1, self.nodes + 1))

    @property
    def client_names(self) -> tuple[str, ...]:
        """The client guests: ``c1``, ``c2``, …"""
        return tuple(f"c{number}" for number in range(1, self.clients + 1))

    @property
    def public_interfaces(self) -> tuple[str, ...]:
        """The public interfaces inside a node."""
        return tuple(f"eth{number}" for number in range(1, self.interfaces + 1))

    @property
    def public_addresses(self) -> tuple[PublicAddress, ...]:
        """The pool, IPv4 and IPv6 in turn: 10.77.0.2, fd77::2, 10.77.0.3 …"""
        pool = []
        for index in range(self.addresses):
            host = 2 + index // 2
            pool.append(
                PublicAddress(f"fd77::{host:x}", 64) if index % 2 else PublicAddress(f"10.77.0.{host}", 24),
            )
        return tuple(pool)

    @property
    def hub(self) -> str:
        """The namespace of the bridges, the store and the relays."""
        return f"{PREFIX}{self.name}-hub"

    @property
    def client(self) -> str:
        """The client's namespace."""
        return f"{PREFIX}{self.name}-client"

    def namespace(self, node: str) -> str:
        """The namespace of ``node``."""
        return f"{PREFIX}{self.name}-{node}"

    @property
    def namespaces(self) -> tuple[str, ...]:
        """All of the lab's namespaces, hub first."""
        return (self.hub, self.client, *(self.namespace(node) for node in self.node_names))

    def number(self, node: str) -> int:
        """1 for ``n1``. Raises :class:`UsageError` for an unknown node."""
        if node not in self.node_names:
            raise UsageError(f"no node {node!r} in lab {self.name}; its nodes are {', '.join(self.node_names)}")
        return int(node[1:])

    def private_address(self, node: str) -> str:
        """The node's address on the private network (a /24)."""
        return f"10.78.0.{self.number(node)}"

    def client_addresses(self, client: str) -> tuple[str, str]:
        """The addresses of a client guest on the public network, with their prefix lengths."""
        number = 200 + self.client_names.index(client) + 1
        return f"10.77.0.{number}/24", f"fd77::{number:x}/64"

    def client_mac(self, client: str) -> str:
        """The hardware address of a client guest."""
        return f"02:4c:00:00:c0:{self.client_names.index(client) + 1:02x}"

    def mac(self, node: str, interface: str) -> str:
        """The hardware address of one of the node's interfaces: fixed, so that a frame identifies its sender."""
        return f"02:4c:00:00:{self.number(node):02x}:{int(interface[3:]):02x}"

    def macs(self) -> dict[str, str]:
        """Hardware address → node, for the public interfaces of all nodes."""
        return {self.mac(node, interface): node for node in self.node_names for interface in self.public_interfaces}

    def port(self, node: str, interface: str) -> str:
        """The hub's end of one of the node's interfaces."""
        return f"{node}-{interface}"

    def ports(self, node: str) -> tuple[str, ...]:
        """The hub's ends of all of the node's interfaces, private first."""
        return tuple(self.port(node, interface) for interface in ("eth0", *self.public_interfaces))
