"""A limit on calls to a store, for callers that cannot wait as long as the engine does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from locum.errors import StoreUnavailable


@contextlib.asynccontextmanager
async def answered_within(seconds: float) -> AsyncIterator[None]:
    """Raises StoreUnavailable when the calls inside have not ended after ``seconds``."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise StoreUnavailable(f"the store has not answered within {seconds:g} s") from None
