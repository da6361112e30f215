"""Cuts that go one way: a node that is heard and hears nothing, or hears and is not heard.

As a cut both ways (:mod:`locum_lab.network`) it is an nftables rule on the bridge: no carrier changes. The observer,
who sits where the cable enters the switch, still asks such a node, and hears it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from locum_lab import namespaces
from locum_lab.layout import Layout

#: ``mute``: what the port's node sends is dropped. ``deaf``: what is sent to it.
Way = Literal["mute", "deaf"]

# Loaded again before each change, without losing what the sets have.
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
    """Drop everything that goes this way through these ports, in silence. Idempotent."""
    _change(layout, way, ("add",), ports)


def repair(layout: Layout, way: Way, ports: Sequence[str]) -> None:
    """Undo :func:`cut`. Idempotent."""
    # Only an element that is present can be deleted: add it first, in the same transaction.
    _change(layout, way, ("add", "delete"), ports)


def _change(layout: Layout, way: Way, verbs: Sequence[str], ports: Sequence[str]) -> None:
    elements = ", ".join(f'"{port}"' for port in ports)
    commands = "".join(f"{verb} element bridge lab_one_way {way} {{ {elements} }}\n" for verb in verbs)
    namespaces.run(["ip", "netns", "exec", layout.hub, "nft", "-f", "-"], _RULES + commands)
