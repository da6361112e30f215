"""Labs of Debian guests for tests: booted once for each module or all, taken down whatever happens."""

from __future__ import annotations

import itertools
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from locum_lab import lab as labs
from locum_lab import processes
from locum_lab.layout import Layout
from locum_lab.vm import image
from locum_lab.vm.lab import VmLab, leftovers
from tests.vm import groups, healing

_numbers = itertools.count(1)
_HERE = Path(__file__).parent
_MADE: list[VmLab] = []
#: The lab of the fixture `cluster`, once it has booted.
_SHARED: list[VmLab] = []

#: In the environment: where guests cannot run, tests fail instead of being skipped.
REQUIRED = "LOCUM_TEST_VM"


#: Settings of nodes whose tests do not wait for monitor: it takes an emulated processor seconds each time, and with the
#: default interval idle nodes would use up half of the machine. Addresses return soon to a node that fails in every
#: test.
CALM = "[tunables]\nMonitorInterval = 120\nDampingWindow = 1\n"


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
    """Skip or fail where guests cannot run, with the reason; take down the labs of test runs that were killed."""
    refuse = pytest.fail if os.environ.get(REQUIRED) else pytest.skip
    if missing := image.missing_packages():
        refuse(f"NOT TESTED: virtual machines need the Debian packages {', '.join(missing)}; see `make test-vm`")
    if os.geteuid() != 0 or not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        refuse("NOT TESTED: virtual machines need root and /dev/net/tun")
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
def cluster() -> VmLab:
    """Two nodes that serve four addresses, and a client: one lab for all modules that use it."""
    if _SHARED and healing.broken(_SHARED[0]):
        _end_shared()
    if not _SHARED:
        layout = Layout(name=f"v{os.getpid()}-{next(_numbers)}", nodes=2, clients=1, addresses=4, hold=6.0)
        _SHARED.append(VmLab.up(layout, owner=processes.find(os.getpid()), settings=CALM))
    lab = _SHARED[0]
    healing.wait_served(lab)
    return lab


@pytest.fixture
def healed(cluster: VmLab) -> Iterator[VmLab]:
    """The cluster with every address served, before the test and after it, whatever the test leaves."""
    with healing.healthy(cluster):
        yield cluster


def _end_shared() -> None:
    while _SHARED:
        labs.down(_SHARED.pop().layout.name)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """How pytest-xdist distributes tests, with ``--dist loadscope``: a whole group to one worker."""
    from tests.vm.one_lab_each import OneLabEach  # noqa: PLC0415 - tests run without that plugin, too

    return OneLabEach(config, log) if config.getvalue("dist") == "loadscope" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups that take long come first, so that all workers end at about the same time; in the cluster's, first the
    tests that use it."""
    places = [place for place, item in enumerate(items) if item.path.parent == _HERE]
    for place, item in zip(places, sorted((items[place] for place in places), key=_rank), strict=True):
        items[place] = item


def _rank(item: pytest.Item) -> tuple[int, bool]:
    """The place of the item's group; in the cluster's, tests that use it come first."""
    return groups.rank(item.path), _boots(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> Generator[None]:
    """End the shared cluster after the last of its tests: more than two labs of guests at a time would be too slow."""
    yield
    if nextitem is None or _boots(nextitem):
        _end_shared()


def pytest_sessionfinish() -> None:
    """End the shared cluster, also when the run was interrupted."""
    _end_shared()


def _boots(item: pytest.Item) -> bool:
    """Whether this is not a test of the shared cluster."""
    return item.path.parent != _HERE or "cluster" not in getattr(item, "fixturenames", ())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add consoles and journals to the report of a failed test, set-up or clean-up, while the guests still run. The lab
    is healed then."""
    report = yield
    if report.failed:
        for lab in (*_MADE, *_SHARED):
            healing.suspect(lab)
            report.sections.append((f"lab {lab.layout.name}", lab.logs()))
    return report
