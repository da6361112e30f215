"""The networks of a lab of guests: the bridges of the lab of namespaces, with TAP devices instead of cables.

The names of the ports are those of the lab of namespaces, so that its faults work here as well.
"""

from __future__ import annotations

from locum_lab import namespaces, network
from locum_lab.layout import Layout
from locum_lab.vm import setup
from locum_lab.vm.qemu import Interface

# What a guest and the store outside of the guests say to each other is not forwarded: it begins and ends in the hub.
_CUT_FROM_THE_STORE = f"""
table bridge lab {{
    chain input {{
        type filter hook input priority 0; policy accept;
        iifname @cut ip daddr {setup.OUTSIDE_V4} drop
    }}
    chain output {{
        type filter hook output priority 0; policy accept;
        oifname @cut ip saddr {setup.OUTSIDE_V4} drop
    }}
}}
"""


def build(layout: Layout) -> None:
    """Make the hub and the client in the namespace, and a TAP device for each interface of each guest."""
    network.build_hub(layout, [layout.hub, layout.client])
    commands = [f"address add {setup.OUTSIDE_V4}/24 dev private"]
    for node in layout.node_names:
        for interface in ("eth0", *layout.public_interfaces):
            commands += _tap(layout.port(node, interface), "private" if interface == "eth0" else "public")
    for client in layout.client_names:
        commands += _tap(client_port(client), "public")
    namespaces.run_ip(commands, layout.hub)
    namespaces.run(["ip", "netns", "exec", layout.hub, "nft", "-f", "-"], _CUT_FROM_THE_STORE)


def _tap(name: str, bridge: str) -> list[str]:
    return [f"tuntap add dev {name} mode tap", f"link set {name} master {bridge}", f"link set {name} up"]


def client_port(client: str) -> str:
    """The hub's end of a client guest's only interface."""
    return f"{client}-eth0"


def interfaces(layout: Layout, guest: str) -> tuple[Interface, ...]:
    """The interfaces of a guest: of a node eth0 (private), eth1, …; of a client eth0 (public)."""
    if guest in layout.client_names:
        return (Interface(client_port(guest), layout.client_mac(guest)),)
    names = ("eth0", *layout.public_interfaces)
    return tuple(Interface(layout.port(guest, name), layout.mac(guest, name)) for name in names)
