"""The lab's networks: bridges, cables, and their faults.

A cut is an nftables rule on the bridge: frames are dropped silently and no carrier changes, as when a host dies or a
switch fails. For a lost link the hub's end of the cable is set down. Everything is in the hub.
"""

from __future__ import annotations

from collections.abc import Sequence

from locum_lab import namespaces
from locum_lab.layout import CLIENT_V4, CLIENT_V6, OBSERVER_MAC, Layout

#: The client's hardware address.
CLIENT_MAC = "02:4c:00:00:fe:01"

_CUT_RULES = """
table bridge lab {
    set cut { type ifname; }
    chain forward {
        type filter hook forward priority 0; policy accept;
        iifname @cut drop
        oifname @cut drop
    }
}
"""

# Set before any interface exists: no waiting for duplicate address detection, no router solicitations.
_SETTINGS = {
    "ipv6/conf/all/accept_dad": "0",
    "ipv6/conf/default/accept_dad": "0",
    "ipv6/conf/all/accept_ra": "0",
    "ipv6/conf/default/accept_ra": "0",
    "ipv6/conf/default/router_solicitations": "0",
}


def build(layout: Layout) -> None:
    """Make namespaces, bridges and cables, and address the private network and the client."""
    build_hub(layout, layout.namespaces)
    namespaces.run_ip(_node_cables(layout), layout.hub)
    for node in layout.node_names:
        namespaces.run_ip(
            [
                "link set lo up",
                *(f"link set {interface} up" for interface in ("eth0", *layout.public_interfaces)),
                f"address add {layout.private_address(node)}/24 dev eth0",
            ],
            layout.namespace(node),
        )


def build_hub(layout: Layout, names: Sequence[str]) -> None:
    """Make these namespaces, and in the hub the bridges and the client with its cable."""
    namespaces.create(names)
    for name in names:
        namespaces.inside(name, _apply_settings)
    namespaces.run_ip(_hub_commands(layout), layout.hub)
    namespaces.run(["ip", "netns", "exec", layout.hub, "nft", "-f", "-"], _CUT_RULES)
    namespaces.run_ip(
        [
            "link set lo up",
            "link set eth0 up",
            f"address add {CLIENT_V4}/24 dev eth0",
            f"address add {CLIENT_V6}/64 dev eth0 nodad",
        ],
        layout.client,
    )


def _apply_settings() -> None:
    for key, value in _SETTINGS.items():
        with open(f"/proc/sys/net/{key}", "w", encoding="ascii") as file:
            file.write(value)


def _hub_commands(layout: Layout) -> list[str]:
    # The public bridge is promiscuous, so that the observer, which listens on it, sees every frame that enters it.
    commands = ["link set lo up"]
    for bridge in ("private", "public"):
        commands.append(f"link add {bridge} type bridge mcast_snooping 0 forward_delay 0")
    commands += [f"link set public address {OBSERVER_MAC}", "link set public promisc on"]
    commands += [f"link set {bridge} up" for bridge in ("private", "public")]
    return commands + _cable("client", "public", layout.client, "eth0", CLIENT_MAC)


def _node_cables(layout: Layout) -> list[str]:
    commands = []
    for node in layout.node_names:
        for interface in ("eth0", *layout.public_interfaces):
            bridge = "private" if interface == "eth0" else "public"
            commands += _cable(
                layout.port(node, interface), bridge, layout.namespace(node), interface, layout.mac(node, interface)
            )
    return commands


def _cable(port: str, bridge: str, namespace: str, interface: str, mac: str) -> list[str]:
    return [
        f"link add {port} master {bridge} type veth peer name {interface} address {mac} netns {namespace}",
        f"link set {port} up",
    ]


def cut(layout: Layout, ports: Sequence[str]) -> None:
    """Drop all frames forwarded from or to these ports, silently. Idempotent."""
    _change_cut(layout, ("add",), ports)


def uncut(layout: Layout, ports: Sequence[str]) -> None:
    """Undo :func:`cut`. Idempotent."""
    # Only an element that is present can be deleted: add it first, in the same transaction.
    _change_cut(layout, ("add", "delete"), ports)


def _change_cut(layout: Layout, verbs: Sequence[str], ports: Sequence[str]) -> None:
    elements = ", ".join(f'"{port}"' for port in ports)
    commands = "".join(f"{verb} element bridge lab cut {{ {elements} }}\n" for verb in verbs)
    namespaces.run(["ip", "netns", "exec", layout.hub, "nft", "-f", "-"], commands)


def set_link(layout: Layout, node: str, interface: str, up: bool) -> None:
    """Set or remove the carrier of the node's interface."""
    namespaces.run_ip([f"link set {layout.port(node, interface)} {'up' if up else 'down'}"], layout.hub)
