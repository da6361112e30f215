"""The faults of :mod:`tests.unit.store.faults` on the stores that are served to other processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.store.faults import *  # noqa: F403
from tests.unit.store.harness import Harness, UnixHarness, UnixSqliteHarness


@pytest.fixture(params=[UnixHarness, UnixSqliteHarness], ids=lambda kind: kind.name)
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Harness:
    made = request.param(tmp_path)
    assert isinstance(made, Harness)
    return made
