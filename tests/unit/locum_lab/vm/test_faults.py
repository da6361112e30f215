"""The table of faults: each is noted before it is applied, and undone when the guest can answer."""

from __future__ import annotations

from typing import cast

import msgspec
import pytest
from click.testing import CliRunner

from locum.errors import UsageError
from locum_lab import command, rootless
from locum_lab.vm import faults
from locum_lab.vm.channel import GuestError
from locum_lab.vm.lab import VmLab
from tests.unit.locum_lab.vm.fake_guests import FakeLab


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeLab:
    """The table's functions of VmLab are those of the fake."""
    made = FakeLab()
    for name in ("cut", "uncut", "cut_power"):
        for fault, row in faults.FAULTS.items():
            for field in ("apply", "heal"):
                if getattr(row, field) is getattr(VmLab, name):
                    monkeypatch.setitem(
                        faults.FAULTS,
                        fault,
                        row := msgspec.structs.replace(row, **{field: getattr(FakeLab, name)}),
                    )
    return made


def _apply(fake: FakeLab, *wanted: str) -> None:
    for fault in wanted:
        faults.apply(cast(VmLab, fake), "n1", fault)


def _heal(fake: FakeLab) -> list[str]:
    """What healing does."""
    before = len(fake.done)
    faults.heal(cast(VmLab, fake))
    assert not fake.noted
    machine = fake.machine("n1")
    assert machine.powered
    assert not any((machine.frozen, machine.paused, machine.asleep, machine.going_off))
    return fake.done[before:]


@pytest.mark.parametrize(
    ("applied", "undone"),
    [
        (("link", "freeze"), ["thaw", "carrier True"]),
        (("sleep", "pause", "cut"), ["resume", "wake", "uncut"]),
        (("power-off",), ["wait_off", "power_on"]),
        (("power-off", "pause"), ["resume", "wait_off", "power_on"]),
        (("power-off", "power-cut"), ["power_on"]),
        (("power-cut",), ["power_on"]),
        (("link", "sleep", "power-cut"), ["power_on"]),
        (("freeze", "cut-private", "power-cut"), ["uncut", "power_on"]),
    ],
)
def test_faults_are_undone_in_an_order_in_which_the_guest_answers(
    fake: FakeLab, applied: tuple[str, ...], undone: list[str]
) -> None:
    _apply(fake, *applied)
    assert sorted(fake.noted) == sorted(applied)
    assert _heal(fake) == undone
    assert _heal(fake) == []


def test_a_guest_that_woke_before_or_got_its_power_back_is_healed(fake: FakeLab) -> None:
    _apply(fake, "sleep")
    fake.machine("n1").asleep = False
    assert _heal(fake) == ["wake"]
    _apply(fake, "power-cut")
    fake.power_on("n1")
    assert _heal(fake) == []


def test_a_fault_ends_with_a_guest_that_powers_itself_off(fake: FakeLab, monkeypatch: pytest.MonkeyPatch) -> None:
    _apply(fake, "link", "power-off")
    machine = fake.machine("n1")

    def ends(*_: object, **__: object) -> None:
        machine.lose_power()
        raise GuestError("qmp: the connection was closed; has the guest ended?")

    monkeypatch.setattr(machine, "set_carrier", ends)
    assert _heal(fake) == ["wait_off", "power_on"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        *(("power-cut", fault) for fault in ("freeze", "pause", "sleep", "link", "reset", "power-off")),
        *(("freeze", fault) for fault in ("pause", "sleep", "link", "reset", "power-off")),
        *(("pause", "sleep"), ("sleep", "sleep"), ("sleep", "power-off")),
    ],
)
def test_a_fault_that_the_guest_could_not_answer_is_refused(fake: FakeLab, first: str, second: str) -> None:
    _apply(fake, first)
    with pytest.raises(UsageError, match="locum lab heal n1"):
        _apply(fake, second)
    assert fake.noted == [first]
    _heal(fake)


def test_a_fault_that_is_over_at_once_is_not_noted(fake: FakeLab) -> None:
    _apply(fake, "reset")
    assert fake.done == ["reset"]
    assert not fake.noted


def test_an_unknown_fault_names_those_that_exist() -> None:
    with pytest.raises(UsageError, match="power-cut"):
        faults.kind("meteor")


def test_a_client_has_no_private_network_to_cut(fake: FakeLab) -> None:
    with pytest.raises(UsageError, match="not on the private network"):
        faults.apply(cast(VmLab, fake), "c1", "cut-private")
    assert not fake.noted
    assert "cut" not in fake.done


def test_client_machines_need_virtual_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rootless, "privileged", lambda: True)
    result = CliRunner().invoke(command.lab, ["up", "--clients", "1"])
    assert isinstance(result.exception, UsageError)
    assert "add --vm" in str(result.exception)
