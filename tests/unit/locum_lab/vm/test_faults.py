"""The table of faults: each is noted before it is applied, and undone in the opposite order."""

from __future__ import annotations

from typing import Any, cast

import pytest
from click.testing import CliRunner

from locum.errors import UsageError
from locum_lab import command, rootless
from locum_lab.layout import Layout
from locum_lab.vm import faults
from locum_lab.vm.lab import VmLab


class FakeMachine:
    """Notes what is done to it."""

    def __init__(self, done: list[str]) -> None:
        self._done = done

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: self._done.append(name)


class FakeLab:
    """As much of a lab as faults need."""

    layout = Layout(nodes=1, clients=1)

    def __init__(self) -> None:
        self.done: list[str] = []
        self.noted: list[str] = []
        self.machines = {"n1": FakeMachine(self.done), "c1": FakeMachine(self.done)}

    def machine(self, name: str) -> FakeMachine:
        return self.machines[name]

    def note_fault(self, name: str, kind: str) -> None:
        self.noted.append(kind)
        self.done.append(f"note {kind}")

    def noted_faults(self, name: str) -> tuple[str, ...]:
        return tuple(self.noted) if name == "n1" else ()

    def forget_fault(self, name: str, kind: str) -> None:
        self.noted.remove(kind)

    def cut(self, name: str, interfaces: object) -> None:
        self.done.append("cut")


def test_faults_are_undone_in_the_opposite_order() -> None:
    fake = FakeLab()
    lab = cast(VmLab, fake)
    faults.apply(lab, "n1", "freeze")
    faults.apply(lab, "n1", "link")
    assert fake.done == ["note freeze", "freeze", "note link", "set_carrier"]
    faults.heal(lab)
    assert fake.done[4:] == ["set_carrier", "thaw"]
    assert not fake.noted


def test_a_fault_that_is_over_at_once_is_not_noted() -> None:
    fake = FakeLab()
    faults.apply(cast(VmLab, fake), "n1", "reset")
    assert fake.done == ["reset"]


def test_an_unknown_fault_names_those_that_exist() -> None:
    with pytest.raises(UsageError, match="power-cut"):
        faults.kind("meteor")


def test_a_client_has_no_private_network_to_cut() -> None:
    fake = FakeLab()
    with pytest.raises(UsageError, match="not on the private network"):
        faults.apply(cast(VmLab, fake), "c1", "cut-private")
    assert not fake.noted
    assert "cut" not in fake.done


def test_client_machines_need_virtual_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rootless, "privileged", lambda: True)
    result = CliRunner().invoke(command.lab, ["up", "--clients", "1"])
    assert isinstance(result.exception, UsageError)
    assert "add --vm" in str(result.exception)
