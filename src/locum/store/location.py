"""A store's URL, parsed and in its canonical form.

Rules of this file: pure. It looks at no file, opens nothing, and is light to import, because checks of a configuration
and the start of a command use it.

=======================================  =================================================================
URL                                      store
=======================================  =================================================================
``memory:``                              in one process; lost at its end
``sqlite:PATH``                          in one process, kept in the file PATH
``unix:PATH``                            served at the socket PATH by ``locum store``
``etcd://HOST:PORT[,HOST:PORT...]``      etcd v3; the port may be left out (2379)
=======================================  =================================================================
"""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec

from locum import hosts
from locum.errors import UsageError

#: etcd's port for clients.
ETCD_PORT: Final = 2379

#: sockaddr_un.sun_path holds 108 bytes with the final NUL (unix(7)).
MAX_SOCKET_PATH: Final = 107

#: The forms of a location, for messages.
FORMS: Final = "memory: | sqlite:PATH | unix:PATH | etcd://HOST:PORT,HOST:PORT"

_NAME: Final = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$")


class NotAStore(UsageError):
    """A text that is not a store's URL. The message has the problem, without the text."""


class StoreUrl(msgspec.Struct, frozen=True):
    """A parsed store URL.

    ``path`` belongs to ``sqlite`` and ``unix``; ``endpoints`` (``host:port``, an IPv6 host in brackets, in the
    order given) to ``etcd``.
    """

    kind: Literal["memory", "sqlite", "unix", "etcd"]
    path: str = ""
    endpoints: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"etcd://{','.join(self.endpoints)}" if self.kind == "etcd" else f"{self.kind}:{self.path}"


def parse_store_url(url: str) -> StoreUrl:
    """Parse ``url``. Raises :class:`NotAStore`. Pure: looks at no file."""
    kind, colon, rest = url.partition(":")
    if not colon or kind not in ("memory", "sqlite", "unix", "etcd"):
        raise NotAStore("unknown kind of store")
    if kind == "etcd":
        return StoreUrl("etcd", endpoints=_endpoints(rest))
    if kind == "memory":
        if rest:
            raise NotAStore("nothing may follow 'memory:'")
        return StoreUrl("memory")
    # unix:///run/x and unix:/run/x mean the same.
    path = rest[2:] if rest.startswith("///") else rest
    if not path.startswith("/") or path.startswith("//"):
        raise NotAStore(f"{kind}: needs an absolute path, such as {kind}:/var/lib/locum/store")
    if path.endswith("/") or "\0" in path:
        raise NotAStore(f"{path!r} is not the path of a file")
    if kind == "unix":
        length = len(path.encode(errors="surrogateescape"))
        if length > MAX_SOCKET_PATH:
            raise NotAStore(f"the socket's path is too long: {length} bytes, at most {MAX_SOCKET_PATH} are possible")
        return StoreUrl("unix", path)
    return StoreUrl("sqlite", path)


def _endpoints(rest: str) -> tuple[str, ...]:
    if not rest.startswith("//"):
        raise NotAStore("etcd is written etcd://HOST:PORT,HOST:PORT,...")
    listed = rest[2:].removesuffix("/")
    if "@" in listed:
        raise NotAStore("user and password are not allowed in the URL; use user and password_file")
    if any(character in listed for character in "/?#"):
        raise NotAStore("nothing may follow the endpoints")
    endpoints = tuple(_endpoint(part.strip()) for part in listed.split(","))
    for endpoint in endpoints:
        if endpoints.count(endpoint) > 1:
            raise NotAStore(f"duplicate endpoint {endpoint}")
    return endpoints


def _endpoint(text: str) -> str:
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = text, str(ETCD_PORT)
    if not port.isascii() or not port.isdecimal() or len(port) > 5 or not 0 < int(port) < 65536:
        raise NotAStore(f"{port!r} is not a port (endpoint {text!r}; expected HOST:PORT)")
    if host.startswith("["):
        try:
            address = hosts.address(host[1:-1] if host.endswith("]") and ":" in host else "")
            host = f"[{address}]" if ":" in address else address
        except ValueError:
            raise NotAStore(f"{host} is not an IPv6 address in brackets") from None
    elif hosts.is_number(host):
        raise NotAStore(f"{host!r} is not a host: programs read it as different addresses (endpoint {text!r})")
    elif not _NAME.match(host):
        raise NotAStore(f"{host!r} is not a host (endpoint {text!r}; IPv6 addresses go in brackets)")
    return f"{host.lower()}:{int(port)}"
