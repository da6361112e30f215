"""What nodes tell of: every node the same, with its cause, whichever of them leads."""

from __future__ import annotations

import msgspec

from locum.rules import schema
from locum.rules.chronicle import UNFINISHED
from locum.rules.effects import Effect, TakeAddress
from locum.rules.occurrences import Occurrence
from locum.rules.schema import AdminRecord
from locum.store.base import Delete, Put
from tests.unit.rules.rig import Cluster

ADDRESSES = ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4")


def cluster_of(*names: str) -> Cluster:
    """A settled cluster, whose nodes tell of what happens from now on."""
    cluster = Cluster(*names, addresses=ADDRESSES)
    cluster.run(8.0)
    assert len(cluster.held()) == len(ADDRESSES)
    for node in cluster.nodes.values():
        node.parts.chronicle.begin_anew()
        node.take_occurrences()
    return cluster


def told(cluster: Cluster, name: str) -> dict[str, Occurrence]:
    """Key → the latest form of what the node has told of since the last call."""
    return {one.key: one for one in cluster.nodes[name].take_occurrences()}


def disable(cluster: Cluster, name: str, *, disabled: bool = True) -> None:
    cluster.core.commit((), (Put(f"admin/{name}", schema.encode(AdminRecord(disabled=disabled))),))


def without_times(found: dict[str, Occurrence]) -> dict[str, Occurrence]:
    """Clocks differ, and so does the time at which nodes see something."""
    return {
        key: msgspec.structs.replace(
            one, at=0.0, moves=tuple(msgspec.structs.replace(group, unserved=()) for group in one.moves)
        )
        for key, one in found.items()
    }


def test_what_the_first_read_shows_has_not_happened_now() -> None:
    cluster = cluster_of("n1", "n2")
    cluster.run(5.0)
    assert told(cluster, "n1") == {}


def test_every_node_tells_the_same_of_moves_states_and_causes() -> None:
    cluster = cluster_of("n1", "n2", "n3")
    lost = {address for address, node in cluster.held().items() if node == "n2"}
    disable(cluster, "n2")
    cluster.run(3.0)
    disable(cluster, "n2", disabled=False)
    cluster.run(3.0)
    found = {name: told(cluster, name) for name in cluster.nodes}
    first = without_times(found["n1"])
    assert without_times(found["n2"]) == first
    assert without_times(found["n3"]) == first
    in_order = [found["n1"][key] for key in sorted(first)]
    assert [(one.kind, one.node, one.was, one.state) for one in in_order if one.kind == "state"] == [
        ("state", "n2", "OK", "DISABLED"),
        ("state", "n2", "DISABLED", "OK"),
    ]
    away, back = (one for one in in_order if one.kind == "moves")
    assert {address for group in away.moves for address in group.addresses} == lost
    assert {group.source for group in away.moves} == {"n2"}
    assert away.cause == "n2 is DISABLED"
    assert {group.target for group in back.moves} == {"n2"}
    assert not away.open
    assert all(0 <= lasted < 1000 for group in away.moves for lasted in group.unserved)


def test_addresses_of_a_dead_node_were_unserved_since_its_last_beat() -> None:
    cluster = cluster_of("n1", "n2", "n3")
    victim = next(name for name in ("n2", "n3", "n1") if not cluster.nodes[name].leads())
    mine = {address for address, node in cluster.held().items() if node == victim}
    cluster.frozen.add(victim)
    died = cluster.now
    cluster.run(6.0)
    survivor = next(name for name in cluster.nodes if name != victim)
    found = told(cluster, survivor)
    (gone,) = [one for one in found.values() if one.kind == "state"]
    assert (gone.node, gone.state, gone.cause) == (victim, "DISCONNECTED", "it gave no sign for its hold")
    (moves,) = [one for one in found.values() if one.moves]
    assert {address for group in moves.moves for address in group.addresses} == mine
    lasted = [one for group in moves.moves for one in group.unserved]
    # The hold of 2 s, counted from a beat that is at most its interval older.
    assert all(2000 <= one <= (cluster.now - died) * 1000 + 500 for one in lasted)


def test_a_new_leader_remembers_what_the_old_one_may_not_have_written() -> None:
    cluster = cluster_of("n1", "n2", "n3")
    leader = next(name for name, node in cluster.nodes.items() if node.leads())
    cluster.frozen.add(leader)
    cluster.run(6.0)
    (heir,) = [name for name, node in cluster.nodes.items() if name != leader and node.leads()]
    kinds = [one.kind for one in cluster.nodes[heir].remembered()]
    assert "leader" in kinds
    assert "state" in kinds
    assert "moves" in kinds


