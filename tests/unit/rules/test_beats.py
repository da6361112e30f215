"""An outage of the store: who beats when, once it is over."""

from __future__ import annotations

from locum.rules import schema
from locum.rules.effects import SendBeat
from locum.rules.node import LOOK_AGAIN, Node
from locum.rules.schema import BeatRecord
from locum.store.base import Put
from tests.unit.rules.spoiled import Spoiled


def beats(node: Node, now: float) -> int:
    """How many beats the node sends at ``now``; none is answered."""
    node.tick(now, 1.7e9 + now)
    return sum(isinstance(effect, SendBeat) for effect in node.take_effects())


def see_beat(cluster: Spoiled, node: Node, other: str) -> None:
    """``node`` sees in its watch that ``other`` has beaten."""
    record = cluster.nodes[other].status().incarnation
    cluster.core.commit((), (Put(f"beat/{other}", schema.encode(BeatRecord(record, 10**6 + cluster.core.revision))),))
    _, batches = cluster.core.history(node.view.revision, "", 10**6)
    for batch in batches:
        node.store_changed(batch, cluster.now, cluster.wall_of(node.status().identity.name))


def test_the_first_beat_that_is_seen_again_makes_the_others_beat_at_once() -> None:
    cluster = Spoiled("n1", "n2")
    cluster.run(5.0)
    node = cluster.nodes["n1"]
    # From now on n1 gets no answers; it tries at every turn.
    tries = 0
    for _ in range(12):
        cluster.now += 0.1
        tries += beats(node, cluster.now)
    assert tries == 3
    while not beats(node, cluster.now):
        cluster.now += 0.1
    cluster.now += 0.01
    assert beats(node, cluster.now) == 0
    see_beat(cluster, node, "n2")
    assert node.next_wakeup() <= cluster.now + LOOK_AGAIN
    assert beats(node, cluster.now) == 1
    # Once: the next ones that are seen say nothing new.
    cluster.now += 0.01
    see_beat(cluster, node, "n2")
    assert beats(node, cluster.now) == 0


def test_as_long_as_own_beats_are_answered_those_of_others_hurry_nobody() -> None:
    cluster = Spoiled("n1", "n2")
    cluster.run(5.0)
    node = cluster.nodes["n1"]
    cluster.now += 0.05
    before = beats(node, cluster.now)
    see_beat(cluster, node, "n2")
    assert before + beats(node, cluster.now) <= 1
