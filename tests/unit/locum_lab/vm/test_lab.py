"""Who owns a lab of guests, and how long its guests stay."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest

from locum.errors import LocumError
from locum_lab import lab as labs
from locum_lab import processes, state
from locum_lab.layout import Layout
from locum_lab.processes import Process
from locum_lab.state import LabState
from locum_lab.vm.image import Image
from locum_lab.vm.lab import VmLab
from locum_lab.vm.machine import Machine

US = processes.find(os.getpid())


class Building:
    """Building a lab without guests. ``state``: the lab's meanwhile; ``tied``: whether QEMU ends with this process."""

    def __init__(self) -> None:
        self.state: LabState | None = None
        self.tied: bool | None = None
        self.problem: LocumError | None = None


@pytest.fixture
def building(monkeypatch: pytest.MonkeyPatch) -> Iterator[Building]:
    made = Building()

    def build(lab: VmLab, *_: object) -> None:
        made.state = state.read(lab.layout.name)
        lab.power_on("n1")
        if made.problem is not None:
            raise made.problem

    def power_on(*_: object, dies_with_us: bool, **__: object) -> Process | None:
        made.tied = dies_with_us
        return US

    monkeypatch.setattr(labs, "clean", lambda *_, **__: True)
    monkeypatch.setattr(VmLab, "_build", build)
    monkeypatch.setattr(Machine, "power_on", power_on)
    monkeypatch.setattr(VmLab, "logs", lambda _: "the console")
    # pytest's own directories are too long for the sockets below them.
    with tempfile.TemporaryDirectory() as directory:
        monkeypatch.setenv("LOCUM_LAB_DIR", directory)
        yield made


LAYOUT = Layout(name="unit-vm", nodes=1)


def test_a_lab_that_outlives_its_command_is_a_leftover_until_it_is_complete(building: Building) -> None:
    VmLab.up(LAYOUT, image=Image("/nowhere"))
    assert building.state is not None
    assert (building.state.owner, building.state.complete) == (US, False)
    assert building.tied is False
    found = state.read(LAYOUT.name)
    assert found is not None
    assert (found.owner, found.complete) == (None, True)


def test_a_lab_of_a_process_ends_with_it(building: Building) -> None:
    VmLab.up(LAYOUT, image=Image("/nowhere"), owner=US)
    assert building.tied is True
    found = state.read(LAYOUT.name)
    assert found is not None
    assert found.owner == US


def test_a_lab_that_cannot_be_built_shows_its_consoles(building: Building) -> None:
    building.problem = LocumError("n1 is degraded")
    with pytest.raises(LocumError, match="degraded") as raised:
        VmLab.up(LAYOUT, image=Image("/nowhere"))
    assert raised.value.__notes__ == ["the console"]
