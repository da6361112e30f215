"""locum.script: declared ports."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from locum import script

pytestmark = pytest.mark.usefixtures("environment")


def test_ports_are_declared_one_a_line(environment: Path) -> None:
    path = environment / "runtime" / "listen" / "50.web"
    script.expect_listen(443, 80)
    assert path.read_text() == "80\n443\n"
    script.expect_listen(8080)
    assert path.read_text() == "80\n443\n8080\n"
    before = path.stat()
    script.expect_listen(80)
    assert path.stat() == before, "nothing changed, so the daemon need not read it again"
    script.expect_no_listen(443)
    assert path.read_text() == "80\n8080\n"
    script.expect_no_listen()
    assert not path.exists()
    script.expect_no_listen()
    assert os.listdir(environment / "runtime") == ["listen"]
