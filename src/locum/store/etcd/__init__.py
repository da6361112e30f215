"""The store on etcd v3, through the JSON gateway that every etcd member serves on its client port.

Why the gateway: the published asyncio clients for etcd's gRPC interface lack TLS with client certificates, or more than
one endpoint, or watches that resume; and gRPC's library alone is larger than Locum.

``messages``   the messages of the gateway and their meaning; pure.
``gateway``    one request to one endpoint: HTTP, TLS, tokens; distinguishes "not carried out" from "unknown".
``endpoints``  which endpoint to use: health, order, fail-over.
``watch``      one watch over any number of streams.
``store``      the interface, from these.

Importing this package imports aiohttp, so it is imported only when such a store is opened.
"""

from locum.store.etcd.store import EtcdStore

__all__ = ["EtcdStore"]
