"""Calls of the kernel that take turns of the loop: what happens meanwhile shows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class SlowWorker:
    """Calls are carried out in order, each in a later turn of the loop; the answer takes one more."""

    def __init__(self) -> None:
        self._last: asyncio.Future[Any] | None = None

    def start(self, function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        """Hand the call over."""
        before = self._last

        async def call() -> Any:
            if before is not None:
                await asyncio.wait([before])
            await asyncio.sleep(0)
            result = function(*arguments)
            await asyncio.sleep(0)
            return result

        self._last = asyncio.ensure_future(call())
        return self._last

    async def run(self, what: str, limit: float | None, function: Callable[..., Any], *arguments: Any) -> Any:
        """See :class:`locum.node.ports.WorkerPort`."""
        return await self.start(function, *arguments)


class SlowCalls:
    """See :class:`locum.node.ports.CallsPort`."""

    def __init__(self) -> None:
        self.gate, self.addresses, self.files = SlowWorker(), SlowWorker(), SlowWorker()

    def start(
        self, worker: SlowWorker, what: str, function: Callable[..., Any], *arguments: Any
    ) -> asyncio.Future[Any]:
        """See CallsPort."""
        return worker.start(function, *arguments)

    async def on_gate(self, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """See CallsPort."""
        return await self.gate.start(function, *arguments)

    async def on_addresses(self, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """See CallsPort."""
        return await self.addresses.start(function, *arguments)
