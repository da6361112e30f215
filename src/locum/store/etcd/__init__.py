"""The store on etcd v3, through the JSON gateway that every etcd member serves on its client port.

Why the gateway: the asyncio clients for etcd's gRPC interface that are published today lack TLS with client
certificates, or more than one endpoint, or watches that resume; and gRPC's library alone is larger than Locum.

``messages``   what is said to the gateway and what its answers mean; pure.
``gateway``    one request to one endpoint: HTTP, TLS, tokens; tells "not carried out" from "nobody knows".
``endpoints``  which endpoint to use: health, order, fail-over.
``watch``      one watch over any number of streams.
``store``      the interface, from these.

Importing this package imports aiohttp, so it is done only when such a store is opened.
"""

from locum.store.etcd.store import EtcdStore

__all__ = ["EtcdStore"]
