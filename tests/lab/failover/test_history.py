"""An hour later: what ``locum history`` tells of faults and commands, at every node, whichever nodes died meanwhile."""

from __future__ import annotations

import time

import msgspec
import pytest

from locum.rules.occurrences import Occurrence
from locum_lab.lab import Lab
from tests.lab.clusters import addresses_of, locum, wait_moved, wait_state
from tests.lab.failover.scene import Cluster

pytestmark = pytest.mark.lab


def history(lab: Lab, node: str, *arguments: str) -> list[Occurrence]:
    """What the command prints at a node."""
    return msgspec.json.decode(locum(lab, node, "history", "--json", *arguments), type=list[Occurrence])


def moved(found: list[Occurrence], source: str) -> dict[str, Occurrence]:
    """Address → the latest entry that tells of its move away from ``source``."""
    return {
        address: one for one in found for group in one.moves if group.source == source for address in group.addresses
    }


def test_a_command_and_its_author_and_what_it_moved(cluster: Cluster) -> None:
    lab = cluster()
    mine = addresses_of(lab, "n2")
    locum(lab, "n1", "node", "disable", "n2")

    def told() -> bool:
        found = history(lab, "n3")
        commands = [one for one in found if one.kind == "command" and "n2 is disabled" in one.command]
        return bool(commands) and set(moved(found, "n2")) >= set(mine)

    lab.wait_for("the history", told)
    found = history(lab, "n3")
    (command,) = [one for one in found if one.kind == "command" and "n2 is disabled" in one.command]
    assert (command.node, command.by.split()[0]) == ("n1", "root")
    for address in mine:
        one = moved(found, "n2")[address]
        assert one.cause == "n2 is DISABLED"
        assert time.time() - 600 < one.at <= time.time()
        text = locum(lab, "n1", "history", address)
        assert f"moved from n2 to {lab.served()[address]}" in text.replace("\n", " ")
    assert history(lab, "n1") == history(lab, "n2") == history(lab, "n3")
    assert locum(lab, "n1", "history", "--since", "0s").startswith("Nothing is known")
    locum(lab, "n1", "history", "--since", "soon", status=2)


def test_the_death_of_the_leader_is_told_by_its_heir_and_survives_every_daemon(cluster: Cluster) -> None:
    lab = cluster()
    leader = lab.status().leader
    assert leader is not None
    mine = addresses_of(lab, leader)
    asked = next(node for node in lab.layout.node_names if node != leader)
    lab.fault(leader, "kill-all")
    wait_moved(lab, mine, leader)

    def told() -> bool:
        return set(moved(history(lab, asked), leader)) >= set(mine)

    lab.wait_for("the history", told)
    found = history(lab, asked)
    ended = [one for one in found if one.kind == "state" and one.node == leader and one.state == "DISCONNECTED"]
    assert [one.cause for one in ended] == ["it gave no sign for its hold"]
    assert [one for one in found if one.kind == "leader" and one.node != leader]
    for address in mine:
        one = moved(found, leader)[address]
        assert leader in one.cause
        (lasted,) = [
            group.unserved[group.addresses.index(address)] for group in one.moves if address in group.addresses
        ]
        assert lasted >= lab.layout.hold * 1000
    lab.heal()
    wait_state(lab, leader, "OK")
    lab.wait_served()
    keys = [one.key for one in found]
    for node in lab.layout.node_names:
        lab.fault(node, "kill-agent")
    lab.wait_for("the daemons", lambda: wait_state(lab, asked, "OK") is not None)
    assert [one.key for one in history(lab, leader, "-n", "2000")][: len(keys)] == keys
