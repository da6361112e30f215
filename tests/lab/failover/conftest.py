"""Clusters whose nodes record the events that they saw."""

from __future__ import annotations

import pytest

from locum_lab.lab import Lab
from tests.lab.clusters import (
    install_recorder,
)
from tests.lab.conftest import MakeLab
from tests.lab.failover.scene import Cluster


@pytest.fixture
def cluster(make_lab: MakeLab) -> Cluster:
    """Builds a cluster whose nodes have the recording script, and waits until it serves everything."""

    def make(wait: bool = True, **options: object) -> Lab:
        lab = make_lab(**{"hold": 1.0, **options}, daemons=False)  # type: ignore[arg-type]
        install_recorder(lab)
        lab.start_daemons()
        if wait:
            lab.wait_served()
        return lab

    return make
