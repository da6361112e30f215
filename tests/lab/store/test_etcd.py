"""The contract of all stores, on a real etcd."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.store.etcd import EtcdHarness
from tests.unit.store.contract import *  # noqa: F403
from tests.unit.store.faults import *  # noqa: F403
from tests.unit.store.harness import Harness

pytestmark = [pytest.mark.lab, pytest.mark.long]


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    return EtcdHarness(tmp_path)
