"""Kernel calls that may wait for one of the kernel's locks: one thread for each kind, in order.

Another program may hold nftables' lock for seconds (it loads a large ruleset), or rtnetlink's (it destroys a network
namespace with thousands of interfaces). Only beats wait for the first. The event loop continues, and logs the cause
afterwards.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from locum.threads import NoAnswer, Worker

P = ParamSpec("P")
T = TypeVar("T")

#: A call that takes longer is logged, in seconds.
SLOW = 0.5
#: The kernel's message about the other program may arrive this long after the call's end, in seconds.
_AFTERWARDS = 0.1
#: Calls that may wait: an address needs a few, a beat one or two.
_ROOM = 20_000


class KernelCalls:
    """``gate`` carries out calls to nftables, ``addresses`` calls over rtnetlink, ``files`` writes to the runtime
    directory. Objects of :mod:`locum.machine` allow one thread at a time: each is used from exactly one of these.

    ``culprit`` returns the other programs that changed nftables since a time of the monotonic clock ("" when none is
    known).
    """

    def __init__(self, log: Callable[[str, str], None]) -> None:
        self.gate = Worker("gate", room=_ROOM)
        self.addresses = Worker("addresses", room=_ROOM)
        self.files = Worker("held notes", room=_ROOM)
        self.culprit: Callable[[float], str] = lambda _since: ""
        self._log = log

    def start(
        self, worker: Worker, what: str, function: Callable[P, T], *arguments: P.args, **named: P.kwargs
    ) -> asyncio.Future[T]:
        """Hand the call over now; the future gets its result. Calls run in the order of handing over."""
        loop = asyncio.get_running_loop()

        def timed() -> T:
            begun = time.monotonic()
            try:
                return function(*arguments, **named)
            finally:
                took = time.monotonic() - begun
                if took > SLOW and not loop.is_closed():
                    loop.call_soon_threadsafe(loop.call_later, _AFTERWARDS, self._slow, worker, what, begun, took)

        try:
            return asyncio.wrap_future(worker.submit(what, timed))
        except NoAnswer as error:
            failed: asyncio.Future[T] = loop.create_future()
            failed.set_exception(error)
            return failed

    async def on_gate(self, what: str, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """The result of a call at the gate, however long it takes."""
        return await self.start(self.gate, what, function, *arguments, **named)

    async def on_addresses(self, what: str, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """The result of a call over rtnetlink, however long it takes."""
        return await self.start(self.addresses, what, function, *arguments, **named)

    def close(self) -> None:
        """Discard calls that have not begun. Does not wait."""
        for worker in (self.gate, self.addresses, self.files):
            worker.close()

    def _slow(self, worker: Worker, what: str, begun: float, took: float) -> None:
        if worker is self.gate:
            other = self.culprit(begun) or "another program"
            cause = f"{other} held the kernel's nftables lock, or the machine had no time for this process"
        elif worker is self.addresses:
            cause = "another program held the kernel's rtnetlink lock, or the machine had no time for this process"
        else:
            cause = "its file system hung, or the machine had no time for this process"
        self._log(f"{what} took {took:.1f} s: {cause}", "warning")
