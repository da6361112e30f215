"""When a guest counts as booted, and as awake."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from locum.errors import LocumError
from locum_lab.vm.channel import Agent, Done, GuestError
from locum_lab.vm.image import Image
from locum_lab.vm.machine import Machine
from locum_lab.vm.qemu import Hardware

LOGIN = "session-1.scope loaded failed failed Session 1 of User root\n"
SERVICE = "nginx.service loaded failed failed A web server\n"


def guest() -> Machine:
    return Machine(Hardware("n1", Path("/nowhere"), (), "10.78.0.1"), Image("/nowhere"), "hub")


def booted(monkeypatch: pytest.MonkeyPatch, state: str, failed: str) -> None:
    """Wait for a guest whose systemd reports this state and these failed units."""
    machine = guest()

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


class Sleeper:
    """A guest through its sleep, as QEMU and its agent show it: one state of ``states`` for each question.

    States: ``running``, ``going`` (on its way to sleep or back), ``suspended``.
    """

    def __init__(self, machine: Machine, states: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.woken = 0
        self._states = list(states)
        monkeypatch.setattr(machine.monitor, "execute", self._execute)
        monkeypatch.setattr(Agent, "answers", lambda _: self._states[0] != "suspended")
        monkeypatch.setattr(Agent, "run", self._run)
        monkeypatch.setattr(Machine, "powered", property(lambda _: True))
        monkeypatch.setattr("locum_lab.vm.machine._ASK_AGAIN", 0.0)

    def _execute(self, command: str) -> dict[str, str]:
        if command == "system_wakeup":
            if self._states[0] != "suspended":
                raise GuestError("system_wakeup: Unable to wake up: guest is not in suspended state")
            self.woken += 1
            self._states.pop(0)
            return {}
        shown = "suspended" if self._states[0] == "suspended" else "running"
        if self._states[0] == "wakes":
            shown = "suspended"
            self._states.pop(0)
        return {"status": shown}

    def _run(self, *_: object, **__: object) -> Done:
        if self._states[0] == "going":
            self._states.pop(0)
            return Done(0, "", "")
        return Done(1, "", "")


@pytest.mark.parametrize(
    ("states", "woken"),
    [
        (("suspended", "running"), 1),
        (("going", "going", "suspended", "going", "running"), 1),
        (("running",), 0),
        (("going", "running"), 0),
        # It wakes between the question and the request.
        (("wakes", "running"), 0),
    ],
)
def test_a_guest_is_woken_only_while_it_sleeps(
    monkeypatch: pytest.MonkeyPatch, states: Sequence[str], woken: int
) -> None:
    machine = guest()
    sleeper = Sleeper(machine, states, monkeypatch)
    machine.wake()
    assert sleeper.woken == woken
    assert not machine.asleep()
