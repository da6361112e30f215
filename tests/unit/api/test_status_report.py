"""What status shows: the fields, and that every oddity is said with its reason."""

from __future__ import annotations

import msgspec
import pytest

from locum.api.model import AddressReport, DaemonState, NodeReport, StatusReport
from locum.api.status_report import differs, status_report, tunable_reports
from locum.config.tunables import TUNABLES, Tunables
from locum.rules.schema import (
    DIRTY,
    PREPARED,
    SETTLED,
    AdminRecord,
    MemberRecord,
    NodeRecord,
    PhaseRecord,
    PreferRecord,
    TunableRecord,
)
from locum.rules.view import View
from tests.unit.api.views import WALL, A, B, C, cluster, delete, die, healthy, hosted, plan, put, serve

NO_TAKEOVER = Tunables(no_ip_takeover=1)


def report(view: View, daemon: DaemonState | None = None, tunables: Tunables | None = None) -> StatusReport:
    return status_report(view, "n2", WALL, tunables or Tunables(), daemon)


def node(view: View, name: str) -> NodeReport:
    return next(n for n in report(view).nodes if n.name == name)


def address(view: View, wanted: str, tunables: Tunables | None = None) -> AddressReport:
    return next(a for a in report(view, tunables=tunables).addresses if a.address == wanted)


def test_a_settled_cluster() -> None:
    shown = report(cluster())
    assert (shown.node, shown.leader, shown.epoch, shown.cause) == ("n2", "n1", 4, "n3 joined")
    assert (shown.progress, shown.waiting_for, shown.warnings) == ("settled", (), ())
    assert [(n.name, n.number, n.state, n.addresses) for n in shown.nodes] == [
        ("n1", 0, "OK", (A,)),
        ("n2", 1, "OK", (B,)),
        ("n3", 2, "OK", (C,)),
    ]
    assert [n.name for n in shown.nodes if n.local] == ["n2"]
    assert [n.name for n in shown.nodes if n.leader] == ["n1"]
    assert [(a.address, a.bits, a.interface, a.node, a.serving, a.state) for a in shown.addresses] == [
        (A, 24, "eth1", "n1", True, "served"),
        (B, 24, "eth1", "n2", True, "served"),
        (C, 64, "eth1", "n3", True, "served"),
    ]
    assert {a.hosts for a in shown.addresses} == {("n1", "n2", "n3")}


def test_the_json_has_the_promised_fields_and_reads_back() -> None:
    shown = report(cluster(), DaemonState(hold=2, hold_left=1.5, store="memory:", stage="member"))
    text = msgspec.json.encode(shown)
    data = msgspec.json.decode(text)
    assert {"name", "number", "state", "addresses"} <= data["nodes"][0].keys()
    assert {"address", "bits", "interface", "node"} <= data["addresses"][0].keys()
    assert {"leader", "epoch"} <= data.keys()
    assert msgspec.json.decode(text, type=StatusReport) == shown


def test_addresses_are_sorted_as_numbers_and_families() -> None:
    view = cluster()
    put(view, "node/n1", NodeRecord(0, "", hosted(["192.0.2.10", "2001:db8::1", C, A, "192.0.2.9"])))
    shown = [a.address for a in report(view).addresses]
    assert shown == [A, B, "192.0.2.9", "192.0.2.10", "2001:db8::1", C]


@pytest.mark.parametrize(
    ("admin", "health", "state", "reason"),
    [
        (None, {"healthy": False, "reason": "50.web: port 80 is closed"}, "UNHEALTHY", "50.web: port 80 is closed"),
        (None, {"down": ("eth1",)}, "PARTIALLYONLINE", "no link on eth1"),
        (AdminRecord(disabled=True), {}, "DISABLED", ""),
        (AdminRecord(stopped=True, disabled=True), {}, "STOPPED", "stopped by an admin"),
        (AdminRecord(banned_until=WALL + 60, ban_reason="recovered failed"), {}, "BANNED", "recovered failed"),
        (AdminRecord(banned_until=WALL + 60), {}, "BANNED", "banned by an admin"),
        (AdminRecord(banned_until=WALL - 1), {}, "OK", ""),
        (None, {"leaving": True}, "OK", "it is stopping"),
        (None, {"refused": {A: "takeip: no"}}, "OK", f"could not take {A}"),
    ],
)
def test_a_nodes_state_and_why(admin: AdminRecord | None, health: dict[str, object], state: str, reason: str) -> None:
    view = cluster()
    if admin is not None:
        put(view, "admin/n2", admin)
    put(view, "health/n2", healthy("n2", **health))
    shown = node(view, "n2")
    assert (shown.state, shown.reason) == (state, reason)


