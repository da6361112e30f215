"""The canonical forms of hosts' addresses and names; input is converted where it enters.

Rules of this file: text in, text out; no look-ups. Everything that Locum compares, keeps in the store, or uses as part
of a key, a file's name or a command passes through here: from configuration, command line, other nodes, clients and
the kernel alike.

An address is text that inet_pton(3) accepts: four decimal numbers without leading zeros (RFC 6943, section 3.1.1), or
an IPv6 address (RFC 4291, section 2.2) without a zone. Forms that only inet_aton(3) accepts (``4711``, ``10.1``,
``0x7f.1``, ``010.0.0.1``) are rejected, because programs disagree about them. The canonical form is that of
inet_ntop(3), which the kernel uses; an IPv4 address that is mapped into IPv6 becomes the IPv4 address.
"""

from __future__ import annotations

# The module socket imports much that a command for the configuration alone does not need.
import _socket as socket

_MAPPED = bytes(10) + b"\xff\xff"
#: RFC 1035, section 2.3.4, without the root's label.
_LONGEST_NAME, _LONGEST_LABEL = 253, 63
#: RFC 1123 does not allow underscores, but many host names have them.
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")


def address(text: str) -> str:
    """The canonical form of an IPv4 or IPv6 address. Raises ValueError."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        return of_bytes(socket.inet_pton(family, text))
    except (OSError, ValueError):
        raise ValueError(f"{text!r} is not an IPv4 or IPv6 address") from None


def of_bytes(raw: bytes) -> str:
    """The address of 4 or 16 bytes in network order."""
    if len(raw) == 16 and raw[:12] == _MAPPED:
        raw = raw[12:]
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)


def is_address(text: str) -> bool:
    """Whether :func:`address` reads ``text``."""
    try:
        address(text)
    except ValueError:
        return False
    return True


def name(text: str) -> str:
    """The canonical form of a host's name: lower case, no final dot, and other scripts' letters in IDNA form
    (RFC 3490). Raises ValueError."""
    plain = text.lower()
    if not text.isascii() and len(text) <= _LONGEST_NAME:
        try:
            plain = text.encode("idna").decode("ascii").lower()
        except UnicodeError:
            raise ValueError(f"{text!r} is not the name of a host") from None
    plain = plain.removesuffix(".")
    labels = plain.split(".")
    if len(plain) > _LONGEST_NAME or not all(
        0 < len(label) <= _LONGEST_LABEL and label[0] != "-" and _LETTERS.issuperset(label) for label in labels
    ):
        raise ValueError(f"{text!r} is not the name of a host")
    return plain


def host(text: str) -> str:
    """The canonical form of an address or a name. Raises ValueError."""
    return address(text) if ":" in text or is_address(text) else name(text)


def host_or_empty(text: str) -> str:
    """As :func:`host`; "" when ``text`` is neither an address nor a name."""
    try:
        return host(text)
    except ValueError:
        return ""


def is_number(text: str) -> bool:
    """Whether resolvers would misread a name as an address (inet_aton(3)): ``4711``, ``10.1``, ``0x7f.1``."""
    try:
        socket.inet_aton(text)
    except (OSError, ValueError):
        return False
    return not is_address(text)
