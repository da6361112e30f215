"""A port for a service, and script 70.service with a server of the test."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.unit.bench import Bench
from tests.unit.scripts.scene import SERVER, Scene, free_port


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def generic(bench: Bench, port: int) -> Iterator[Scene]:
    scene = Scene(bench, "70.service", command=[sys.executable, "-c", SERVER, str(port), "220 hello"], ports=[port])
    yield scene
    scene.end()
