"""Cuts in one direction: a node that is heard but hears nothing, or that hears but is not heard.

Like a full cut (:mod:`locum_lab.network`), a nftables rule on the bridge: no carrier changes. The observer listens
where the cable enters the switch, so it still asks such a node, and hears it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from locum_lab import namespaces
from locum_lab.layout import Layout

#: ``mute``: packets from the port's node are dropped. ``deaf``: packets to it.
Way = Literal["mute", "deaf"]

# Loaded again before each change, without losing the sets' content.
_RULES = """
add table bridge lab_one_way
add set bridge lab_one_way mute { type ifname; }
add set bridge lab_one_way deaf { type ifname; }
add chain bridge lab_one_way forward { type filter hook forward priority 1; policy accept; }
flush chain bridge lab_one_way forward
add rule bridge lab_one_way forward iifname @mute drop
add rule bridge lab_one_way forward oifname @deaf drop
"""


def cut(layout: Layout, way: Way, ports: Sequence[str]) -> None:
    """Drop all frames in this direction through these ports, silently. Idempotent."""
    _change(layout, way, ("add",), ports)


def repair(layout: Layout, way: Way, ports: Sequence[str]) -> None:
    """Undo :func:`cut`. Idempotent."""
    # Only an element that is present can be deleted: add it first, in the same transaction.
    _change(layout, way, ("add", "delete"), ports)


def _change(layout: Layout, way: Way, verbs: Sequence[str], ports: Sequence[str]) -> None:
    elements = ", ".join(f'"{port}"' for port in ports)
    commands = "".join(f"{verb} element bridge lab_one_way {way} {{ {elements} }}\n" for verb in verbs)
    namespaces.run(["ip", "netns", "exec", layout.hub, "nft", "-f", "-"], _RULES + commands)
