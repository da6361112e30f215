"""Determine whether addresses have moved, even on a node that took and released none.

This file compares the daemon's view of the cluster (``status`` of the control socket) with its own notes.

A lock exists in the server that granted it. It is lost when its address gets another holder, or the same node in
another *incarnation*: a node that returned has the same name but does not know its former locks. A holder is therefore
a node and its incarnation.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

#: Address → "node incarnation" that holds it.
Holders = dict[str, str]


def holders(status: Mapping[str, Any]) -> Holders:
    """The holders of all addresses, from the daemon's status report."""
    incarnations = {node["name"]: node.get("incarnation") or "" for node in status.get("nodes", ())}
    return {
        item["address"]: f"{item['node']} {incarnations.get(item['node'], '')}"
        for item in status.get("addresses", ())
        if item.get("node")
    }


def will_move(status: Mapping[str, Any], noted: Holders | None) -> list[str]:
    """The addresses whose locks the present plan makes void: those that get another holder or none, and those whose
    holder differs from the one ``noted`` when all was settled last."""
    now = holders(status)
    found = []
    for item in status.get("addresses", ()):
        address, holder, assigned = item["address"], item.get("node"), item.get("assigned")
        lost = noted is not None and noted.get(address) != now.get(address)
        if holder != assigned or lost:
            found.append(address)
    return found


def lost(status: Mapping[str, Any], noted: Holders | None, node: str) -> list[str]:
    """The addresses that ``node`` held when all was settled last, in an earlier incarnation. Its hold ended: the
    addresses were taken from it without ``releaseip``, and its server may still have their locks."""
    present = {item["name"]: item.get("incarnation") or "" for item in status.get("nodes", ())}.get(node, "")
    return [
        a for a, holder in (noted or {}).items() if holder.split(" ", 1)[0] == node and holder != f"{node} {present}"
    ]


def former_holders(status: Mapping[str, Any], noted: Holders | None, node: str) -> list[str]:
    """The nodes whose clients come to ``node`` with the present plan: the holders of the addresses that it gets, now
    and when all was settled last. All other nodes, where neither is known."""
    now = holders(status)
    found: set[str] = set()
    for item in status.get("addresses", ()):
        if item.get("assigned") != node or item.get("node") == node:
            continue
        known = {
            held.split(" ", 1)[0] for held in (now.get(item["address"]), (noted or {}).get(item["address"])) if held
        }
        found |= known or {other["name"] for other in status.get("nodes", ())} - {node}
    return sorted(found)


def previous_holders(noted: Holders | None, addresses: Iterable[str], node: str) -> list[str]:
    """The other nodes that held ``addresses``, which have come to ``node``, when all was settled last."""
    found = {held.split(" ", 1)[0] for address in addresses if (held := (noted or {}).get(address))}
    return sorted(found - {node})


class Notes:
    """The notes of a script between events, as files below its state directory ``path``."""

    def __init__(self, path: str) -> None:
        self._path = path

    def took(self, address: str) -> None:
        """``address`` came to this node."""
        self._write("taken", address)

    def released(self, address: str) -> None:
        """``address`` left this node."""
        self._write("released", address)
        self._remove("taken", address)

    def taken(self) -> list[str]:
        """Addresses that came since :meth:`settle` and are still here."""
        return self._names("taken")

    def changed(self) -> bool:
        """Whether any address came or left since."""
        return bool(self._names("taken") or self._names("released"))

    def expect(self, nodes: Iterable[str]) -> None:
        """Note that clients of ``nodes`` are about to come."""
        for node in nodes:
            self._write("expected", node)

    def expected(self) -> list[str]:
        """Return those nodes, once."""
        found = self._names("expected")
        for node in found:
            self._remove("expected", node)
        return found

    def begun(self) -> None:
        """Grace has begun for a coming change."""
        self._write("", "grace")

    def has_begun(self) -> bool:
        """Whether it has, since :meth:`settle`."""
        return os.path.exists(os.path.join(self._path, "grace"))

    def entered(self) -> None:
        """The lock manager of this node was in its grace period then."""
        self._write("", "entered")

    def has_entered(self) -> bool:
        """Whether it was, since :meth:`settle`."""
        return os.path.exists(os.path.join(self._path, "entered"))

    def dropped(self) -> None:
        """The lock manager of this node has been restarted: locks of addresses that stayed here are lost as well."""
        self._write("", "dropped")

    def has_dropped(self) -> bool:
        """Whether it has, since :meth:`settle`."""
        return os.path.exists(os.path.join(self._path, "dropped"))

    def serves(self, life: str) -> None:
        """Note the present life of the server (:meth:`locum.nfs.backends.base.Backend.life`)."""
        with open(os.path.join(self._path, "life"), "w", encoding="utf-8") as file:
            file.write(life)

    def served(self) -> str:
        """The life noted last; "" without one."""
        try:
            with open(os.path.join(self._path, "life"), encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def settled(self) -> Holders | None:
        """The holders when all was settled last; None before the first time."""
        try:
            with open(os.path.join(self._path, "holders.json"), encoding="utf-8") as file:
                value = json.load(file)
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def settle(self, now: Holders) -> None:
        """Note that all is settled: the next change is compared with ``now``."""
        temporary = os.path.join(self._path, "holders.json.new")
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(now, file)
        os.replace(temporary, os.path.join(self._path, "holders.json"))
        self._clear()

    def forget(self) -> None:
        """Discard the notes of an earlier life."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._path, "holders.json"))
        self._clear()

    def _clear(self) -> None:
        for kind in ("taken", "released", "expected"):
            for name in self._names(kind):
                self._remove(kind, name)
        for name in ("grace", "entered", "dropped"):
            self._remove("", name)

    def _names(self, kind: str) -> list[str]:
        try:
            return sorted(os.listdir(os.path.join(self._path, kind)))
        except FileNotFoundError:
            return []

    def _write(self, kind: str, name: str) -> None:
        if "/" in name or name.startswith("."):
            raise ValueError(f"{name!r} is neither an address nor the name of a node")
        directory = os.path.join(self._path, kind)
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, name), "w", encoding="ascii"):
            pass

    def _remove(self, kind: str, name: str) -> None:
        try:
            os.unlink(os.path.join(self._path, kind, name))
        except FileNotFoundError:
            pass
