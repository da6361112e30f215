"""Labs for tests: real namespaces, real processes, taken down whatever happens."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Generator, Iterator
from typing import Protocol

import pytest

from locum_lab import processes, state
from locum_lab.lab import Lab, down
from locum_lab.layout import Layout

_numbers = itertools.count(1)


class MakeLab(Protocol):
    """Builds a lab; layout numbers and arguments of Lab.up by keyword."""

    def __call__(
        self, *, nodes: int = 3, addresses: int = 6, hold: float = 2.0, interfaces: int = 1, **options: object
    ) -> Lab: ...


@pytest.fixture(scope="session", autouse=True)
def no_leftovers() -> None:
    """Take down the labs of test runs that were killed."""
    for name in state.known():
        found = state.read(name)
        if found is not None and found.owner is not None and not processes.alive(found.owner):
            down(name)


@pytest.fixture
def make_lab(request: pytest.FixtureRequest) -> Iterator[MakeLab]:
    """A function that builds labs for this test. A failed test shows what their daemons wrote."""
    made: list[Lab] = []
    names: list[str] = []

    def make(*, nodes: int = 3, addresses: int = 6, hold: float = 2.0, interfaces: int = 1, **options: object) -> Lab:
        name = f"t{os.getpid()}-{next(_numbers)}"
        names.append(name)
        layout = Layout(name=name, nodes=nodes, addresses=addresses, hold=hold, interfaces=interfaces)
        lab = Lab.up(layout, owner=processes.find(os.getpid()), **options)  # type: ignore[arg-type]
        made.append(lab)
        return lab

    request.node.stash[_LABS] = made
    yield make
    for name in names:
        down(name)


_LABS = pytest.StashKey[list[Lab]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: with two labs at a time the last one to end is then a short one."""
    items.sort(key=lambda item: "test_torture" not in item.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the daemons' logs to the report of a failed test, while the lab still stands."""
    report = yield
    if report.when == "call" and report.failed:
        for lab in item.stash.get(_LABS, []):
            report.sections.append((f"lab {lab.layout.name}", lab.logs()))
    return report


STAND_IN = ("sh", "-c", "sleep 1000 & sleep 1000 & wait")


@pytest.fixture
def bare_lab(make_lab: MakeLab) -> Callable[..., Lab]:
    """Builds labs whose daemons are replaced by processes that do nothing: for tests of the lab itself."""

    def make(**options: object) -> Lab:
        return make_lab(daemon_command=STAND_IN, **options)  # type: ignore[arg-type]

    return make
