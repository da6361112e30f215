"""A store that is wiped, or restored from a copy, under running nodes: two never answer for one address."""

from __future__ import annotations

from pathlib import Path
from signal import SIGKILL

import pytest

from locum.errors import LocumError
from locum_lab import processes
from locum_lab.lab import Lab
from locum_lab.watching import Watching
from tests.lab.clusters import locum
from tests.lab.conftest import MakeLab

pytestmark = pytest.mark.lab

HOLD = 1.0
CHANGED = "the store's history has changed: it was wiped or restored from a copy"


def told(lab: Lab, node: str) -> bool:
    """Whether the node's log says it plainly."""
    return CHANGED in lab.daemon_log(node).read_text()


def warned(lab: Lab) -> bool:
    """Whether status warns of it, for each node."""
    try:
        report = lab.status()
    except LocumError:
        return False
    return all(any(w.startswith(f"{node}: {CHANGED}") for w in report.warnings) for node in lab.layout.node_names)


def goes_back(lab: Lab, copy: Path | None, restarted: str | None = None) -> None:
    """The store goes back; everything is served again, and nobody has heard two nodes for one address."""
    with Watching(lab) as watching:
        lab.store_goes_back(copy)
        if restarted is not None:
            agent = lab.agent(restarted)
            assert agent is not None
            processes.send(agent, SIGKILL)
        for node in lab.layout.node_names:
            if node != restarted:
                lab.wait_for(f"{node} to notice", lambda node=node: told(lab, node))  # type: ignore[misc]
        lab.wait_served()
        last = watching.end()
        found = [record for record in watching.records if record.event == "violation"]
        assert last.violations == 0, f"{last.violations} times two holders: {found}"


@pytest.mark.parametrize("store", ["embedded-file", "etcd"])
def test_i1_a_store_that_is_wiped_is_noticed_by_all_and_filled_again(store: str, make_lab: MakeLab) -> None:
    lab = make_lab(store=store, hold=HOLD)
    lab.wait_served()
    goes_back(lab, None)
    lab.wait_for("a warning for each node", lambda: warned(lab))


@pytest.mark.parametrize("store", ["embedded-file", "etcd"])
def test_i1_a_copy_from_before_all_addresses_moved_is_restored_and_one_agent_is_restarted(
    store: str, make_lab: MakeLab
) -> None:
    lab = make_lab(store=store, hold=HOLD)
    lab.wait_served()
    before, copy = lab.served(), lab.copy_store()
    # In the copy each address belongs to another node than in truth.
    nodes = lab.layout.node_names
    for address, node in before.items():
        other = nodes[(nodes.index(node) + 1) % len(nodes)]
        locum(lab, node, "ip", "move", address, other)
    lab.wait_served()
    assert all(lab.served()[address] != node for address, node in before.items())
    goes_back(lab, copy, restarted=nodes[0])
