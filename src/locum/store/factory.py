"""Opens the store at a location.

Rules of this file: each engine is imported only when it is opened. :mod:`locum.store.location` knows the form of a
location.
"""

from __future__ import annotations

from locum.errors import UsageError
from locum.store.base import Store
from locum.store.etcd_options import EtcdOptions
from locum.store.location import FORMS, NotAStore, StoreUrl, parse_store_url


def open_store(location: str | StoreUrl, *, timeout: float = 5.0, etcd: EtcdOptions | None = None) -> Store:
    """The store at ``location``. ``timeout`` in seconds bounds calls to a ``unix:`` store; etcd has its options.

    Connections are made when first needed; a file is opened at once. Raises UsageError, PermissionRequired,
    StoreCorrupt or StoreError.
    """
    try:
        where = parse_store_url(location) if isinstance(location, str) else location
    except NotAStore as error:
        raise UsageError(f"store {location!r}: {error}; expected {FORMS}") from None
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
                raise UsageError(f"store {where}: it needs the Python package aiohttp; install it") from None

            return EtcdStore(where.endpoints, etcd)
