"""A script's environment: settings, directories, addresses.

This file only reads the environment described in ``docs/events.md``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from locum.script.failure import Fail


class PublicAddress(NamedTuple):
    """A public address that this node serves now."""

    address: str
    bits: int
    interface: str


def settings() -> dict[str, Any]:
    """The script's table in the configuration (``[scripts."50.web"]``), values typed as in TOML; empty when it is
    missing. When the script is started by hand, the table comes from LOCUM_SETTING_* variables, all of them text."""
    import json  # noqa: PLC0415

    text = os.environ.get("LOCUM_SETTINGS")
    if text is not None:
        try:
            value = json.loads(text)
        except ValueError:
            raise Fail("LOCUM_SETTINGS is not JSON") from None
        if isinstance(value, dict):
            return value
    prefix = "LOCUM_SETTING_"
    return {key[len(prefix) :].lower(): value for key, value in os.environ.items() if key.startswith(prefix)}


def setting_list(setting: str, default: Sequence[str] = ()) -> list[str]:
    """A setting as a list of words; it is a list, or text separated by spaces or commas."""
    value = settings().get(setting)
    if value is None:
        return list(default)
    if isinstance(value, list | tuple):
        return [str(item) for item in value]
    return str(value).replace(",", " ").split()


def script_name() -> str:
    """The script's name, ``50.web``."""
    return required("LOCUM_SCRIPT")


def node_name() -> str:
    """The name of this node."""
    return required("LOCUM_NODE")


def state_dir() -> str:
    """The script's own directory. It exists, survives events and restarts of services and of the daemon's processes,
    and is emptied when the node starts (``00.locum``, event ``init``)."""
    path = required("LOCUM_SCRIPT_STATE")
    os.makedirs(path, exist_ok=True)
    return path


def interfaces() -> list[str]:
    """The interfaces that this node's configuration names for public addresses."""
    return [name for name in os.environ.get("LOCUM_INTERFACES", "").split(",") if name]


def public_addresses() -> list[PublicAddress]:
    """The public addresses that this node serves now; empty without a daemon."""
    found = []
    for item in os.environ.get("LOCUM_ADDRESSES", "").split(","):
        if item:
            address, _, interface = item.partition("@")
            host, _, bits = address.partition("/")
            found.append(PublicAddress(host, int(bits or (128 if ":" in host else 32)), interface))
    return found


def required(variable: str) -> str:
    """The value of an environment variable that every script has. Raises Fail with the remedy when it is missing."""
    value = os.environ.get(variable)
    if not value:
        raise Fail(f"{variable} is not set: try the script with 'locum event run --dir DIRECTORY EVENT'")
    return value


def log(*words: object) -> None:
    """Write a line of output. It is kept with the script's result, and shown by ``locum event status``."""
    print(*words, flush=True)
