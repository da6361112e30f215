"""When a guest counts as booted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from locum.errors import LocumError
from locum_lab.vm.channel import Done
from locum_lab.vm.image import Image
from locum_lab.vm.machine import Machine
from locum_lab.vm.qemu import Hardware

LOGIN = "session-1.scope loaded failed failed Session 1 of User root\n"
SERVICE = "nginx.service loaded failed failed A web server\n"


def booted(monkeypatch: pytest.MonkeyPatch, state: str, failed: str) -> None:
    """Wait for a guest whose systemd reports this state and these failed units."""
    machine = Machine(Hardware("n1", Path("/nowhere"), (), "10.78.0.1"), Image("/nowhere"), "hub")

    def run(argv: Sequence[str], **_: object) -> Done:
        return Done(0, failed if "--failed" in argv else f"{state}\n", "")

    monkeypatch.setattr(machine.agent, "answers", lambda: True)
    monkeypatch.setattr(machine.agent, "run", run)
    machine.wait_booted(1.0)


@pytest.mark.parametrize(("state", "failed"), [("running", ""), ("degraded", LOGIN)])
def test_a_login_that_failed_is_no_fault_of_the_guest(monkeypatch: pytest.MonkeyPatch, state: str, failed: str) -> None:
    booted(monkeypatch, state, failed)


@pytest.mark.parametrize(("state", "failed"), [("degraded", LOGIN + SERVICE), ("maintenance", "")])
def test_a_failed_service_is_reported(monkeypatch: pytest.MonkeyPatch, state: str, failed: str) -> None:
    with pytest.raises(LocumError, match=f"n1 is {state}") as raised:
        booted(monkeypatch, state, failed)
    assert ("nginx" in str(raised.value)) == (SERVICE in failed)
    assert "session-1" not in str(raised.value)
