"""A holder that its hypervisor pauses together with its clocks: not covered by the argument of docs/safety.md.

These tests are the observer's negative control: they demand that it reports the two holders. They also show for how
long the resumed node speaks: for the rest of its hold at most.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from locum.clock import boottime
from locum_lab.vm.lab import VmLab
from locum_lab.vm.machine import Machine
from locum_lab.vm.watching import Watching
from tests.vm.hearing import Heard, Hearing

#: Longer than a hold, in seconds, and generous for an emulated guest that removes addresses.
SETTLE = 1.0


@pytest.fixture
def healed(cluster: VmLab) -> Iterator[VmLab]:
    """The cluster with every address served, before the test and after it."""
    cluster.wait_served()
    yield cluster
    cluster.uncut("n2")
    cluster.wait_served()


def _taken_over(lab: VmLab) -> set[str]:
    """Pause n2 and wait until n1 serves every address; the addresses that n2 served."""
    mine = {address for address, node in lab.served().items() if node == "n2"}
    assert mine
    lab.machine("n2").pause()
    pool = {public.address for public in lab.layout.public_addresses}
    lab.wait_for("n1 serves every address", lambda: lab.served("n1") == dict.fromkeys(pool, "n1"))
    return mine


def _has(machine: Machine, addresses: set[str]) -> bool:
    """Whether the kernel of the machine has any of these addresses."""
    shown = machine.sh("ip -o address show dev eth1")
    return any(f" {address}/" in shown for address in addresses)


def test_the_observer_reports_a_resumed_machine_whose_clocks_were_stopped(healed: VmLab) -> None:
    """The resumed node cannot reach the store: it speaks for the rest of its hold, and falls silent then."""
    machine = healed.machine("n2")
    with Watching(healed) as watching, Hearing(healed, "n2") as hearing:
        mine = _taken_over(healed)
        healed.cut("n2", ["eth0"])
        resumed = machine.resume()
        healed.wait_for("n2 has none of the addresses", lambda: not _has(machine, mine))
        removed = boottime()
        time.sleep(SETTLE)
        hearing.read()
        spoken = hearing.spoken(resumed)
        verdict = watching.end()
    report("store unreachable", resumed, spoken, verdict.violations)
    assert verdict.violations > 0
    assert {record.address for record in watching.records if record.event == "violation"} <= mine
    assert spoken
    assert max(item.t for item in spoken) <= removed


def test_the_store_tells_a_resumed_machine_that_it_is_no_longer_a_member(healed: VmLab) -> None:
    """With a store that answers, the next beat is refused, and the node falls silent before its hold ends."""
    machine = healed.machine("n2")
    with Watching(healed) as watching, Hearing(healed, "n2") as hearing:
        mine = _taken_over(healed)
        resumed = machine.resume()
        healed.wait_for("n2 has none of the addresses", lambda: not _has(machine, mine))
        removed = boottime()
        hearing.read()
        spoken = [item for item in hearing.spoken(resumed) if item.t <= removed]
        verdict = watching.end()
    report("store answers", resumed, spoken, verdict.violations)
    assert "refused" in machine.journal("locum") or "member" in machine.journal("locum")


def report(case: str, resumed: float, spoken: list[Heard], violations: int) -> None:
    """Print what was heard."""
    last = max((item.t for item in spoken), default=resumed)
    print(f"{case}: {len(spoken)} packets within {last - resumed:.2f} s of the resumption, {violations} violations")