def test_a_node_that_takes_over_nothing_yet_says_so() -> None:
    view = cluster()
    assert not node(view, "n2").waits
    put(view, "health/n2", healthy("n2", waits=True))
    shown = node(view, "n2")
    assert (shown.state, shown.waits) == ("OK", True)
    assert shown.reason == "takes over nothing for the length of a hold after its start or an outage of the store"


def test_nodes_that_are_gone_or_new_or_say_nothing() -> None:
    view = cluster()
    die(view, "n3")
    gone = node(view, "n3")
    assert (gone.state, gone.incarnation, gone.phase, gone.addresses) == ("DISCONNECTED", None, None, ())
    assert "not running" in gone.reason
    put(view, "member/n9", MemberRecord("n9-1", 2.0, 0.03))
    new = node(view, "n9")
    assert (new.number, new.state) == (None, "UNHEALTHY")
    assert report(view).nodes[-1].name == "n9"
    # What an earlier incarnation said counts no more.
    put(view, "member/n2", MemberRecord("n2-2", 2.0, 0.03))
    assert node(view, "n2").state == "UNHEALTHY"
    assert node(view, "n2").phase is None


def test_an_address_that_moves() -> None:
    view = cluster()
    plan(view, {A: "n2", B: "n2", C: "n3"}, epoch=5)
    shown = address(view, A)
    assert (shown.state, shown.node, shown.assigned, shown.serving) == ("moving", "n1", "n2", True)
    assert shown.reason == "moves to n2 once n1 has released it"
    delete(view, f"claim/{A}")
    shown = address(view, A)
    assert (shown.state, shown.node, shown.interface, shown.serving) == ("moving", None, None, False)
    assert shown.reason == "n2 is about to take it"
    serve(view, A, "n2", serving=False)
    shown = address(view, A)
    assert (shown.state, shown.node, shown.serving, shown.reason) == ("moving", "n2", False, "n2 is taking it")


def test_why_nobody_serves_an_address() -> None:
    view = cluster()
    put(view, "admin/n1", AdminRecord(disabled=True))
    put(view, "health/n2", healthy("n2", down=("eth1",)))
    put(view, "health/n3", healthy("n3", refused={A: "takeip: 50.web failed"}))
    delete(view, f"claim/{A}")
    plan(view, {B: "n2", C: "n3"}, epoch=5)
    shown = address(view, A)
    assert shown.state == "unserved"
    assert shown.reason == (
        "no node can serve it: n1 is DISABLED; n2 has no link on eth1; n3 could not take it (takeip: 50.web failed)"
    )


def test_what_other_nodes_found_is_told_while_one_node_tries() -> None:
    view = cluster()
    foreign = "another machine has it: hardware address 02:00:5e:00:53:01 on eth1"
    plan(view, {A: "n2", B: "n2", C: "n3"}, epoch=5)
    put(view, "health/n1", healthy("n1", occupied={A: foreign}))
    delete(view, f"claim/{A}")
    assert address(view, A).reason == f"n2 is about to take it; n1 does not take it ({foreign})"
    serve(view, A, "n2", serving=False)
    assert address(view, A).reason == f"n2 is taking it; n1 does not take it ({foreign})"
    # Before the leader has heard of the second one.
    put(view, "health/n2", healthy("n2", occupied={A: foreign}))
    assert address(view, A).reason == (
        f"n2 is taking it; n1 does not take it ({foreign}); n2 does not take it ({foreign})"
    )
    delete(view, f"claim/{A}")
    assert address(view, A).reason == (
        f"was to be served by n2, which does not take it ({foreign}); n1 does not take it ({foreign})"
    )
    # What a node that is gone has found counts no more.
    die(view, "n1")
    assert "n1" not in address(view, A).reason


