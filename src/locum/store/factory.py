"""From a store's location to a store.

Rules of this file: each engine is imported only when it is opened. What a location looks like is
:mod:`locum.store.location`'s.
"""

from __future__ import annotations

import msgspec

from locum.errors import UsageError
from locum.store.base import Store
from locum.store.credential_files import CredentialFiles
from locum.store.location import FORMS, NotAStore, StoreUrl, parse_store_url


class EtcdOptions(CredentialFiles, frozen=True):
    """What an etcd store needs besides its endpoints.

    ``prefix`` goes before every key, so that several clusters and other programs can share one etcd.

    Times in seconds. ``timeout`` bounds a call, ``attempt_timeout`` one request to one endpoint, ``connect_timeout``
    the making of a connection for it (with TLS): a first packet that is lost is only repeated after a second, so a new
    connection is worth more than patience once the network is back. An endpoint that
    has not answered for ``suspect_after`` is passed over by what comes next, while its answer is still waited for.
    ``watch_idle``: a watch without news for so long is tried elsewhere, too. ``probe_interval``: between two looks at
    an endpoint that is not in use.
    """

    prefix: str = "/locum/"
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
    def files(self) -> CredentialFiles:
        """Where the credentials are."""
        return CredentialFiles(self.ca, self.cert, self.key, self.user, self.password_file, self.allow_plain_password)


def open_store(location: str | StoreUrl, *, timeout: float = 5.0, etcd: EtcdOptions | None = None) -> Store:
    """The store at ``location``. ``timeout`` in seconds bounds calls to a ``unix:`` store; etcd has its options.

    Connections are made when first needed; a file is opened at once. Raises UsageError, PermissionRequired,
    StoreCorrupt or StoreError.
    """
    try:
        where = parse_store_url(location) if isinstance(location, str) else location
    except NotAStore as error:
        raise UsageError(f"store {location!r}: {error}; possible are {FORMS}") from None
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