def test_moves_that_take_long_are_told_before_they_have_ended_and_again_afterwards() -> None:
    cluster = cluster_of("n1", "n2")
    hanging: list[tuple[str, int]] = []

    def outcome(name: str, effect: Effect) -> str | None:
        if isinstance(effect, TakeAddress):
            hanging.append((name, effect.request))
            return None
        return ""

    cluster.outcome = outcome
    disable(cluster, "n2")
    cluster.run(UNFINISHED + 2.0)
    (begun,) = [one for one in told(cluster, "n1").values() if one.kind == "moves"]
    assert begun.open
    assert begun.moves == ()
    cluster.outcome = lambda *_: ""
    cluster.tell(hanging[0][0], "activity_done", hanging[0][1], True, "")
    cluster.run(3.0)
    (ended,) = [one for one in told(cluster, "n1").values() if one.kind == "moves"]
    assert ended.key == begun.key
    assert not ended.open
    assert {group.target for group in ended.moves} == {"n1"}


def test_a_refusal_names_the_addresses_and_the_reason() -> None:
    cluster = cluster_of("n1", "n2")
    cluster.outcome = lambda name, effect: "no route" if isinstance(effect, TakeAddress) and name == "n1" else ""
    disable(cluster, "n2")
    cluster.run(4.0)
    refused = [one for one in told(cluster, "n2").values() if one.kind == "refused"]
    assert refused
    assert {(one.node, one.cause) for one in refused} == {("n1", "takeip: no route")}
    assert {address for one in refused for address in one.addresses} <= set(ADDRESSES)


def test_addresses_that_no_node_can_serve_go_to_none() -> None:
    cluster = cluster_of("n1", "n2")
    disable(cluster, "n1")
    disable(cluster, "n2")
    cluster.run(4.0)
    targets = {group.target for one in told(cluster, "n1").values() for group in one.moves}
    assert "" in targets


def test_an_address_that_returns_without_a_plan_is_told_of_as_well() -> None:
    cluster = cluster_of("n1", "n2")
    address = ADDRESSES[0]
    holder = cluster.held()[address]
    cluster.core.commit((), (Delete(f"claim/{address}"),))
    cluster.run(3.0)
    moved = [one for one in told(cluster, "n1").values() if one.kind == "moves"]
    assert [(group.source, group.target) for one in moved for group in one.moves] == [(holder, holder)]
    assert moved[0].concerns(address)
    assert moved[0].concerns(holder)
    assert not moved[0].concerns("10.0.0.99")


def test_what_went_to_no_node_is_told_once() -> None:
    cluster = cluster_of("n1", "n2")
    for name in ("n1", "n2"):
        disable(cluster, name)
    cluster.run(4.0)
    assert any(group.target == "" for one in told(cluster, "n1").values() for group in one.moves)
    # Plans that have nothing to do with it.
    cluster.start("n3")
    disable(cluster, "n3")
    cluster.run(6.0)
    assert [group for one in told(cluster, "n1").values() for group in one.moves] == []


def test_claims_that_are_freed_after_their_membership_count_from_the_last_beat_as_well() -> None:
    cluster = cluster_of("n1", "n2", "n3")
    victim = next(name for name in ("n2", "n3", "n1") if not cluster.nodes[name].leads())
    survivor = next(name for name in cluster.nodes if name != victim)
    mine = {address for address, node in cluster.held().items() if node == victim}
    cluster.frozen.add(victim)
    cluster.run(1.0)
    cluster.core.commit((), (Delete(f"member/{victim}"),))
    cluster.run(6.0)
    lasted = {
        address: one
        for entry in told(cluster, survivor).values()
        for group in entry.moves
        for address, one in zip(group.addresses, group.unserved, strict=True)
        if group.source == victim
    }
    assert lasted.keys() == mine
    assert all(one >= 1000 for one in lasted.values())


def test_another_history_of_the_store_has_no_entries_of_this_one() -> None:
    cluster = cluster_of("n1", "n2")
    disable(cluster, "n2")
    cluster.run(3.0)
    node = cluster.nodes["n1"]
    assert node.remembered()
    node.parts.chronicle.forget()
    assert node.remembered() == []
    assert node.take_occurrences() == []
