"""Values in the store that Locum did not write: what they may not do, and who puts right what they broke."""

from __future__ import annotations

import math

import msgspec
import pytest

from locum.errors import StoreCorrupt
from locum.rules import schema
from locum.rules.plan import NodeState
from locum.rules.schema import AdminRecord, HostedAddress, MemberRecord, PreferRecord, Record
from locum.store.base import Delete, Put
from tests.unit.rules.spoiled import Spoiled, started

ADDRESS = HostedAddress("10.0.0.1", 24, ("eth0",))


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("member/n1", '{"incarnation":"a","hold":1e9,"margin":0}', "<= 600.0 - at `$.hold`"),
        ("member/n1", '{"incarnation":"a","hold":0,"margin":0}', "> 0.0 - at `$.hold`"),
        ("member/n1", '{"incarnation":"a","hold":2,"margin":-1}', "at `$.margin`"),
        ("member/n1", '{"incarnation":"","hold":2,"margin":1}', "at `$.incarnation`"),
        ("node/n1", '{"number":-1}', "at `$.number`"),
        ("node/n1", '{"number":1,"wait":1e300}', "at `$.wait`"),
        ("node/n1", '{"number":1,"addresses":[{"address":"x","bits":1,"interfaces":[]}]}', "'x' is not an IP address"),
        ("admin/n1", '{"banned_until":-1}', "at `$.banned_until`"),
        ("admin/n1", '{"banned_until":1e300}', "at `$.banned_until`"),
        ("tunable/MonitorInterval", '{"value":-5}', "expected a number of seconds"),
        ("plan", '{"epoch":99999999999999999999999,"assignment":{},"participants":{},"cause":""}', "at `$.epoch`"),
        ("phase/n1", '{"incarnation":"a","epoch":1,"phase":"lost"}', "phase 'lost' is none of"),
        ("member/../../../etc/x", '{"incarnation":"a","hold":2,"margin":1}', "is not the name of a node"),
        ("node/n1\x1b[2J", '{"number":1}', "is not the name of a node"),
        ("admin/.hidden", "{}", "is not the name of a node"),
        ("beat/a b", '{"incarnation":"a","sequence":1}', "is not the name of a node"),
        ("health/$(reboot)", '{"incarnation":"a"}', "is not the name of a node"),
        ("phase/a\n", '{"incarnation":"a","epoch":1,"phase":"settled"}', "is not the name of a node"),
        ("number/1", '{"node":"../n1"}', "is not the name of a node"),
        ("leader", '{"node":"/etc/passwd","incarnation":"a"}', "is not the name of a node"),
        ("claim/10.0.0.1", '{"node":"../../x","incarnation":"a","interface":"b"}', "is not the name of a node"),
        ("claim/../../x", '{"node":"n1","incarnation":"a","interface":"b"}', "is not an IP address"),
        ("claim/010.0.0.1", '{"node":"n1","incarnation":"a","interface":"b"}', "is not an IP address"),
        ("prefer/::FFFF:10.0.0.1", '{"node":"n1"}', "is not an IP address"),
        ("plan", '{"epoch":1,"assignment":{"10.0.0.1":"../x"},"participants":{},"cause":""}', "is not the name"),
        ("plan", '{"epoch":1,"assignment":{},"participants":{"../x":"a"},"cause":""}', "is not the name"),
        ("leader/n1", '{"node":"n1","incarnation":"a"}', "not a key that Locum writes"),
        ("claim", '{"node":"n1","incarnation":"a","interface":"b"}', "not a key that Locum writes"),
    ],
)
def test_a_value_that_locum_would_never_write_is_refused_by_the_name_of_its_key(
    key: str, value: str, complaint: str
) -> None:
    with pytest.raises(StoreCorrupt) as caught:
        schema.decode(key, value.encode())
    assert f"store key {key!r}" in str(caught.value)
    assert complaint in str(caught.value)


