"""A holder that its hypervisor pauses together with its clocks: not covered by the argument of docs/safety.md.

These tests are the observer's negative control: they demand that it reports the two holders. They also show for how
long the resumed node speaks.
"""

from __future__ import annotations

from collections.abc import Sequence

from locum_lab.vm.lab import VmLab
from locum_lab.vm.machine import Machine
from locum_lab.vm.watching import Watching
from tests.vm.hearing import Hearing
from tests.vm.places import wait_all_on


def _has(machine: Machine, addresses: set[str]) -> bool:
    """Whether the kernel of the machine has any of these addresses."""
    shown = machine.sh("ip -o address show dev eth1")
    return any(f" {address}/" in shown for address in addresses)


def test_the_observer_reports_a_resumed_machine_whose_clocks_were_stopped(healed: VmLab) -> None:
    """The resumed node cannot reach the store."""
    _demand_two_holders(healed, ["eth0"])


def test_the_observer_reports_a_resumed_machine_that_reaches_the_store(healed: VmLab) -> None:
    """The news of the store waits in the queue of n2's interface."""
    _demand_two_holders(healed, [])


def _demand_two_holders(lab: VmLab, cut: Sequence[str]) -> None:
    """Pause n2, without these interfaces, until n1 serves all of its addresses, and resume it: both speak."""
    machine = lab.machine("n2")
    with Watching(lab) as watching, Hearing(lab, "n2") as hearing:
        mine = {address for address, node in lab.served().items() if node == "n2"}
        assert mine
        if cut:
            # Before the pause: the news of the store would otherwise wait for n2 in the queue of its interface.
            lab.cut("n2", cut)
        machine.pause()
        wait_all_on(lab, "n1")
        resumed = machine.resume()
        lab.wait_for("n2 has none of the addresses", lambda: not _has(machine, mine))
        if cut:
            lab.uncut("n2", cut)
        hearing.read()
        # Later packets may belong to a new membership.
        spoken = [item for item in hearing.spoken(resumed) if item.t <= resumed + lab.layout.hold]
        verdict = watching.end()
    last = max((item.t for item in spoken), default=resumed)
    print(f"without {cut}: {len(spoken)} packets in {last - resumed:.2f} s, {verdict.violations} violations")
    assert {item.address for item in spoken} == mine
    assert verdict.violations > 0
    assert {record.address for record in watching.records if record.event == "violation"} <= mine
