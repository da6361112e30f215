"""Differences between two configurations, and the part of them that a running daemon can apply.

Rules of this file: pure. Each key of the configuration is listed once in :data:`TAKEN_UP` or :data:`NEEDS_RESTART`; a
test compares these with the model, so that no new key is forgotten.
"""

from __future__ import annotations

from typing import Final

import msgspec

from locum.config.model import Settings

#: Sections whose keys have one meaning each; the others are compared as wholes.
SECTIONS: Final = ("node", "cluster", "paths", "log")

#: Keys that a reload puts in force. ``cluster.etcd`` is credentials; ``cluster.profile`` only determines the hold;
#: ``paths.public_addresses`` is where addresses are read from; ``tunables`` are initial values.
TAKEN_UP: Final = (
    "addresses",
    "scripts",
    "connections",
    "network",
    "tunables",
    "cluster.etcd",
    "cluster.profile",
    "paths.public_addresses",
)

#: Keys that a daemon keeps until it restarts.
NEEDS_RESTART: Final = (
    "node.name",
    "node.number",
    "node.private_address",
    "cluster.name",
    "cluster.store",
    "cluster.hold",
    "cluster.same_addresses_as",
    "paths.runtime",
    "paths.state",
    "paths.events",
    "paths.control",
    "paths.control_group",
    "log.level",
    "log.format",
)


def needs_restart(running: Settings, new: Settings) -> tuple[str, ...]:
    """The keys of ``new`` that differ and that need a restart of a daemon with the settings ``running``."""
    return tuple(key for key in NEEDS_RESTART if _value(running, key) != _value(new, key))


def taken_up(running: Settings, new: Settings) -> Settings:
    """The settings of a daemon after a reload: ``new``, with the keys that need a restart as in ``running``."""
    kept: dict[str, dict[str, object]] = {}
    for key in NEEDS_RESTART:
        section, _, name = key.partition(".")
        kept.setdefault(section, {})[name] = _value(running, key)
    sections = {section: msgspec.structs.replace(getattr(new, section), **fields) for section, fields in kept.items()}
    return msgspec.structs.replace(new, source=running.source, **sections)


def differences(running: Settings, new: Settings) -> tuple[str, ...]:
    """Describe the changes that a reload puts in force; credentials report their own renewal."""
    before, after = {a.address: a for a in running.addresses}, {a.address: a for a in new.addresses}
    changes = [f"address {a} added" for a in after if a not in before]
    changes += [f"address {a} removed" for a in before if a not in after]
    changes += [f"address {a} changed" for a in after if a in before and before[a] != after[a]]
    names = sorted({*running.scripts, *new.scripts})
    changes += [f"settings of {n} changed" for n in names if running.scripts.get(n) != new.scripts.get(n)]
    if running.connections != new.connections:
        changes.append("settings of connections changed")
    if running.network != new.network:
        changes.append("settings of [network] changed")
    if running.tunables != new.tunables:
        # The cluster's tunables are in the store: neither a reload nor a restart removes one that was set.
        changes.append("initial values of tunables changed: 'locum tunable set' changes those in force")
    return tuple(changes)


def _value(settings: Settings, key: str) -> object:
    section, _, name = key.partition(".")
    return getattr(getattr(settings, section), name)
