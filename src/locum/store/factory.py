"""From a store's URL to a store.

Rules of this file: :func:`parse_store_url` is pure, so that checking a configuration touches nothing; each
engine is imported only when it is opened.

=======================================  =================================================================
URL                                      store
=======================================  =================================================================
``memory:``                              in this process; gone with it
``sqlite:PATH``                          in this process, kept in the file PATH
``unix:PATH``                            served at the socket PATH by ``locum store``
``etcd://HOST:PORT[,HOST:PORT...]``      etcd v3; the port may be left out (2379)
=======================================  =================================================================
"""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec

from locum.errors import UsageError
from locum.store.base import Store
from locum.wire import PATH_LIMIT

#: etcd's port for clients.
ETCD_PORT: Final = 2379

_KINDS: Final = "memory:, sqlite:PATH, unix:PATH or etcd://HOST:PORT,HOST:PORT,..."
_NAME: Final = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$")


class StoreUrl(msgspec.Struct, frozen=True):
    """A store's URL, taken apart.

    ``path`` belongs to ``sqlite`` and ``unix``; ``endpoints`` (``host:port``, an IPv6 host in brackets, in the
    order given) to ``etcd``.
    """

    kind: Literal["memory", "sqlite", "unix", "etcd"]
    path: str = ""
    endpoints: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"etcd://{','.join(self.endpoints)}" if self.kind == "etcd" else f"{self.kind}:{self.path}"


class EtcdOptions(msgspec.Struct, frozen=True):
    """What an etcd store needs besides its endpoints.

    ``prefix`` goes before every key, so that several clusters and other programs can share one etcd. ``ca``,
    ``cert`` and ``key`` are PEM files; any of them turns TLS on. ``user`` goes with ``password_file`` (its first
    line).

    Times in seconds. ``timeout`` bounds a call, ``attempt_timeout`` one request to one endpoint, ``connect_timeout``
    the making of a connection for it (with TLS): a first packet that is lost is only repeated after a second, so a new
    connection is worth more than patience once the network is back. An endpoint that
    has not answered for ``suspect_after`` is passed over by what comes next, while its answer is still waited for.
    ``watch_idle``: a watch without news for so long is tried elsewhere, too. ``probe_interval``: between two looks at
    an endpoint that is not in use.
    """

    prefix: str = "/locum/"
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    user: str | None = None
    password_file: str | None = None
    timeout: float = 5.0
    attempt_timeout: float = 2.0
    connect_timeout: float = 2.0
    suspect_after: float = 0.2
    watch_idle: float = 0.8
    probe_interval: float = 1.0

    def paced(self, hold: float) -> EtcdOptions:
        """These options with times that suit a ``hold`` in seconds.

        A node beats five times per hold, at least every half second (:mod:`locum.cluster.hold`); an endpoint that
        hangs is to cost it one beat, and its watch is to be trusted again before observers give up on it.
        """
        interval = min(hold / 5, 0.5)
        return msgspec.structs.replace(
            self,
            attempt_timeout=max(hold, 1.0),
            connect_timeout=max(interval, 0.25),
            suspect_after=interval / 2,
            watch_idle=max(2 * interval, 0.1),
            probe_interval=max(interval, 0.2),
        )

    @property
    def tls(self) -> bool:
        """Whether the endpoints are spoken to over TLS."""
        return bool(self.ca or self.cert or self.key)


def parse_store_url(url: str) -> StoreUrl:
    """``url`` taken apart. Raises UsageError, saying what is wrong and what is possible. Pure: looks at no file."""
    kind, colon, rest = url.partition(":")
    if not colon or kind not in ("memory", "sqlite", "unix", "etcd"):
        raise UsageError(f"store {url!r}: not a store; possible are {_KINDS}")
    if kind == "etcd":
        return StoreUrl("etcd", endpoints=_endpoints(url, rest))
    if kind == "memory":
        if rest:
            raise UsageError(f"store {url!r}: nothing may follow 'memory:'")
        return StoreUrl("memory")
    # unix:///run/x and unix:/run/x mean the same.
    path = rest[2:] if rest.startswith("///") else rest
    if not path.startswith("/") or path.startswith("//"):
        raise UsageError(f"store {url!r}: {kind}: needs an absolute path, such as {kind}:/var/lib/locum/store")
    if path.endswith("/") or "\0" in path:
        raise UsageError(f"store {url!r}: {path!r} is not the path of a file")
    if kind == "unix":
        length = len(path.encode(errors="surrogateescape"))
        if length > PATH_LIMIT:
            raise UsageError(
                f"store {url!r}: the socket's path is too long: {length} bytes, at most {PATH_LIMIT} are possible"
            )
        return StoreUrl("unix", path)
    return StoreUrl("sqlite", path)


def _endpoints(url: str, rest: str) -> tuple[str, ...]:
    if not rest.startswith("//"):
        raise UsageError(f"store {url!r}: etcd is written etcd://HOST:PORT,HOST:PORT,...")
    listed = rest[2:].removesuffix("/")
    if "@" in listed:
        raise UsageError(f"store {url!r}: user and password do not belong into the URL; use user and password_file")
    if any(character in listed for character in "/?#"):
        raise UsageError(f"store {url!r}: nothing may follow the endpoints")
    endpoints = tuple(_endpoint(url, part) for part in listed.split(","))
    for endpoint in endpoints:
        if endpoints.count(endpoint) > 1:
            raise UsageError(f"store {url!r}: endpoint {endpoint} is there twice")
    return endpoints


def _endpoint(url: str, text: str) -> str:
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = text, str(ETCD_PORT)
    if not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"store {url!r}: {port!r} is not a port (endpoint {text!r}; expected HOST:PORT)")
    if host.startswith("["):
        # Needed only here; its import costs more than the rest of this file.
        import ipaddress  # noqa: PLC0415

        try:
            host = f"[{ipaddress.IPv6Address(host[1:-1] if host.endswith(']') else '')}]"
        except ValueError:
            raise UsageError(f"store {url!r}: {host} is not an IPv6 address in brackets") from None
    elif not _NAME.match(host):
        raise UsageError(f"store {url!r}: {host!r} is not a host (endpoint {text!r}; IPv6 addresses go in brackets)")
    return f"{host}:{int(port)}"


def open_store(location: str | StoreUrl, *, timeout: float = 5.0, etcd: EtcdOptions | None = None) -> Store:
    """The store at ``location``. ``timeout`` in seconds bounds calls to a ``unix:`` store; etcd has its options.

    Connections are made when first needed; a file is opened at once. Raises UsageError, PermissionRequired,
    StoreCorrupt or StoreError.
    """
    where = parse_store_url(location) if isinstance(location, str) else location
    match where.kind:
        case "memory":
            from locum.store.memory import MemoryStore  # noqa: PLC0415

            return MemoryStore()
        case "sqlite":
            from locum.store.sqlite import SqliteStore  # noqa: PLC0415

            return SqliteStore(where.path)
        case "unix":
            from locum.store.client import UnixStore  # noqa: PLC0415

            return UnixStore(where.path, timeout=timeout)
        case "etcd":
            try:
                from locum.store.etcd import EtcdStore  # noqa: PLC0415
            except ModuleNotFoundError as error:
                if error.name != "aiohttp":
                    raise
                raise UsageError(f"store {where}: the Python package aiohttp is needed for it; install it") from None

            return EtcdStore(where.endpoints, etcd)
