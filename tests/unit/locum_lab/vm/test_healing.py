"""What tests of guests do for those after them: heal the lab, or let them fail at once; the order of the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from locum.errors import LocumError
from locum_lab.vm.lab import VmLab
from tests.unit.locum_lab.vm.fake_guests import FakeLab
from tests.vm import conftest, healing

ROOT = Path(conftest.__file__).parents[2]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeLab:
    monkeypatch.setattr(healing, "_BROKEN", {})
    monkeypatch.setattr(healing, "_SUSPECT", set())
    return FakeLab()


def _lab(fake: FakeLab) -> VmLab:
    return cast(VmLab, fake)


@pytest.mark.parametrize(
    "left",
    [
        ("frozen",),
        ("paused", "frozen"),
        ("asleep",),
        ("going_off",),
        ("going_off", "paused"),
        ("no power",),
        ("no locum",),
        ("poor", "frozen"),
    ],
)
def test_a_lab_is_healed_whatever_a_test_that_failed_leaves(fake: FakeLab, left: tuple[str, ...]) -> None:
    machine = fake.machine("n1")
    with healing.healthy(_lab(fake)):
        healing.suspect(_lab(fake))
        for state in left:
            if state == "no power":
                machine.lose_power()
            elif state == "no locum":
                machine.locum = False
            else:
                setattr(machine, state, True)
    assert machine.powered
    assert machine.locum
    assert not machine.poor
    assert not machine.stands
    assert not healing.broken(_lab(fake))
    if "going_off" in left or "no power" in left:
        assert "wait_booted" in fake.done
    else:
        assert fake.done.count("carrier True") == 4
    assert fake.done.count("uncut") == 2


def test_guests_are_asked_nothing_after_a_test_that_passed(fake: FakeLab) -> None:
    with healing.healthy(_lab(fake)):
        healing.suspect(_lab(fake))
    fake.done.clear()
    with healing.healthy(_lab(fake)):
        pass
    assert fake.done == []


def test_power_and_locum_are_given_back_after_a_test_that_passed(fake: FakeLab) -> None:
    with healing.healthy(_lab(fake)):
        fake.machine("n1").lose_power()
    assert fake.machine("n1").powered
    with healing.healthy(_lab(fake)):
        fake.machine("n1").locum = False
    assert fake.machine("n1").locum


def test_a_lab_that_cannot_be_healed_fails_all_later_tests_at_once(
    fake: FakeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise LocumError("n1 is degraded")

    monkeypatch.setattr(fake.machine("n1"), "wait_booted", fails)
    with pytest.raises(LocumError), healing.healthy(_lab(fake)):
        fake.machine("n1").lose_power()
    monkeypatch.setattr(FakeLab, "wait_served", lambda _: pytest.fail("waits again"))
    with pytest.raises(pytest.fail.Exception, match="broke the lab: n1 is degraded"), healing.healthy(_lab(fake)):
        pass


def test_a_lab_that_a_fixture_inside_could_not_heal_is_not_waited_for_again(
    fake: FakeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: FakeLab) -> None:
        fake.done.append("waited")
        raise LocumError("not within 600 s")

    with healing.healthy(_lab(fake)), pytest.raises(LocumError), healing.healthy(_lab(fake)):
        monkeypatch.setattr(FakeLab, "wait_served", fails)
    assert fake.done.count("waited") == 1


def _item(path: str, *fixtures: str) -> pytest.Item:
    return cast(pytest.Item, SimpleNamespace(path=ROOT / path, fixturenames=fixtures))


def test_only_tests_of_guests_change_places() -> None:
    early, late = _item("tests/unit/test_a.py"), _item("tests/zz/test_b.py", "cluster")
    own, shared, other = (
        _item("tests/vm/test_a.py", "make_vm_lab"),
        _item("tests/vm/test_b.py", "healed", "cluster"),
        _item("tests/vm/test_c.py"),
    )
    items = [early, own, shared, late, other]
    conftest.pytest_collection_modifyitems(items)
    assert items == [early, shared, own, late, other]


@pytest.mark.parametrize(("required", "outcome"), [("", "skipped"), ("1", "error")])
def test_guests_that_cannot_run_are_a_failure_where_they_must_be_tested(required: str, outcome: str) -> None:
    done = subprocess.run(
        [*(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rsE", "tests/vm/test_stopped_clocks.py")],
        cwd=ROOT,
        # Without programs.
        env={**os.environ, "PATH": "/nowhere", conftest.REQUIRED: required},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "virtual machines need the Debian packages" in done.stdout
    assert f"2 {outcome}" in done.stdout.splitlines()[-1]
    assert (done.returncode != 0) is bool(required)
