"""The choice of an etcd endpoint.

Rules of this file: it knows endpoints' health and their order, and sends nothing but probes.

An endpoint is *up* when it answers a request or a probe. A probe is the cheapest linearizable read, so a member that is
cut off from the majority is not up. It is no longer up when a request or a probe fails, or takes so long that it is
suspected to hang. Endpoints that are up are used in the order of the configuration, so that an admin can put the
nearest first. A recovered endpoint is preferred again only after several answers, so that an unstable one is avoided.
When none is up, those that report the lack of a leader come first: they are alive, and will know the next leader before
a request to a dead one times out. Among equals, the one whose failure is the oldest comes first.

The endpoints must be members of one etcd cluster; otherwise two leaders of Locum could be elected. Every answer carries
the identity of its etcd cluster; the first that differs ends all use of the store. Commits are sent only to *known*
endpoints: those whose identity was seen since their last failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from locum import tasks
from locum.errors import StoreUnavailable
from locum.store.etcd import messages
from locum.store.etcd.gateway import Gateway
from locum.store.etcd.messages import Failure, Header, NotCarriedOut

#: Good probes in a row after which an endpoint that failed is preferred again.
_TRUSTED_AFTER: Final = 3


class Endpoint:
    """One endpoint's health."""

    def __init__(self, name: str, rank: int) -> None:
        self.name = name
        self.rank = rank
        self.up = False
        self.known = False
        #: The last failure; valid as long as the endpoint is not up.
        self.failure = Failure("not tried")
        #: When its last answer came, in the loop's time; and good answers since the last failure.
        self.heard = 0.0
        self.good = _TRUSTED_AFTER
        #: When it last failed, in the loop's time.
        self.failed = 0.0
        self.probe: asyncio.Task[None] | None = None

    def __str__(self) -> str:
        return self.name

    @property
    def leaderless(self) -> bool:
        """Whether it answers without seeing a leader."""
        return not self.up and isinstance(self.failure, NotCarriedOut) and self.failure.waiting

    @property
    def standing(self) -> tuple[int, float]:
        """The sort key; the smallest is the best."""
        if self.up:
            return (0 if self.good >= _TRUSTED_AFTER else 1), self.rank
        return (2 if self.leaderless else 3), self.failed


class Endpoints:
    """All endpoints. Probes read ``probe_key``; each endpoint is probed every ``interval`` seconds.

    A probe without an answer within ``patience`` seconds makes its endpoint suspected, like any request.
    """

    def __init__(
        self, names: Sequence[str], gateway: Gateway, probe_key: bytes, interval: float, patience: float
    ) -> None:
        self.all = tuple(Endpoint(name, rank) for rank, name in enumerate(names))
        self._gateway = gateway
        self._probe_body = messages.probe_request(probe_key)
        self._interval = interval
        self._patience = patience
        self._prober: asyncio.Task[None] | None = None
        self._identity: tuple[int, str] | None = None
        #: Why the store can no longer be used.
        self.fatal = ""
        #: Called with an endpoint that went down.
        self.on_down: Callable[[Endpoint], None] = lambda _: None
        #: Called with the header of every probe's answer, and with the revision known before it was sent.
        self.on_header: Callable[[Header, int], object] = lambda _header, _known: None
        self.known: Callable[[], int] = lambda: 0

    def ordered(self) -> list[Endpoint]:
        """All endpoints, the best first."""
        return sorted(self.all, key=lambda endpoint: endpoint.standing)

    def start(self) -> None:
        """Begin to probe. Idempotent."""
        if self._prober is None or self._prober.done():
            self._prober = tasks.start(self._keep_probing(), "probing etcd")

    async def some_known(self) -> None:
        """Wait until an endpoint is known or all have failed a probe."""
        self.start()
        if any(endpoint.known for endpoint in self.all):
            return
        waiting = {self.probe(endpoint) for endpoint in self.all}
        while waiting and not any(endpoint.known for endpoint in self.all):
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)

    def probe(self, endpoint: Endpoint) -> asyncio.Task[None]:
        """The probe of ``endpoint`` that is under way, or a new one. It never raises."""
        if endpoint.probe is None or endpoint.probe.done():
            endpoint.probe = tasks.start(self._probe(endpoint), f"probing etcd at {endpoint}")
        return endpoint.probe

    @contextmanager
    def watched(self, endpoint: Endpoint) -> Iterator[None]:
        """A context for a request to ``endpoint``: when it takes long, the endpoint is suspected."""
        patience = self._patience
        suspicion = asyncio.get_running_loop().call_later(patience, self.suspect, endpoint, patience)
        try:
            yield
        finally:
            suspicion.cancel()

    async def _probe(self, endpoint: Endpoint) -> None:
        known = self.known()
        try:
            with self.watched(endpoint):
                answer = await self._gateway.ask(
                    endpoint.name, "/v3/kv/range", self._probe_body, messages.range_responses
                )
        except Failure as error:
            self.failed(endpoint, error)
        else:
            self.heard(endpoint, answer.header)
            self.on_header(answer.header, known)

    async def _keep_probing(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() - self._interval
            for endpoint in self.all:
                if not endpoint.up or endpoint.good < _TRUSTED_AFTER or endpoint.heard <= due:
                    self.probe(endpoint)
            await asyncio.sleep(self._interval)

    def heard(self, endpoint: Endpoint, header: Header) -> None:
        """``endpoint`` answered. Never raises, but may set ``fatal``."""
        if self._identity is None:
            self._identity = (header.cluster_id, endpoint.name)
        elif self._identity[0] != header.cluster_id and not self.fatal:
            self.fatal = (
                f"etcd: {self._identity[1]} and {endpoint.name} belong to different etcd clusters "
                f"({self._identity[0]:x} and {header.cluster_id:x}); correct the endpoints and restart"
            )
        endpoint.up = endpoint.known = not self.fatal
        endpoint.good += 1
        endpoint.heard = asyncio.get_running_loop().time()

    def suspect(self, endpoint: Endpoint, seconds: float) -> None:
        """``endpoint`` has not answered a request for ``seconds``: pass it over until it does."""
        self._down(endpoint, Failure(f"no answer for {seconds:g} s"))

    def failed(self, endpoint: Endpoint, error: Failure) -> None:
        """A request to ``endpoint`` failed, for a reason that may concern others as well."""
        endpoint.known = False
        self._down(endpoint, error)

    def _down(self, endpoint: Endpoint, why: Failure) -> None:
        endpoint.failure = why
        endpoint.failed = asyncio.get_running_loop().time()
        endpoint.good = 0
        was_up, endpoint.up = endpoint.up, False
        if was_up:
            self.on_down(endpoint)

    def check(self) -> None:
        """Raise StoreUnavailable when the endpoints contradict each other."""
        if self.fatal:
            raise StoreUnavailable(self.fatal)

    def unavailable(self, what: str) -> StoreUnavailable:
        """The error for a request without an answer; it names each endpoint with its failure."""
        causes = "; ".join(f"{endpoint}: {endpoint.failure}" for endpoint in self.all if not endpoint.up)
        return StoreUnavailable(f"etcd: {what}" + (f" ({causes})" if causes else ""))

    async def close(self) -> None:
        """End all probes."""
        tasks = [task for task in (self._prober, *(e.probe for e in self.all)) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
