"""The files of one node of a lab: configuration, public addresses, event scripts.

Each node has its own copies, so that a script can fail on one node alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from locum.errors import LocumError
from locum_lab import services
from locum_lab.layout import Layout

#: Shipped scripts that every node runs.
SHIPPED = ("00.locum", "10.interface")


def write(
    layout: Layout,
    directory: Path,
    node: str,
    *,
    store_url: str,
    settings: str,
    scripts: Mapping[Path, services.Settings] | None,
) -> None:
    """Write everything below ``directory`` that the node's daemon reads.

    ``settings`` is TOML, appended to the configuration; ``scripts``: event scripts of services and their settings; None
    leaves the script directory empty.
    """
    for name in ("runtime", "state", "events"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    (directory / "public_addresses").write_text(public_addresses(layout))
    lines = [
        "[node]",
        f"name = {json.dumps(node)}",
        *place_in_cluster(layout, node, store_url),
        "",
        "[paths]",
        *(f"{key} = {json.dumps(str(directory / key))}" for key in ("runtime", "state", "events", "public_addresses")),
        "",
        *(line for script, values in (scripts or {}).items() for line in _table(script.name, values)),
        settings,
    ]
    (directory / "config.toml").write_text("\n".join(lines) + "\n")
    if scripts is not None:
        for source in (*map(services.shipped, SHIPPED), *scripts):
            install(source, directory / "events")


def public_addresses(layout: Layout) -> str:
    """The file of public addresses, which every node has."""
    interfaces = ",".join(layout.public_interfaces)
    return "".join(f"{public.address}/{public.bits} {interfaces}\n" for public in layout.public_addresses)


def place_in_cluster(layout: Layout, node: str, store_url: str) -> list[str]:
    """The lines of a node's configuration from its number to the cluster's hold, for use below ``[node]``."""
    return [
        f"number = {layout.number(node)}",
        f"private_address = {json.dumps(layout.private_address(node))}",
        "",
        "[cluster]",
        f"name = {json.dumps(layout.name)}",
        f"store = {json.dumps(store_url)}",
        f"hold = {layout.hold:g}",
    ]


def install(source: Path, events: Path) -> None:
    """Copy an event script into a node's directory, executable and writable by its owner alone."""
    target = events / source.name
    if not source.is_file():
        raise LocumError(f"event script {source} is missing; is this a complete checkout of Locum?")
    shutil.copyfile(source, target)
    target.chmod(0o755)


def _table(script: str, settings: services.Settings) -> list[str]:
    """The lines of a script's settings. Text, numbers, truth values and lists are the same in JSON and in TOML."""
    values = (f"{key} = {json.dumps(value)}" for key, value in settings.items())
    return [f'[scripts."{script}"]', *values, ""]
