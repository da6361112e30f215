"""A node's credentials for its store: TLS files and a password, read, checked and judged.

Rules of this file: it reads files, which can take as long as the file system likes, so callers with an event loop use
a thread. It opens no connection. :mod:`locum.store.etcd.renewal` decides when to read the files and which of two sets
to use.

Files are read once, as a whole, and everything else works on those bytes: the checked bytes are the used bytes, however
often a file is replaced meanwhile. There are three *parts*: the authority, the client's certificate with its key, and
the password. Each is judged separately, so that a missing key does not block a new authority.

The password is a :class:`Secret`, which is never displayed.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Final, NamedTuple, TypeVar

from locum.certificates import Certificate, NotACertificate, read_pem
from locum.errors import UsageError
from locum.store.credential_files import CredentialFiles

#: A certificate that ends within this time is worth a warning, in seconds: 30 days.
SOON: Final = 30 * 86400.0

#: Largest file of credentials, in bytes; a bundle of all public authorities has 0.2 MB.
_LARGEST: Final = 4 * 1024 * 1024

T = TypeVar("T")


class Secret:
    """A text that is never displayed: not by ``repr``, in a message, or in a dump of the object that has it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text."""
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(Secret)

    def __repr__(self) -> str:
        return "Secret(...)"


class Authority(NamedTuple):
    """Certificates of authorities, as PEM."""

    path: str
    pem: bytes
    certificates: tuple[Certificate, ...]

    @property
    def until(self) -> float:
        """The end of the longest validity: the file has two authorities while one replaces the other."""
        return max(certificate.until for certificate in self.certificates)

    def __repr__(self) -> str:
        return f"Authority({self.path!r})"


class Pair(NamedTuple):
    """A client's certificate (the first one of ``pem``) with its key."""

    path: str
    key_path: str
    pem: bytes
    key: bytes
    certificate: Certificate

    def valid(self, now: float) -> bool:
        """Whether ``now`` is within its validity."""
        return self.certificate.since <= now <= self.certificate.until

    def __repr__(self) -> str:
        return f"Pair({self.path!r})"


class Contents(NamedTuple):
    """The contents of the files. None: not configured."""

    authority: Authority | None = None
    pair: Pair | None = None
    password: Secret | None = None


class Look(NamedTuple):
    """One look at the files: each part, or the reason why it is unusable."""

    files: CredentialFiles
    authority: Authority | str | None
    pair: Pair | str | None
    password: Secret | str | None

    @property
    def problems(self) -> tuple[str, ...]:
        """The reasons of all unusable parts."""
        return tuple(part for part in (self.authority, self.pair, self.password) if isinstance(part, str))


#: Of each file: device, inode, size, and when content and inode last changed. None: it does not exist.
Stamp = tuple[tuple[int, int, int, int, int] | None, ...]


