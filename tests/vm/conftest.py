"""Labs of Debian guests for tests: booted once for each module, taken down whatever happens."""

from __future__ import annotations

import itertools
import os
from collections.abc import Generator, Iterator
from typing import Protocol

import pytest

from locum_lab import lab as labs
from locum_lab import processes
from locum_lab.layout import Layout
from locum_lab.vm import image
from locum_lab.vm.lab import VmLab, leftovers

_numbers = itertools.count(1)
_MADE: list[VmLab] = []


class MakeVmLab(Protocol):
    """Builds a lab of guests; layout numbers and arguments of VmLab.up by keyword."""

    def __call__(
        self,
        *,
        nodes: int = 2,
        clients: int = 0,
        addresses: int = 4,
        interfaces: int = 1,
        hold: float = 6.0,
        **options: object,
    ) -> VmLab: ...


@pytest.fixture(scope="session", autouse=True)
def can_run_guests() -> None:
    """Skip where guests cannot run, with the reason; take down the labs of test runs that were killed."""
    if missing := image.missing_packages():
        pytest.skip(f"NOT TESTED: virtual machines need the Debian packages {', '.join(missing)}; see `make test-vm`")
    if os.geteuid() != 0 or not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("NOT TESTED: virtual machines need root and /dev/net/tun")
    leftovers()


@pytest.fixture(scope="module")
def make_vm_lab() -> Iterator[MakeVmLab]:
    """A function that boots a lab for this module. A failed test shows consoles and journals."""
    names: list[str] = []

    def make(
        *,
        nodes: int = 2,
        clients: int = 0,
        addresses: int = 4,
        interfaces: int = 1,
        hold: float = 6.0,
        **options: object,
    ) -> VmLab:
        name = f"v{os.getpid()}-{next(_numbers)}"
        names.append(name)
        layout = Layout(name=name, nodes=nodes, clients=clients, addresses=addresses, interfaces=interfaces, hold=hold)
        made = VmLab.up(layout, owner=processes.find(os.getpid()), **options)  # type: ignore[arg-type]
        _MADE.append(made)
        return made

    yield make
    _MADE.clear()
    for name in names:
        labs.down(name)


@pytest.fixture(scope="module")
def cluster(make_vm_lab: MakeVmLab) -> VmLab:
    """Two nodes that serve four addresses, and a client."""
    # Addresses return soon to a node that fails in every test.
    lab = make_vm_lab(clients=1, settings="[tunables]\nDampingWindow = 1\n")
    lab.wait_served()
    return lab


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add consoles and journals to the report of a failed test, while the guests still run."""
    report = yield
    if report.when == "call" and report.failed:
        for lab in _MADE:
            report.sections.append((f"lab {lab.layout.name}", lab.logs()))
    return report
