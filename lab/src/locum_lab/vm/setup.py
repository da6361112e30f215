"""The files of a guest: what an administrator configures on a host before Locum starts. Text only, no I/O."""

from __future__ import annotations

from collections.abc import Sequence

from locum_lab.layout import Layout
from locum_lab.node_files import place_in_cluster, public_addresses

#: Where etcd listens when it is outside of the guests: the lab's end of the private network.
OUTSIDE_V4 = "10.78.0.254"


def node_files(layout: Layout, node: str, store_url: str, settings: str = "") -> dict[str, str]:
    """Path → text for a node: its networks, Locum's configuration and the public addresses.

    ``settings`` is TOML, added to the configuration.
    """
    files = {
        "/etc/systemd/network/10-eth0.network": network("eth0", [f"{layout.private_address(node)}/24"]),
        "/etc/locum/locum.toml": locum_configuration(layout, node, store_url, settings),
        "/etc/locum/public_addresses": public_addresses(layout),
        "/etc/hosts": hosts(layout),
    }
    for interface in layout.public_interfaces:
        # Nothing but public addresses, which are Locum's.
        files[f"/etc/systemd/network/20-{interface}.network"] = network(interface, [])
    return files


def client_files(layout: Layout, client: str) -> dict[str, str]:
    """Path → text for a client guest, which is only on the public network."""
    return {
        "/etc/systemd/network/10-eth0.network": network("eth0", layout.client_addresses(client)),
        "/etc/hosts": hosts(layout),
    }


def network(interface: str, addresses: Sequence[str]) -> str:
    """A file of systemd-networkd for one interface."""
    lines = [f"[Match]\nName={interface}\n", "[Network]", "IPv6AcceptRA=no", "LLMNR=no"]
    lines += [f"Address={address}" for address in addresses]
    if not addresses:
        # The interface counts as configured without an address of its own.
        lines += ["", "[Link]", "RequiredForOnline=carrier"]
    return "\n".join(lines) + "\n"


def hosts(layout: Layout) -> str:
    """/etc/hosts: the private addresses of the nodes, the clients, and ``public1``, … for the public addresses."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost"]
    lines += [f"{layout.private_address(node)} {node}" for node in layout.node_names]
    for client in layout.client_names:
        lines += [f"{address.partition('/')[0]} {client}" for address in layout.client_addresses(client)]
    lines += [f"{public.address} public{number}" for number, public in enumerate(layout.public_addresses, 1)]
    return "\n".join(lines) + "\n"


def locum_configuration(layout: Layout, node: str, store_url: str, settings: str) -> str:
    """/etc/locum/locum.toml: what differs from the example's defaults."""
    return "\n".join(
        [
            "[node]",
            *place_in_cluster(layout, node, store_url),
            "",
            "[paths]",
            'runtime = "/run/locum"',
            'state = "/var/lib/locum"',
            'events = "/etc/locum/events"',
            'public_addresses = "/etc/locum/public_addresses"',
            "",
            settings,
        ]
    )


def etcd_settings(members: dict[str, str], name: str, token: str, pace: tuple[int, int]) -> str:
    """/etc/default/etcd for a member: the environment of Debian's unit. ``members``: name → address; ``pace``:
    heartbeat and election time-out in milliseconds.
    """
    own = members[name]
    heartbeat, election = pace
    values = {
        "NAME": name,
        "DATA_DIR": "/var/lib/etcd/default",
        "LISTEN_CLIENT_URLS": f"http://{own}:2379",
        "ADVERTISE_CLIENT_URLS": f"http://{own}:2379",
        "LISTEN_PEER_URLS": f"http://{own}:2380",
        "INITIAL_ADVERTISE_PEER_URLS": f"http://{own}:2380",
        "INITIAL_CLUSTER": ",".join(f"{member}=http://{address}:2380" for member, address in members.items()),
        "INITIAL_CLUSTER_TOKEN": token,
        "HEARTBEAT_INTERVAL": str(heartbeat),
        "ELECTION_TIMEOUT": str(election),
    }
    return "".join(f'ETCD_{key}="{value}"\n' for key, value in values.items())
