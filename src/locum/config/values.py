"""Checks of single values: names, addresses, paths, a store's location.

Rules of this file: each function gets the written text, and returns the value in its one canonical form or raises
:class:`BadValue` with the expected form. It knows neither files nor the machine.
"""

from __future__ import annotations

import ipaddress
import string

from locum import hosts
from locum.store.location import FORMS, MAX_SOCKET_PATH, NotAStore, StoreUrl, parse_store_url

#: IFNAMSIZ is 16 with the final NUL (netdevice(7)).
MAX_INTERFACE_NAME = 15

ADDRESS_FORM = "ADDRESS/BITS"
STORE_FORMS = FORMS

_NAME_EXTRA = frozenset("-_.")


class BadValue(Exception):
    """A value is wrong; the text names the expected form."""


def name(text: str) -> str:
    """A node's or the cluster's name: it is part of keys in the store and of file names."""
    if not _is_name(text, 63) or text[0] in _NAME_EXTRA:
        raise BadValue("1 to 63 letters, digits, '-', '_' or '.', beginning with a letter or digit")
    return text


def names(texts: list[str]) -> tuple[str, ...]:
    """Names of clusters."""
    return tuple(name(text) for text in texts)


def hardware_addresses(texts: list[str]) -> tuple[str, ...]:
    """Hardware addresses of Ethernet, in lower case."""
    for text in texts:
        parts = text.split(":")
        if len(parts) != 6 or any(len(part) != 2 or set(part) - set(string.hexdigits) for part in parts):
            raise BadValue("hardware addresses, aa:bb:cc:dd:ee:ff")
    return tuple(text.lower() for text in texts)


def script_name(text: str) -> str:
    """The name of an event script as the directory has it, without ``.script``."""
    good = len(text) > 3 and text[:2].isascii() and text[:2].isdigit() and text[2] == "." and _is_name(text[3:], 250)
    if not good or text.endswith((".script", "~")):
        raise BadValue("the name of an event script, NN.name, without '.script'")
    return text


def setting_name(text: str) -> str:
    """The name of an event script's setting: scripts get it as an environment variable as well."""
    if not (text.isascii() and text[:1].isalpha() and text.replace("-", "_").isidentifier()):
        raise BadValue("a name of letters, digits, '-' and '_' that begins with a letter")
    return text


def interface(text: str) -> str:
    """A network interface's name, by the kernel's rules (dev_valid_name)."""
    # The kernel takes quotes and control characters as well; in the packet filter's rules they would end the name.
    bad = any(character in '/:"\\*' or character.isspace() or not character.isprintable() for character in text)
    if not text or bad or text in (".", "..") or len(text.encode()) > MAX_INTERFACE_NAME:
        raise BadValue(f"the name of a network interface (1 to {MAX_INTERFACE_NAME} printable characters)")
    return text


def group(text: str) -> str:
    """A group's name or number."""
    if not _is_name(text, 32):
        raise BadValue("the name or the number of a group")
    return text


def absolute_path(text: str) -> str:
    """An absolute path, without a trailing slash."""
    if not text.startswith("/") or "\0" in text:
        raise BadValue("an absolute path")
    return text.rstrip("/") or "/"


def socket_path(text: str) -> str:
    """An absolute path that fits in a Unix socket's address."""
    path = absolute_path(text)
    if len(path.encode()) > MAX_SOCKET_PATH:
        raise BadValue(f"a socket's path of at most {MAX_SOCKET_PATH} bytes (this one has {len(path.encode())})")
    return path


def plain_address(text: str) -> str:
    """One host's IPv4 or IPv6 address, canonical."""
    return hosts.of_bytes(_address(text).packed)


def public_address(text: str) -> tuple[str, int]:
    """``ADDRESS/BITS`` of a public address: the canonical address and the bits."""
    before, slash, after = text.partition("/")
    if not slash:
        raise BadValue(f"{ADDRESS_FORM}, the length of the subnet's prefix included")
    address = _address(before)
    most = address.max_prefixlen
    if not (after.isascii() and after.isdigit() and len(after) <= 3 and 1 <= int(after) <= most):
        raise BadValue(f"bits from 1 to {most} after '/' (IPv{address.version})")
    bits = int(after)
    network = ipaddress.ip_network((address, bits), strict=False)
    # RFC 3021: both addresses of a /31 are hosts. RFC 6164 says the same of a /127, where RFC 4291 2.6.1 would
    # otherwise make the first one the subnet's routers'.
    if bits < most - 1:
        if address == network.network_address:
            raise BadValue(f"an address of a host; this is the subnet {network} itself")
        if address.version == 4 and address == network.broadcast_address:
            raise BadValue(f"an address of a host; this is the broadcast address of {network}")
    return hosts.of_bytes(address.packed), bits


def store_location(text: str) -> StoreUrl:
    """``cluster.store``."""
    try:
        return parse_store_url(text)
    except NotAStore as error:
        raise BadValue(f"{STORE_FORMS} ({error})") from None


def _is_name(text: str, longest: int) -> bool:
    if not 1 <= len(text) <= longest or not text.isascii():
        return False
    return all(character.isalnum() or character in _NAME_EXTRA for character in text)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address that a host can have, and that means the same host on every node."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise BadValue("an IPv4 or IPv6 address") from None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            raise BadValue("an address without a zone ('%...'): a zone means something on one host only")
        if address.ipv4_mapped is not None:
            raise BadValue(f"a real IPv6 address, or the IPv4 address {address.ipv4_mapped} that this one maps")
        if address.is_link_local:
            raise BadValue("an address that clients can route to; this one is link-local")
    if address.is_multicast or address.is_unspecified or address.is_loopback or str(address) == "255.255.255.255":
        raise BadValue("the address of a host; this one is unspecified, loopback, multicast or broadcast")
    if address.version == 6 and int(address) >> 32 == 0:
        raise BadValue("a real IPv6 address; ::/96 has none any more (RFC 4291 2.5.5.1)")
    if address.version == 4 and int(address) >> 24 == 0:
        raise BadValue("the address of a host; 0.0.0.0/8 has none (RFC 1122 3.2.1.3)")
    return address