def test_the_terms_of_a_membership_cannot_be_changed_under_a_node() -> None:
    cluster = started("n1", "n2")
    server = cluster.server()
    other = "n2" if server == "n1" else "n1"
    key = f"member/{server}"
    old = cluster.get(key)
    assert isinstance(old, MemberRecord)
    # With these terms, the others could take over long before the node has fallen silent.
    cluster.put(key, MemberRecord(old.incarnation, 0.01, 0.0, old.machine))
    view = cluster.nodes[other].view
    _, batches = cluster.core.history(view.revision, "", 10)
    for batch in batches:
        view.apply(batch)
    assert view.members[server].record == old
    assert key in view.corrupt
    cluster.run(8.0)
    cluster.settled()
    new = cluster.get(key)
    assert isinstance(new, MemberRecord)
    assert (new.hold, new.incarnation != old.incarnation) == (2.0, True)


@pytest.mark.parametrize("garbage", [b"", b"garbage", b"{}x", b"[1]", b"\xff"], ids=repr)
def test_i9_what_an_admin_decided_survives_garbage_in_its_key_and_a_restart_of_everybody(garbage: bytes) -> None:
    cluster = started("n1", "n2")
    server = cluster.server()
    other = "n2" if server == "n1" else "n1"
    decided: dict[str, Record] = {
        f"admin/{server}": AdminRecord(disabled=True),
        "prefer/10.0.0.1": schema.PreferRecord(server),
        "tunable/MonitorInterval": schema.TunableRecord(7.0),
    }
    for key, record in decided.items():
        cluster.put(key, record)
    cluster.run(4.0)
    assert cluster.server() == other
    numbers = {key: cluster.get(key) for key in ("number/0", "number/1")}
    for key in (*decided, *numbers):
        cluster.put(key, garbage)
    cluster.run(1.0)
    assert {key: cluster.get(key) for key in decided} == decided
    assert {key: cluster.get(key) for key in numbers} == numbers
    for key in (*decided, *numbers):
        assert any(f"store key {key!r}" in note for note in cluster.notes), key
        assert any("rewritten with their last known values" in note and key in note for note in cluster.notes), key
    cluster.start("n1")
    cluster.start("n2")
    cluster.run(12.0)
    cluster.settled()
    assert cluster.server() == other


def test_i9_a_node_whose_admin_record_nobody_can_read_serves_nothing_until_an_admin_decides() -> None:
    cluster = Spoiled("n1", "n2")
    cluster.put("admin/n1", b"garbage")
    cluster.run(8.0)
    assert cluster.state("n2", "n1") is NodeState.DISABLED
    assert cluster.server() == "n2"
    assert "admin/n1" in cluster.nodes["n1"].view.corrupt
    cluster.put("admin/n2", AdminRecord(disabled=True))
    cluster.put("admin/n1", AdminRecord())
    cluster.run(8.0)
    cluster.settled()
    assert cluster.server() == "n1"


def test_a_number_that_somebody_deleted_or_gave_away_is_taken_back() -> None:
    cluster = started("n1", "n2")
    numbers = {key: cluster.get(key) for key in ("number/0", "number/1")}
    cluster.core.commit((), [Delete("number/0")])
    cluster.put("number/1", schema.NumberRecord("stranger"))
    cluster.run(1.0)
    assert {key: cluster.get(key) for key in numbers} == numbers


@pytest.mark.parametrize("kind", schema.RECORDS)
def test_garbage_under_any_key_of_a_cluster_is_repaired(kind: str) -> None:
    cluster = started("n1", "n2")
    # Records that this cluster has not written by itself.
    cluster.put("held/10.0.0.1", schema.HeldRecord("n1"))
    cluster.put("admin/n1", AdminRecord())
    cluster.put("prefer/10.0.0.1", PreferRecord(cluster.server()))
    cluster.put("tunable/MonitorInterval", schema.TunableRecord(7.0))
    cluster.run(1.0)
    server = cluster.server()
    keys = [key for key in cluster.nodes["n1"].view.known_keys() if schema.split_key(key)[0] == kind]
    assert keys
    for key in keys:
        cluster.put(key, b"garbage")
        cluster.run(20.0)
        cluster.settled()
        # A node that must join anew loses its addresses to the other one, which an admin's preference brings back.
        assert cluster.server() == server, key


