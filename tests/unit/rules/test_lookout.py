"""The look for other clusters: what an agent that adopts may claim before it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from locum.rules import schema
from locum.rules.effects import CommitWork, LookForClusters
from locum.rules.identity import Adoption, Identity
from locum.rules.node import Node
from locum.rules.schema import ClaimRecord, HealthRecord, HostedAddress, NodeRecord, PlanRecord
from locum.rules.view import View
from locum.store.base import CommitResult, Entry, Snapshot
from tests.unit.rules.test_history import HOLD, MARGIN, WAIT, member_entries

HELD, ADDED = HostedAddress("10.0.0.1", 24, ("eth0",)), HostedAddress("10.0.0.2", 24, ("eth0",))


def adopted(*, claimed: bool) -> tuple[Node, list[object]]:
    """A node that has adopted HELD; a reload had given it ADDED just before, which its predecessor had claimed or not.
    Its first effects."""
    entries = {entry.key: entry for entry in member_entries("abc", beat=20)}
    plan = PlanRecord(1, {HELD.address: "n1", ADDED.address: "n1"}, {"n1": "abc"}, "test")
    entries["plan"] = Entry("plan", schema.encode(plan), 4)
    entries["node/n1"] = Entry("node/n1", schema.encode(NodeRecord(0, "", (HELD, ADDED), WAIT)), 2)
    entries["health/n1"] = Entry("health/n1", schema.encode(HealthRecord("abc", True, True, True)), 4)
    if claimed:
        key = f"claim/{ADDED.address}"
        entries[key] = Entry(key, schema.encode(ClaimRecord("n1", "abc", "eth0", False)), 6)
    identity = Identity("n1", HOLD, MARGIN, None, "", (HELD, ADDED), "here", search=True)
    node = Node(identity, View(), lambda: "new", Adoption("abc", 102.0, 0, 20, 0.0, {HELD.address: "eth0"}))
    node.links_changed({"eth0": True}, 100.5, 1.7e9)
    node.store_read(Snapshot(20, tuple(entries.values())), 0, 100.5, 1.7e9)
    effects: list[object] = list(node.take_effects())
    for revision, commit in enumerate([effect for effect in effects if isinstance(effect, CommitWork)], 21):
        node.commit_done(commit.request, CommitResult(True, revision), 100.5, 1.7e9)
    return node, [*effects, *node.take_effects()]


def claims(effects: Sequence[object]) -> bool:
    """Whether the node claims ADDED."""
    commits = [effect.commit for effect in effects if isinstance(effect, CommitWork)]
    return any(operation.key == f"claim/{ADDED.address}" for commit in commits for operation in commit.operations)


def test_an_adopting_agent_looks_for_other_clusters_before_it_claims_what_a_reload_had_added() -> None:
    """Its predecessor may have died before it had looked."""
    node, effects = adopted(claimed=False)
    assert not claims(effects)
    (look,) = [effect for effect in effects if isinstance(effect, LookForClusters)]
    node.clusters_seen(look.request, "", frozenset(), 100.6, 1.7e9)
    assert claims(node.take_effects())


def test_an_adopting_agent_claims_nothing_that_another_cluster_serves() -> None:
    node, effects = adopted(claimed=False)
    (look,) = [effect for effect in effects if isinstance(effect, LookForClusters)]
    problem = "another cluster serves it"
    node.clusters_seen(look.request, problem, frozenset({ADDED.address}), 100.6, 1.7e9)
    assert not claims(node.take_effects())
    assert node.parts.lookout.occupied([HELD.address, ADDED.address]) == {ADDED.address: problem}


@pytest.mark.parametrize("claimed", [True, False])
def test_what_was_claimed_needs_no_second_look(claimed: bool) -> None:
    node, _ = adopted(claimed=claimed)
    assert node.parts.lookout.barred() == (frozenset() if claimed else {ADDED.address})