def test_nodes_with_the_same_reason_are_named_together() -> None:
    view = cluster()
    for name in ("n1", "n2", "n3"):
        put(view, f"admin/{name}", AdminRecord(disabled=True))
    delete(view, f"claim/{A}")
    plan(view, {}, epoch=5)
    assert address(view, A).reason == "no node can serve it: n1, n2 and n3 are DISABLED"


def test_an_address_that_could_be_served_but_is_not_assigned_yet() -> None:
    view = cluster()
    delete(view, f"claim/{A}")
    plan(view, {B: "n2", C: "n3"}, epoch=5)
    assert address(view, A).reason == "waits for the next plan of the leader, n1"
    assert "NoIPTakeover is 1" in address(view, A, NO_TAKEOVER).reason
    delete(view, "leader")
    assert address(view, A).reason == "there is no leader yet to assign it"


def test_an_address_whose_holder_died_or_whose_claim_has_no_member() -> None:
    view = cluster()
    die(view, "n2")
    assert address(view, B).reason.startswith("n2 is gone; the leader's next plan")
    plan(view, {A: "n1", B: "n1", C: "n3"}, epoch=5)
    put(view, f"claim/{B}", b'{"node":"n2","incarnation":"n2-1","interface":"eth1","serving":true}')
    shown = address(view, B)
    assert (shown.node, shown.serving) == (None, False)
    assert shown.reason == "n1 takes it once the hold of n2, which is gone, is certainly over"


def test_an_address_that_is_configured_nowhere_any_more() -> None:
    view = cluster()
    for number, name in enumerate(("n1", "n2", "n3")):
        put(view, f"node/{name}", NodeRecord(number, "", hosted([A, B])))
    shown = address(view, C)
    assert (shown.bits, shown.hosts, shown.node) == (128, (), "n3")
    plan(view, {A: "n1", B: "n2"}, epoch=5)
    assert address(view, C).reason == "n3 is giving it up: no node is configured for it"


def test_a_preference_that_cannot_be_met_is_said() -> None:
    view = cluster()
    put(view, f"prefer/{A}", PreferRecord("n2"))
    put(view, "admin/n2", AdminRecord(disabled=True))
    shown = address(view, A)
    assert (shown.state, shown.preferred) == ("served", "n2")
    assert shown.reason == "an admin moved it to n2, which is DISABLED"


def test_progress_through_the_phases() -> None:
    view = cluster()
    plan(view, {A: "n2", B: "n2", C: "n3"}, epoch=5, prepare=True)
    assert report(view).progress == "preparing"
    assert report(view).waiting_for[0] == "n1 to run startipreallocate"
    assert "once n1, n2 and n3 finished startipreallocate" in address(view, A).reason
    for name in ("n1", "n2", "n3"):
        put(view, f"phase/{name}", PhaseRecord(f"{name}-1", 5, PREPARED))
    assert report(view).progress == "moving"
    assert report(view).waiting_for == (f"n1 to release {A}", f"n2 to take {A}", "n3 to settle")
    serve(view, A, "n2")
    for name in ("n1", "n2", "n3"):
        put(view, f"phase/{name}", PhaseRecord(f"{name}-1", 5, SETTLED))
    assert report(view).progress == "recovering"
    assert report(view).waiting_for[0] == "n1 to run ipreallocated and recovered"
    # A node that died is not waited for; one that must settle again has closed this plan.
    die(view, "n1")
    put(view, "phase/n2", PhaseRecord("n2-1", 5, DIRTY, "an address came back"))
    assert report(view).waiting_for == ("n3 to run ipreallocated and recovered",)


def test_before_the_first_plan() -> None:
    view = cluster()
    delete(view, "plan", *(f"claim/{address}" for address in (A, B, C)))
    shown = report(view)
    assert (shown.epoch, shown.cause, shown.progress) == (0, "", "none")
    assert shown.waiting_for
    assert {a.state for a in shown.addresses} == {"unserved"}


def test_a_view_that_was_never_loaded_is_shown_with_a_warning() -> None:
    shown = report(View(), DaemonState(stage="joining", store="unix:/x", store_problem="connection refused"))
    assert shown.nodes == ()
    assert shown.warnings == ("this node has not read the store yet (connection refused): this report is incomplete",)