@pytest.mark.parametrize(
    "key", ["beat/ghost", "health/ghost", "phase/ghost", "member/ghost", "claim/10.0.0.9", "held/10.0.0.9", "plan"]
)
def test_garbage_that_belongs_to_nobody_is_cleared_away(key: str) -> None:
    cluster = started("n1", "n2")
    cluster.put(key, b"garbage")
    cluster.run(6.0)
    cluster.settled()


@pytest.mark.parametrize("key", ["claim", "claim/", "member/", "beat/", "held", "leader/n1"])
def test_a_key_that_locum_does_not_write_is_named_and_left_alone(key: str) -> None:
    cluster = started("n1", "n2")
    cluster.put(key, b"{}")
    cluster.run(10.0)
    assert cluster.core.get(key) is not None
    assert all(key in node.view.corrupt for node in cluster.nodes.values())


def test_a_foreign_member_that_never_beats_is_expired() -> None:
    cluster = started("n1", "n2")
    server = cluster.server()
    cluster.put("member/ghost", MemberRecord("boo", 5.0, 1.0))
    cluster.put("health/ghost", schema.HealthRecord("boo", started=True, earned=True, healthy=True))
    cluster.put("leader", schema.LeaderRecord("ghost", "boo"))
    cluster.put("beat/ghost", schema.BeatRecord("boo", 1))
    cluster.run(15.0)
    cluster.settled()
    assert cluster.get("member/ghost") is None
    assert cluster.server() == server
    for node in cluster.nodes.values():
        assert node.view.leader is not None
        assert node.view.leader.record.node in cluster.nodes


@pytest.mark.parametrize("offset", [-86400.0, -30.0, 30.0, 86400.0, -1.7e9, 1e10])
@pytest.mark.parametrize("wrong", ["leader", "other"])
def test_a_wrong_clock_costs_nothing_but_the_length_of_bans(offset: float, wrong: str) -> None:
    cluster = started("n1", "n2", "n3")
    leader = cluster.nodes["n1"].view.leader
    assert leader is not None
    name = leader.record.node if wrong == "leader" else next(n for n in cluster.nodes if n != leader.record.node)
    epoch = cluster.nodes["n1"].view.plan
    server = cluster.server()
    cluster.wall[name] = offset
    cluster.run(10.0)
    cluster.settled()
    assert cluster.server() == server
    plan = cluster.nodes["n1"].view.plan
    assert plan is not None
    assert epoch is not None
    assert plan.record.epoch == epoch.record.epoch


@pytest.mark.parametrize("offset", [-40.0, 0.0, 40.0])
def test_a_ban_ends_by_the_leaders_clock_and_always_ends(offset: float) -> None:
    cluster = started("n1", "n2", "n3")
    leader = cluster.nodes["n1"].view.leader
    assert leader is not None
    victim = next(n for n in cluster.nodes if n != leader.record.node)
    cluster.wall[leader.record.node] = offset
    banned = AdminRecord(banned_until=cluster.wall_of(victim) + 20.0, ban_reason="try")
    cluster.put(f"admin/{victim}", banned)
    seconds = 0.0
    while cluster.get(f"admin/{victim}") == banned:
        cluster.run(1.0)
        seconds += 1.0
        assert seconds < 100
    expected = max(20.0 - offset, 0.0)
    assert math.isclose(seconds, expected, abs_tol=3.0), f"{seconds} s, expected {expected}"
    cluster.run(5.0)
    cluster.settled()
    assert cluster.state(leader.record.node, victim) is NodeState.OK


