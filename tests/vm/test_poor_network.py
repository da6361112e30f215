"""A poor network between nodes and etcd: loss, delay, reordering and doubled packets in both directions (netem).

etcd itself is not emulated here; tests/vm/test_store_in_guests.py has members in guests.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest

from locum.api.model import StatusReport
from locum.clock import boottime
from locum_lab.vm import setup
from locum_lab.vm.lab import VmLab
from locum_lab.vm.watching import Watching
from tests.vm.places import wait_all_on
from tests.vm.poor_network import Passed, poor, probe

#: For how many holds nothing must happen.
_HOLDS = 3

#: netem's options, and whether echo requests show that they work.
_KINDS: dict[str, tuple[str, Callable[[Passed], bool]]] = {
    "loss": ("loss 5%", lambda seen: seen.answered < seen.sent),
    "delay": ("delay 100ms", lambda seen: seen.quickest >= 200),
    "reordering": ("delay 60ms 50ms 25% reorder 25%", lambda seen: seen.disordered),
    "all": ("loss 5% duplicate 5% delay 40ms 30ms reorder 25%", lambda seen: seen.doubles > 0 and seen.disordered),
}


def _places(report: StatusReport) -> dict[str, str | None]:
    return {item.address: item.node for item in report.addresses}


def _poor_everywhere(stack: ExitStack, lab: VmLab, options: str) -> None:
    for node in lab.layout.node_names:
        stack.enter_context(poor(lab.machine(node), options))


@pytest.mark.parametrize("kind", _KINDS)
def test_i1_addresses_stay_while_the_network_to_the_store_is_poor(healed: VmLab, kind: str) -> None:
    options, shows = _KINDS[kind]
    with Watching(healed) as watching, ExitStack() as stack:
        before = healed.wait_served()
        _poor_everywhere(stack, healed, options)
        since = boottime()
        seen = [probe(healed.machine(node), setup.OUTSIDE_V4) for node in healed.layout.node_names]
        assert all(shows(one) for one in seen), seen
        healed.wait_for("some holds later", lambda: boottime() > since + _HOLDS * healed.layout.hold)
        after = healed.wait_served()
        assert (after.epoch, _places(after)) == (before.epoch, _places(before))
        assert watching.end().violations == 0


def test_i1_addresses_move_when_a_node_dies_while_the_network_to_the_store_is_poor(healed: VmLab) -> None:
    with Watching(healed) as watching, ExitStack() as stack:
        _poor_everywhere(stack, healed, _KINDS["all"][0])
        healed.machine("n2").freeze()
        wait_all_on(healed, "n1")
        healed.machine("n2").thaw()
        healed.wait_served()
        assert watching.end().violations == 0


def test_i1_a_network_too_poor_for_the_hold_moves_addresses_and_doubles_none(healed: VmLab) -> None:
    with Watching(healed) as watching:
        with poor(healed.machine("n2"), "loss 90%"):
            wait_all_on(healed, "n1")
        healed.wait_served()
        assert watching.end().violations == 0
