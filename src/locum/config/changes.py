"""What differs between two configurations, and what of it a daemon that runs takes up.

Rules of this file: pure. Each key of the configuration is listed once in :data:`TAKEN_UP` or :data:`NEEDS_RESTART`; a
test compares these with the model, so that no new key is passed over in silence.
"""

from __future__ import annotations

from typing import Final

import msgspec

from locum.config.model import Settings

#: Sections whose keys have one meaning each; the others are compared as wholes.
SECTIONS: Final = ("node", "cluster", "paths", "log")

#: What a reload puts in force. ``cluster.etcd`` is credentials; ``cluster.profile`` means nothing but its hold;
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

#: What a daemon keeps until it is started again.
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
    """The keys of ``new`` that differ and that a daemon with the settings ``running`` does not take up."""
    return tuple(key for key in NEEDS_RESTART if _value(running, key) != _value(new, key))


def taken_up(running: Settings, new: Settings) -> Settings:
    """The settings of a daemon after a reload: ``new``, but with what needs a restart as it is in ``running``."""
    kept: dict[str, dict[str, object]] = {}
    for key in NEEDS_RESTART:
        section, _, name = key.partition(".")
        kept.setdefault(section, {})[name] = _value(running, key)
    sections = {section: msgspec.structs.replace(getattr(new, section), **fields) for section, fields in kept.items()}
    return msgspec.structs.replace(new, source=running.source, **sections)


def differences(running: Settings, new: Settings) -> tuple[str, ...]:
    """What a reload puts in force, in words; credentials say for themselves what was read anew."""
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
        # The cluster's are in the store: neither a reload nor a restart takes one away that somebody has set.
        changes.append("initial values of tunables changed: 'locum tunable set' changes those in force")
    return tuple(changes)


def _value(settings: Settings, key: str) -> object:
    section, _, name = key.partition(".")
    return getattr(getattr(settings, section), name)