@pytest.mark.parametrize("offset", [-40.0, 40.0])
def test_a_banned_node_with_a_wrong_clock_stays_out_all_the_same(offset: float) -> None:
    cluster = started("n1", "n2", "n3")
    leader = cluster.nodes["n1"].view.leader
    assert leader is not None
    victim = next(n for n in cluster.nodes if n != leader.record.node)
    cluster.put("prefer/10.0.0.1", schema.PreferRecord(victim))
    cluster.run(5.0)
    assert cluster.server() == victim
    cluster.wall[victim] = offset
    others = [n for n in cluster.nodes if n != victim]
    right = cluster.wall_of(others[0])
    cluster.put(f"admin/{victim}", AdminRecord(banned_until=right + 20.0, ban_reason="try"))
    cluster.run(5.0)
    assert cluster.server() != victim
    assert cluster.state(others[0], victim) is NodeState.BANNED
    cluster.run(25.0 + max(-offset, 0.0))
    cluster.settled()
    assert cluster.state(others[0], victim) is NodeState.OK


def test_a_plan_that_somebody_deleted_moves_nothing() -> None:
    cluster = started("n1", "n2")
    server = cluster.server()
    claim = cluster.core.get("claim/10.0.0.1")
    cluster.core.commit((), [Delete("plan")])
    cluster.run(3.0)
    cluster.settled()
    assert cluster.server() == server
    assert cluster.core.get("claim/10.0.0.1") == claim
    assert cluster.get("plan") is not None


def test_a_stopped_node_serves_nothing_even_when_somebody_deleted_the_plan() -> None:
    cluster = started("n1")
    cluster.core.commit((), [Delete("plan"), Put("admin/n1", schema.encode(AdminRecord(stopped=True)))])
    cluster.run(3.0)
    assert not cluster.nodes["n1"].parts.serving.local
    assert cluster.core.get("claim/10.0.0.1") is None
    cluster.put("admin/n1", AdminRecord())
    cluster.run(5.0)
    cluster.settled()


def test_a_foreign_record_of_a_node_does_not_change_its_number() -> None:
    cluster = started("n1", "n2")
    before = {key: cluster.get(key) for key in ("node/n1", "node/n2", "number/0", "number/1")}
    cluster.put("node/n1", schema.NodeRecord(77))
    cluster.put("node/n2", schema.NodeRecord(0))
    cluster.run(2.0)
    assert {key: cluster.get(key) for key in before} == before
    assert cluster.get("number/77") is None


def test_a_spoiled_claim_that_its_node_does_not_know_any_more_is_written_anew() -> None:
    cluster = started("n1", "n2")
    leader = cluster.nodes["n1"].view.leader
    assert leader is not None
    other = "n1" if leader.record.node == "n2" else "n2"
    cluster.put("prefer/10.0.0.1", PreferRecord(other))
    cluster.run(3.0)
    assert cluster.server() == other
    # Its hold ended, the address was released, and the store is read anew after the gap.
    node = cluster.nodes[other]
    node.parts.serving.local.clear()
    cluster.put("claim/10.0.0.1", b"garbage")
    node.view.reset(cluster.core.snapshot(""))
    cluster.run(8.0)
    cluster.settled()


def test_a_node_takes_no_address_that_its_own_configuration_lacks() -> None:
    """Whatever a writer of the store says that it could host, and on which interfaces."""
    cluster = started("n1", "n2")
    own = cluster.get("node/n1")
    assert isinstance(own, schema.NodeRecord)
    foreign = HostedAddress("192.0.2.66", 8, ("lo",))
    other = HostedAddress(ADDRESS.address, 8, ("lo",))
    plan = cluster.get("plan")
    assert isinstance(plan, schema.PlanRecord)
    assignment = {**plan.assignment, foreign.address: "n1"}
    cluster.put("node/n1", msgspec.structs.replace(own, addresses=(other, foreign)))
    cluster.put("plan", msgspec.structs.replace(plan, epoch=plan.epoch + 1, assignment=assignment))
    for _ in range(40):
        cluster.run(0.1)
        assert cluster.core.get(f"claim/{foreign.address}") is None
        assert foreign.address not in cluster.nodes["n1"].parts.serving.local
    cluster.run(8.0)
    cluster.settled()
