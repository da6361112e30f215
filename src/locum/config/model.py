"""A configuration as immutable values.

Rules of this file: values only. It knows neither TOML nor files nor the machine; everything here was checked by
:mod:`locum.config.load` before it was built, so that no other layer checks it again. ``docs/configuration.md``
is the reference of the file itself. Times are in seconds.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal

import msgspec

from locum.store.credential_files import CredentialFiles
from locum.store.location import StoreUrl

#: The types of an event script's setting.
ScriptValue = str | int | float | bool | tuple[str | int | float | bool, ...]

Profile = Literal["default", "fast"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["console", "json"]

PROFILES: tuple[Profile, ...] = ("default", "fast")
LOG_LEVELS: tuple[LogLevel, ...] = ("debug", "info", "warning", "error")
LOG_FORMATS: tuple[LogFormat, ...] = ("console", "json")

#: Default hold of each profile, in seconds.
PROFILE_HOLDS: Mapping[Profile, float] = {"default": 2.0, "fast": 0.25}

#: Shortest and longest hold that a configuration may ask for, in seconds.
HOLD_BOUNDS = (0.1, 60.0)


class PublicAddress(msgspec.Struct, frozen=True, order=True):
    """A public address that this node can host, and the interfaces on which it may be configured.

    ``address`` is in canonical form (as :mod:`ipaddress` prints it), ``bits`` the length of its subnet's prefix.
    ``interfaces`` is in the order of preference and never empty.
    """

    address: str
    bits: int
    interfaces: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.address}/{self.bits}"


class NodeSettings(msgspec.Struct, frozen=True):
    """``[node]``. ``number`` is None when the node takes the lowest free one at its first joining."""

    name: str
    number: int | None = None
    private_address: str | None = None


#: ``[cluster.etcd]``.
EtcdSettings = CredentialFiles


class ClusterSettings(msgspec.Struct, frozen=True):
    """``[cluster]``. ``name`` prefixes every key in the store. ``hold`` is in seconds; default: the profile's."""

    store: StoreUrl
    name: str = "locum"
    hold: float = PROFILE_HOLDS["default"]
    profile: Profile = "default"
    same_addresses_as: tuple[str, ...] = ()
    etcd: EtcdSettings = EtcdSettings()


class PathSettings(msgspec.Struct, frozen=True):
    """``[paths]``, all absolute. ``control`` is the socket of the control commands.

    ``control_group`` is the group whose members may use that socket in addition to root; None: root only.
    ``public_addresses`` is the file that the addresses were read from, or None when there is none.
    """

    runtime: str = "/run/locum"
    state: str = "/var/lib/locum"
    events: str = "/etc/locum/events"
    control: str = "/run/locum/control.sock"
    public_addresses: str | None = None
    control_group: str | None = None


class ConnectionSettings(msgspec.Struct, frozen=True):
    """``[connections]``: TCP ports, sorted.

    ``ports``: connections to these are recorded, so that their clients are notified when an address moves, in addition
    to the ports that event scripts declare. ``reset_ports``: the releasing node resets clients of these.
    ``mptcp``: clients may use Multipath TCP.
    """

    ports: tuple[int, ...] = ()
    reset_ports: tuple[int, ...] = ()
    mptcp: bool = False


class NetworkSettings(msgspec.Struct, frozen=True):
    """``[network]``. ``probe``: ask on the network for an address before the cluster takes it for the first time.

    ``ignore``: hardware addresses (``aa:bb:cc:dd:ee:ff``) to ignore, such as that of a router with proxy ARP.
    """

    probe: bool = True
    ignore: tuple[str, ...] = ()


class LogSettings(msgspec.Struct, frozen=True):
    """``[log]``."""

    level: LogLevel = "info"
    format: LogFormat = "console"


class Settings(msgspec.Struct, frozen=True):
    """The configuration of one node.

    ``source`` is the file that it was read from. ``addresses`` are in the order of the configuration (the file of
    public addresses first, then ``[[address]]``), none twice. ``tunables`` holds only those that were set; see
    :func:`locum.config.tunables.Tunables.from_values`. ``scripts`` has the settings of each event script by its name
    (``50.web``).
    """

    source: str
    node: NodeSettings
    cluster: ClusterSettings
    paths: PathSettings = PathSettings()
    addresses: tuple[PublicAddress, ...] = ()
    tunables: Mapping[str, int | float] = msgspec.field(default_factory=dict)
    scripts: Mapping[str, Mapping[str, ScriptValue]] = msgspec.field(default_factory=dict)
    connections: ConnectionSettings = ConnectionSettings()
    network: NetworkSettings = NetworkSettings()
    log: LogSettings = LogSettings()


def default_node_name() -> str:
    """The host's name: the default of a node's name."""
    return os.uname().nodename
