"""Closing events that keep failing: a fault of one node bans that node, a fault of all nodes bans none."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from locum.rules.effects import Effect, RunEvent
from locum.rules.plan import NodeState, node_state
from locum.store.base import Delete
from tests.unit.rules.spoiled import Spoiled


class Failing(Spoiled):
    """A cluster where ``fails(node, event)`` says which events fail now."""

    def __init__(self, *names: str) -> None:
        super().__init__(*names)
        self.fails: Callable[[str, str], bool] = lambda _node, _event: False
        self.runs: list[tuple[float, str, str]] = []
        self.outcome = self._run

    def _run(self, name: str, effect: Effect) -> str:
        if isinstance(effect, RunEvent):
            self.runs.append((self.now, name, effect.event))
            if self.fails(name, effect.event):
                return "50.web failed (status 1): broken"
        return ""

    def states(self) -> dict[str, NodeState]:
        """Each node's state, as the first one sees it."""
        view = self.nodes["n1"].view
        return {name: node_state(view, name, self.wall_of("n1")) for name in self.nodes}

    def reconfigure(self) -> None:
        """Have every node run the closing events once more."""
        self.core.commit((), [Delete("plan")])


def recovered_fails_on(*nodes: str) -> Callable[[str, str], bool]:
    return lambda node, event: node in nodes and event == "recovered"


@pytest.fixture
def cluster() -> Failing:
    made = Failing("n1", "n2", "n3")
    made.run(10)
    assert set(made.states().values()) == {NodeState.OK}
    return made


def test_a_node_whose_recovered_keeps_failing_while_it_succeeds_elsewhere_is_banned(cluster: Failing) -> None:
    cluster.fails = recovered_fails_on("n2")
    cluster.reconfigure()
    cluster.run(10)
    assert cluster.states() == {"n1": NodeState.OK, "n2": NodeState.BANNED, "n3": NodeState.OK}


def test_a_recovered_that_fails_on_all_nodes_bans_none_moves_nothing_and_is_tried_ever_more_slowly(
    cluster: Failing,
) -> None:
    served = {a: claim.record.node for a, claim in cluster.nodes["n1"].view.claims.items()}
    cluster.fails = recovered_fails_on("n1", "n2", "n3")
    cluster.reconfigure()
    cluster.run(200)
    assert set(cluster.states().values()) == {NodeState.OK}
    assert {a: claim.record.node for a, claim in cluster.nodes["n1"].view.claims.items()} == served
    tries = [at for at, name, event in cluster.runs if (name, event) == ("n2", "recovered") and at > 1015]
    assert 8 <= len(tries) <= 12, tries
    assert any("no other node has completed it either" in note for note in cluster.notes)
    cluster.fails = recovered_fails_on()
    cluster.run(40)
    assert all(p.record.phase == "recovered" for p in cluster.nodes["n1"].view.phases.values())


def test_when_one_node_gets_through_the_others_are_banned_but_never_the_last(cluster: Failing) -> None:
    cluster.fails = recovered_fails_on("n1", "n2", "n3")
    cluster.reconfigure()
    cluster.run(20)
    cluster.fails = recovered_fails_on("n1", "n2")
    cluster.run(80)
    assert cluster.states() == {"n1": NodeState.BANNED, "n2": NodeState.BANNED, "n3": NodeState.OK}
    cluster.fails = recovered_fails_on("n1", "n2", "n3")
    cluster.reconfigure()
    cluster.run(80)
    assert cluster.states()["n3"] is NodeState.OK


def test_a_single_node_never_bans_itself() -> None:
    cluster = Failing("n1")
    cluster.run(10)
    cluster.fails = recovered_fails_on("n1")
    cluster.reconfigure()
    cluster.run(60)
    assert cluster.states() == {"n1": NodeState.OK}


def test_two_nodes_that_ban_themselves_at_once_do_not_rely_on_each_other(cluster: Failing) -> None:
    cluster.nodes.pop("n3")
    cluster.run(20)
    for name in ("n1", "n2"):
        cluster.nodes[name].parts.following.ban("a test")
    cluster.run(5)
    assert sorted(cluster.states().values()) == [NodeState.BANNED, NodeState.OK]