def stamp(files: CredentialFiles) -> Stamp:
    """The data that shows a change of a file; follows symbolic links. Blocks as long as the file system."""
    found: list[tuple[int, int, int, int, int] | None] = []
    for path in (files.ca, files.cert, files.key, files.password_file):
        try:
            status = os.stat(path) if path is not None else None
        except OSError:
            status = None
        found.append(
            None
            if status is None
            else (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        )
    return tuple(found)


def look(files: CredentialFiles) -> Look:
    """Read all files. Never raises. Blocks as long as the file system."""
    return Look(
        files,
        _part(read_authority, files.ca) if files.ca is not None else None,
        _part(read_pair, files.cert, files.key) if files.cert is not None and files.key is not None else None,
        _part(read_password, files.password_file) if files.password_file is not None else None,
    )


def _part(read: Callable[..., T], *paths: str) -> T | str:
    try:
        return read(*paths)
    except UsageError as error:
        return str(error)


def read_authority(path: str) -> Authority:
    """The authority's certificates. Raises UsageError with the file and the problem."""
    pem = _read("ca", path)
    try:
        with ExitStack() as stack:
            _context().load_verify_locations(cafile=_as_file(stack, pem))
        certificates = read_pem(pem)
    except (ssl.SSLError, NotACertificate) as error:
        raise UsageError(f"etcd: ca {path}: {_reason(error)}") from None
    if not certificates:
        raise UsageError(f"etcd: ca {path}: it contains no certificate")
    return Authority(path, pem, certificates)


def read_pair(path: str, key_path: str) -> Pair:
    """A certificate and its key. Raises UsageError with the files and the problem, such as a key of another
    certificate."""
    pem, key = _read("cert", path), _read("key", key_path)
    try:
        certificates = read_pem(pem)
    except NotACertificate as error:
        raise UsageError(f"etcd: cert {path}: {_reason(error)}") from None
    if not certificates:
        raise UsageError(f"etcd: cert {path}: it contains no certificate")
    try:
        with ExitStack() as stack:
            _context().load_cert_chain(_as_file(stack, pem), _as_file(stack, key), _no_passphrase)
    except ssl.SSLError as error:
        raise UsageError(f"etcd: cert {path} with key {key_path}: {_reason(error)}") from None
    except _Encrypted:
        raise UsageError(
            f"etcd: key {key_path}: it is encrypted, and a daemon cannot ask for a passphrase; store it without one"
        ) from None
    return Pair(path, key_path, pem, key, certificates[0])


def read_password(path: str) -> Secret:
    """The first line of a file. Raises UsageError with the file and the problem."""
    try:
        text = _read("password_file", path).split(b"\n", 1)[0].rstrip(b"\r").decode("utf-8")
    except UnicodeDecodeError:
        # The exception contains the bytes; the message must not.
        raise UsageError(f"etcd: password_file {path}: its first line is not UTF-8") from None
    if not text:
        raise UsageError(f"etcd: password_file {path}: its first line is empty")
    return Secret(text)


def context_of(contents: Contents) -> ssl.SSLContext:
    """TLS settings from ``contents``; without an authority, the system's authorities.

    Raises ssl.SSLError or OSError.
    """
    with ExitStack() as stack:
        cafile = _as_file(stack, contents.authority.pem) if contents.authority is not None else None
        context = ssl.create_default_context(cafile=cafile)
        if contents.pair is not None:
            pair = contents.pair
            context.load_cert_chain(_as_file(stack, pair.pem), _as_file(stack, pair.key), _no_passphrase)
    return context


# -- judging ---------------------------------------------------------------------------------------------------------


def merge(last: Contents | None, seen: Look, now: float) -> tuple[Contents | None, tuple[str, ...]]:
    """The contents to use after a look at the files, and the problems in words. ``now`` in unix seconds.

    A bad part stays as it last was good; so does a certificate when the new one is outside its validity and the last
    one is not. The contents are None when a part has never been good.
    """
    problems: list[str] = []

    def chosen(part: T | str | None, before: T | None) -> T | str | None:
        if isinstance(part, str):
            problems.append(f"{part}{'; the last good one stays in use' if before is not None else ''}")
            return before if before is not None else part
        return part

    authority = chosen(seen.authority, last.authority if last is not None else None)
    pair = chosen(seen.pair, last.pair if last is not None else None)
    password = chosen(seen.password, last.password if last is not None else None)
    if isinstance(authority, str) or isinstance(pair, str) or isinstance(password, str):
        return None, tuple(problems)
    before = last.pair if last is not None else None
    if pair is not None and before is not None and not pair.valid(now) and before.valid(now):
        word = "has ended" if pair.certificate.until < now else "is not valid yet"
        problems.append(f"etcd: cert {pair.path} {word}; the last good one stays in use")
        pair = before
    return Contents(authority, pair, password), tuple(problems)


def endings(contents: Contents, now: float) -> tuple[str, ...]:
    """Warnings about certificates that end soon or have ended. The texts change only on certain days, not each time."""
    found = []
    if contents.pair is not None:
        found.append(_ending("client certificate", contents.pair.path, contents.pair.certificate.until, now))
        if contents.pair.certificate.since > now:
            found.append(
                f"client certificate {contents.pair.path} is not valid before {_day(contents.pair.certificate.since)}"
                " (is the clock right?)"
            )
    if contents.authority is not None:
        found.append(_ending("etcd's authority", contents.authority.path, contents.authority.until, now))
    return tuple(text for text in found if text)


def described(old: Contents | None, new: Contents) -> tuple[str, ...]:
    """The differences of ``new`` from ``old``, in words."""
    before = old if old is not None else Contents()
    found = []
    if new.authority != before.authority:
        found.append(
            f"etcd's authority {new.authority.path} (valid until {_day(new.authority.until)})"
            if new.authority is not None
            else "etcd's authority: those of the system"
        )
    if new.pair != before.pair:
        found.append(
            f"client certificate {new.pair.path} (valid until {_day(new.pair.certificate.until)})"
            if new.pair is not None
            else "no client certificate"
        )
    if new.password != before.password:
        found.append("the password for etcd" if new.password is not None else "no password for etcd")
    return tuple(found)


def ended(contents: Contents, now: float) -> bool:
    """Whether a certificate in use is outside its validity."""
    late = contents.authority is not None and contents.authority.until < now
    return late or (contents.pair is not None and not contents.pair.valid(now))


def _ending(what: str, path: str, until: float, now: float) -> str:
    if until < now:
        return f"{what} {path} ended on {_day(until)}: renew it"
    if until < now + SOON:
        return f"{what} {path} ends on {_day(until)}: renew it"
    return ""


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


# -- files -----------------------------------------------------------------------------------------------------------


class _Encrypted(Exception):
    """A key needs a passphrase."""


def _no_passphrase() -> str:
    # By default OpenSSL asks at the terminal, and waits.
    raise _Encrypted


def _context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _read(what: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise UsageError(f"etcd: {what} {path}: {_reason(error)}") from None
    if len(data) > _LARGEST:
        raise UsageError(f"etcd: {what} {path}: larger than {_LARGEST} bytes")
    return data


def _as_file(stack: ExitStack, data: bytes) -> str:
    """A path at which OpenSSL finds ``data``: it takes certificates from files only. The data never reaches a disk."""
    handle = os.memfd_create("locum-tls", os.MFD_CLOEXEC)
    stack.callback(os.close, handle)
    with os.fdopen(os.dup(handle), "wb") as file:
        file.write(data)
    return f"/proc/self/fd/{handle}"


def _reason(error: Exception) -> str:
    match error:
        case ssl.SSLError(reason="KEY_VALUES_MISMATCH"):
            return "the key belongs to another certificate"
        case ssl.SSLError(reason="NO_CERTIFICATE_OR_CRL_FOUND"):
            return "it contains no certificate"
        case ssl.SSLError():
            return f"not usable PEM ({error.reason or 'OpenSSL cannot read it'})"
        case OSError() if error.strerror:
            return error.strerror.lower()
        case _:
            return str(error)
