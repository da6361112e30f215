"""The store of the playbooks: it writes down each call and answers as the scene wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from locum.errors import StoreUnavailable
from locum.store.base import Batch, CommitResult, Snapshot


class Record(Protocol):
    """The part of the scene's world that the store needs."""

    lines: list[str]
    refuses: set[str]

    def say(self, line: str) -> None:
        """Write a call down; raise when the scene has it refused."""
        ...


class RecordedStore:
    """A store that answers reads and watches as the scene wants; without a wish it does not answer them."""

    def __init__(self, record: Record) -> None:
        self._record = record
        #: The answers to reads, in order; an error is raised.
        self.reads: list[Snapshot | Exception] = []
        #: What the present watch reports; an error ends it.
        self.news: asyncio.Queue[Batch | Exception] = asyncio.Queue()

    async def read(self, prefix: str) -> Snapshot:
        """See :class:`locum.store.base.Store`."""
        self._record.say("store: read")
        await asyncio.sleep(0)
        answer = self.reads.pop(0) if self.reads else StoreUnavailable("not in these scenes")
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def names(self, prefix: str) -> tuple[str, ...]:
        """See Store."""
        return ()

    async def commit(self, conditions: object, operations: object) -> CommitResult:
        """See Store."""
        self._record.lines.append("store: commit")
        await asyncio.sleep(0)
        if "no answer" in self._record.refuses:
            raise StoreUnavailable("no answer")
        if "no answer in time" in self._record.refuses:
            await asyncio.Event().wait()
        return CommitResult("store: commit" not in self._record.refuses, 21)

    async def watch(self, prefix: str, after: int) -> AsyncIterator[Batch]:
        """See Store."""
        self._record.say(f"store: watch after {after}")
        while True:
            news = await self.news.get()
            if isinstance(news, Exception):
                raise news
            yield news

    async def close(self) -> None:
        """See Store."""
