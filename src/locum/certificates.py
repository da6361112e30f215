"""Certificates: their validity, and whether their subject has a common name.

Rules of this file: bytes in, values out; no files, no TLS. It reads only the fields that Locum shows (X.509 in DER: RFC
5280 4.1, X.690); OpenSSL decides whether a certificate is trusted. Python's ``ssl`` reads the dates only of
certificates that may sign others (``SSLContext.get_ca_certs``), or of the other end of a connection.
"""

from __future__ import annotations

import binascii
import re
from datetime import UTC, datetime
from typing import Final, NamedTuple

#: "TRUSTED CERTIFICATE" is OpenSSL's own form, with its settings behind the certificate.
_BLOCK: Final = re.compile(
    rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----(.*?)-----END (?:X509 |TRUSTED )?CERTIFICATE-----", re.DOTALL
)

_SEQUENCE: Final = 0x30
_INTEGER: Final = 0x02
_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17
_GENERALIZED_TIME: Final = 0x18
#: id-at-commonName, 2.5.4.3, as encoded in a name.
_COMMON_NAME: Final = bytes([0x06, 3, 0x55, 0x04, 0x03])


class Certificate(NamedTuple):
    """One certificate. Times in unix seconds; it is valid from ``since`` until ``until``, both included."""

    since: float
    until: float
    #: Whether its subject has a common name (CN).
    common_name: bool


class NotACertificate(ValueError):
    """Bytes that are not an X.509 certificate."""


def read_pem(data: bytes) -> tuple[Certificate, ...]:
    """The certificates of a PEM file, in its order. Raises NotACertificate for one that cannot be read."""
    found = []
    for block in _BLOCK.findall(data):
        try:
            found.append(read_der(binascii.a2b_base64(block)))
        except binascii.Error as error:
            raise NotACertificate(f"not base64: {error}") from None
    return tuple(found)


def read_der(data: bytes) -> Certificate:
    """The certificate in ``data``; anything after it is ignored. Raises NotACertificate."""
    certificate = _Reader(_Reader(data).take(_SEQUENCE))
    to_be_signed = _Reader(certificate.take(_SEQUENCE))
    if to_be_signed.tag() == _VERSION:
        to_be_signed.take(_VERSION)
    to_be_signed.take(_INTEGER)
    for _ in ("signature", "issuer"):
        to_be_signed.take(_SEQUENCE)
    validity = _Reader(to_be_signed.take(_SEQUENCE))
    since, until = validity.time(), validity.time()
    subject = to_be_signed.take(_SEQUENCE)
    return Certificate(since, until, _COMMON_NAME in subject)


class _Reader:
    """The elements of DER, one after the other (X.690 8.1, 10.1)."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def tag(self) -> int:
        """The next element's tag."""
        return self._byte(self._at)

    def take(self, tag: int) -> bytes:
        """The content of the next element, whose tag must be ``tag``."""
        found, content = self._next()
        if found != tag:
            raise NotACertificate(f"tag {found:#x} where {tag:#x} belongs")
        return content

    def time(self) -> float:
        """The next element, a time (RFC 5280 4.1.2.5): UTCTime means years from 1950 to 2049."""
        tag, content = self._next()
        text = content.decode("ascii", "replace")
        if tag == _UTC_TIME:
            text = ("19" if text[:2] >= "50" else "20") + text
        elif tag != _GENERALIZED_TIME:
            raise NotACertificate(f"tag {tag:#x} where a time belongs")
        if not re.fullmatch(r"\d{14}Z", text, re.ASCII):
            raise NotACertificate(f"{text!r} is not a time")
        try:
            return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
        except ValueError:
            raise NotACertificate(f"{text!r} is not a time") from None

    def _next(self) -> tuple[int, bytes]:
        tag, length, at = self._byte(self._at), self._byte(self._at + 1), self._at + 2
        if length & 0x80:
            count = length & 0x7F
            length = int.from_bytes(self._data[at : at + count], "big")
            at += count
        if at + length > len(self._data):
            raise NotACertificate("it ends too early")
        self._at = at + length
        return tag, self._data[at : self._at]

    def _byte(self, place: int) -> int:
        if place >= len(self._data):
            raise NotACertificate("it ends too early")
        return self._data[place]
