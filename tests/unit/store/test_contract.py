"""The contract of :mod:`tests.unit.store.contract` on the embedded stores."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.store.contract import *  # noqa: F403
from tests.unit.store.harness import Harness, MemoryHarness, SqliteHarness, UnixHarness, UnixSqliteHarness


@pytest.fixture(params=[MemoryHarness, SqliteHarness, UnixHarness, UnixSqliteHarness], ids=lambda kind: kind.name)
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Harness:
    made = request.param(tmp_path)
    assert isinstance(made, Harness)
    return made