def test_warnings() -> None:
    view = cluster()
    put(view, "health/n3", healthy("n3", warning="the kernel has no nftables: the hold is kept by lifetimes"))
    put(view, "admin/n2", b"{")
    put(view, "node/n3", NodeRecord(2, "", (*hosted([A, B]), hosted([C])[0].__class__(C, 48, ("eth1",)))))
    put(view, "member/n3", MemberRecord("n3-1", 2.0, 0.03, "host", "0.2.0"))
    delete(view, "leader")
    daemon = DaemonState(stage="member", hold=2.0, hold_left=0.0, store_problem="timed out")
    text = "\n".join(report(view, daemon, NO_TAKEOVER).warnings)
    for part in (
        "n3: the kernel has no nftables",
        "store key 'admin/n2'",
        f"{C} is configured with different prefix lengths: /48 on n3; /64 on n1 and n2",
        "the nodes run different versions: 0.1.0 on n1 and n2; 0.2.0 on n3",
        "there is no leader",
        "this node's hold has ended",
        "the store does not answer this node (timed out)",
        "NoIPTakeover is 1",
    ):
        assert part in text


def test_a_node_that_does_not_hear_from_the_store_says_so() -> None:
    view = cluster()
    assert not report(view, DaemonState(stage="member", hold=2.0, hold_left=0.1)).stale
    assert report(view, DaemonState(stage="member", hold=2.0, hold_left=0.1, store_problem="timed out")).stale
    shown = report(view, DaemonState(stage="member", hold=2.0, hold_left=0.0))
    assert shown.stale
    assert [(a.address, a.node, a.serving, a.state) for a in shown.addresses] == [
        (A, "n1", True, "served"),
        (B, "n2", False, "unserved"),
        (C, "n3", True, "served"),
    ]
    assert "hold of n2 has ended" in shown.addresses[1].reason


def test_a_member_whose_view_is_older_than_its_hold_says_so() -> None:
    """Its commits are answered, its watch is late: what it shows is old all the same."""
    view = cluster()
    fresh = DaemonState(stage="member", hold=2.0, hold_left=1.9, age=1.0)
    assert not report(view, fresh).stale
    late = report(view, msgspec.structs.replace(fresh, age=2.5))
    assert (late.stale, late.age) == (True, 2.5)
    assert "late" in late.warnings[0]
    # While a node joins nothing comes back to it that would tell.
    assert not report(view, msgspec.structs.replace(fresh, stage="joining", age=30.0)).stale
    # Time alone is no news for a watcher.
    assert not differs(report(view, fresh), report(view, msgspec.structs.replace(fresh, age=0.4)))


def test_a_node_that_has_lost_its_membership_says_so_before_its_watch_does() -> None:
    shown = report(cluster(), DaemonState(stage="lost", hold=2.0, hold_left=0.0))
    assert shown.stale
    assert not shown.addresses[1].serving
    assert any("membership is over" in warning for warning in shown.warnings)


def test_what_a_watcher_is_told() -> None:
    view = cluster()
    before = report(view, DaemonState(hold=2.0, hold_left=1.9, stage="member"))
    put(view, "beat/n1", b'{"incarnation":"n1-1","sequence":7}')
    assert not differs(before, report(view, DaemonState(hold=2.0, hold_left=1.2, stage="member")))
    assert differs(before, report(view, DaemonState(hold=2.0, hold_left=0.0, stage="member")))
    put(view, "admin/n1", AdminRecord(disabled=True))
    assert differs(before, report(view))


def test_tunables_have_all_rows_and_say_what_is_set() -> None:
    view = cluster()
    put(view, "tunable/MonitorInterval", TunableRecord(5.0))
    rows = {row.name: row for row in tunable_reports(view, Tunables(monitor_interval=5.0))}
    assert rows.keys() == TUNABLES.keys()
    assert (rows["MonitorInterval"].value, rows["MonitorInterval"].default, rows["MonitorInterval"].set) == (
        5,
        15,
        True,
    )
    assert not rows["NoIPFailback"].set
    assert all(row.meaning and row.expected for row in rows.values())
