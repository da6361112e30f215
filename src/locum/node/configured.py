"""A node's identity, its store and the environment of its scripts, derived from the configuration.

This file derives values from :class:`locum.config.model.Settings` and starts nothing.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import msgspec

from locum import __version__
from locum.config.model import Settings
from locum.rules.node import Identity
from locum.rules.schema import HostedAddress
from locum.store.base import Store
from locum.store.etcd_options import EtcdOptions
from locum.store.factory import open_store


def machine_identity(settings: Settings) -> str:
    """The identity of this place: host, boot, network namespace and runtime directory.

    A daemon that has the lock of the same place knows that an earlier daemon there is gone.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    namespace = os.stat("/proc/self/ns/net").st_ino
    return f"{socket.gethostname()} {boot} net:{namespace} {settings.paths.runtime}"


def identity_of(settings: Settings, margin: float, warning: str, machine: str) -> Identity:
    """The node that ``settings`` describe, on ``machine`` (:func:`machine_identity`)."""
    return Identity(
        name=settings.node.name,
        hold=settings.cluster.hold,
        margin=margin,
        number=settings.node.number,
        private_address=settings.node.private_address or "",
        addresses=tuple(HostedAddress(a.address, a.bits, a.interfaces) for a in settings.addresses),
        machine=machine,
        version=__version__,
        warning=warning,
        probe=settings.network.probe,
        search=True,
    )


def script_environment(settings: Settings) -> dict[str, str]:
    """The variables that every script of this node gets besides the engine's own (``docs/events.md``)."""
    interfaces = dict.fromkeys(name for a in settings.addresses for name in a.interfaces)
    return {
        "LOCUM_NODE": settings.node.name,
        "LOCUM_SOCKET": settings.paths.control,
        "LOCUM_CONFIG": settings.source,
        "LOCUM_INTERFACES": ",".join(interfaces),
    }


def store_of(settings: Settings) -> Store:
    """The store named in ``settings``; a separate process beside the agent serves a store of this node alone."""
    location = settings.cluster.store
    if location.kind in ("memory", "sqlite"):
        return open_store(f"unix:{settings.paths.runtime}/store.sock")
    etcd = EtcdOptions(**msgspec.structs.asdict(settings.cluster.etcd)).paced(settings.cluster.hold)
    return open_store(str(location), etcd=etcd)
