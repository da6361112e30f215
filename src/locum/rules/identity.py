"""A node's identity by configuration and machine, and what a restarted agent adopts of its predecessor: values only."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from locum.rules.schema import HostedAddress


class Identity(msgspec.Struct, frozen=True):
    """The identity of a node, from its configuration and its machine. ``hold`` and ``margin`` in seconds.

    ``probe``: ask on the network for an address that no node of the cluster has held before it is taken. ``search``:
    look for other clusters in the same store before joining.
    """

    name: str
    hold: float
    margin: float
    number: int | None = None
    private_address: str = ""
    addresses: tuple[HostedAddress, ...] = ()
    machine: str = ""
    version: str = ""
    warning: str = ""
    probe: bool = False
    search: bool = False


class Adoption(msgspec.Struct, frozen=True):
    """What a restarted agent adopts from its predecessor, while the guard kept watch.

    ``deadline``: CLOCK_BOOTTIME seconds until which the hold lasts, carried by gate slot ``slot`` and by the beat that
    the store accepted at ``revision``; before ``quiet`` it permits no claim and no take. ``held``: address → interface
    of every address that had been taken completely. ``missing``: those of them that the kernel had lost and that were
    configured again. ``remains``: address → interface of what is here although it is no longer configured; whatever
    the predecessor was doing with it, it must be released.
    """

    incarnation: str
    deadline: float
    slot: int
    revision: int
    quiet: float
    held: Mapping[str, str]
    missing: frozenset[str] = frozenset()
    remains: Mapping[str, str] = msgspec.field(default_factory=dict)
