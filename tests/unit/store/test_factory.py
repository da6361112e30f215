"""Store URLs: what is right, and what each wrong one is told."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from locum.errors import UsageError
from locum.store.factory import open_store
from locum.store.memory import MemoryStore
from locum.store.sqlite import SqliteStore


def test_open(tmp_path: Path) -> None:
    assert isinstance(open_store("memory:"), MemoryStore)
    store = open_store(f"sqlite:{tmp_path}/s")
    assert isinstance(store, SqliteStore)
    asyncio.run(store.close())
    with pytest.raises(UsageError, match="does not exist"):
        open_store(f"sqlite:{tmp_path}/absent/s")
