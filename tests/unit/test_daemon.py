"""With what status an agent ends: whether its guard starts another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from locum import daemon
from locum.config.load import load
from locum.config.model import Settings
from locum.errors import LocumError, PermissionRequired
from locum.node.guard.children import EXIT_HOPELESS
from locum.threads import NoAnswer
from tests.unit.api.test_reload import FIRST


@pytest.mark.parametrize(
    ("error", "status"),
    [(PermissionRequired("needs root"), EXIT_HOPELESS), (NoAnswer("arming the gate: not begun: no thread"), 1)],
)
def test_only_what_does_not_pass_by_itself_ends_the_daemon(
    error: LocumError, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail(_: Settings) -> int:
        raise error

    monkeypatch.setattr(daemon, "serve", fail)
    file = tmp_path / "locum.toml"
    file.write_text(FIRST)
    assert daemon.run_agent(load(str(file))) == status
    assert str(error) in capsys.readouterr().err
