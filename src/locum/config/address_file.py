"""The file of public addresses: one ``ADDRESS/BITS IFACE[,IFACE...]`` per line, ``#`` begins a comment.

The form is that of CTDB's ``public_addresses`` file (ctdb(7), "IP ADDRESSES"). Rules of this file: text in, values
and problems out; it does not open the file.
"""

from __future__ import annotations

from locum.config.model import PublicAddress
from locum.config.values import ADDRESS_FORM, BadValue, interface, public_address

#: The form of a line, for messages.
LINE_FORM = f"{ADDRESS_FORM} IFACE[,IFACE...]"


def parse_lines(text: str) -> tuple[list[tuple[int, PublicAddress]], list[tuple[int, str]]]:
    """The addresses of ``text`` and the problems found, each with its line (from 1)."""
    found: list[tuple[int, PublicAddress]] = []
    problems: list[tuple[int, str]] = []
    for line, raw in enumerate(text.split("\n"), start=1):
        words = raw.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2:
            missing = "no interface" if len(words) == 1 else f"{len(words)} words"
            problems.append((line, f"found {missing} in {' '.join(words)!r}; expected {LINE_FORM}"))
            continue
        try:
            address, bits = public_address(words[0])
        except BadValue as error:
            problems.append((line, f"found {words[0]!r}; expected {error}"))
            continue
        try:
            interfaces = interface_list(words[1].split(","))
        except BadValue as error:
            problems.append((line, f"found {words[1]!r}; expected {error}"))
            continue
        found.append((line, PublicAddress(address=address, bits=bits, interfaces=interfaces)))
    return found, problems


def interface_list(names: list[str]) -> tuple[str, ...]:
    """Parse interfaces in order of preference: at least one, without duplicates. Raises :class:`BadValue`."""
    checked = tuple(interface(name) for name in names)
    if not checked:
        raise BadValue("at least one interface")
    if len(set(checked)) != len(checked):
        raise BadValue("each interface once")
    return checked
