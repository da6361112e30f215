"""Admin commands: what they commit, under which conditions, what they refuse and why, and what they wait for."""

from __future__ import annotations

import pytest

from locum.errors import UsageError
from locum.rules.admin import WaitFor, default_tunables, parse_request, plan_command
from locum.rules.plan import NodeState
from locum.rules.schema import (
    AdminRecord,
    NodeRecord,
    PreferRecord,
    TunableRecord,
)
from locum.rules.view import View
from locum.store.base import Condition
from tests.unit.api.views import WALL, A, B, C, cluster, commit, delete, die, healthy, hosted, put, serve
from tests.unit.rules.admin_scene import done, refused, run, state


@pytest.mark.parametrize(
    ("there", "back", "between"),
    [
        ("disable", "enable", NodeState.DISABLED),
        ("stop", "continue", NodeState.STOPPED),
        ("ban", "unban", NodeState.BANNED),
    ],
)
def test_there_and_back(there: str, back: str, between: NodeState) -> None:
    view = cluster()
    change = done(view, there, node="n1")
    assert state(view, "n1") is between
    assert change.message.startswith("n1 is ")
    assert change.wait == WaitFor("moved", "n1", (A,), 20.0)
    done(view, back, node="n1")
    assert state(view, "n1") is NodeState.OK


@pytest.mark.parametrize("command", ["disable", "enable", "stop", "continue", "ban", "unban"])
def test_a_change_is_conditional_on_what_was_seen(command: str) -> None:
    view = cluster()
    put(
        view,
        "admin/n1",
        AdminRecord(disabled=command == "enable", stopped=command == "continue", banned_until=WALL + 9),
    )
    change = run(view, command, node="n1")
    assert view.condition("admin/n1") in change.conditions
    # A node that is removed meanwhile must not come back as an admin record alone.
    assert view.condition("node/n1") in change.conditions


def test_the_first_admin_record_of_a_node_is_conditional_on_absence() -> None:
    assert Condition("admin/n1", 0) in run(cluster(), "disable", node="n1").conditions


@pytest.mark.parametrize(
    ("command", "says"),
    [("enable", "was not disabled"), ("continue", "was not stopped"), ("unban", "was not banned")],
)
def test_ending_what_is_not_so_is_fine_and_says_so(command: str, says: str) -> None:
    change = run(cluster(), command, node="n1")
    assert change.operations == ()
    assert says in change.message


def test_doing_what_is_so_already_commits_nothing_but_still_waits() -> None:
    view = cluster()
    done(view, "disable", node="n1")
    change = run(view, "disable", node="n1")
    assert change.operations == ()
    assert "already" in change.message
    assert change.wait is not None


def test_commands_touch_only_their_own_part() -> None:
    view = cluster()
    put(view, "admin/n1", AdminRecord(disabled=True, stopped=True, banned_until=WALL + 60, ban_reason="x"))
    done(view, "continue", node="n1")
    assert view.admin["n1"].record == AdminRecord(disabled=True, banned_until=WALL + 60, ban_reason="x")
    done(view, "unban", node="n1")
    assert view.admin["n1"].record == AdminRecord(disabled=True)


def test_what_still_keeps_a_node_from_serving_is_said() -> None:
    view = cluster()
    put(view, "admin/n1", AdminRecord(disabled=True, stopped=True, banned_until=WALL + 60))
    warnings = "\n".join(run(view, "enable", node="n1").warnings)
    assert "still banned for 60 s" in warnings
    assert "still stopped: 'locum node continue n1'" in warnings
    put(view, "admin/n1", AdminRecord(disabled=True))
    put(view, "health/n1", healthy("n1", healthy=False, reason="50.web failed"))
    assert "UNHEALTHY" in "".join(run(view, "enable", node="n1").warnings)


def test_without_a_node_the_answering_one_is_meant_and_a_number_will_do() -> None:
    assert run(cluster(), "disable").message == "n2 is disabled"
    assert run(cluster(), "disable", node="2").message == "n3 is disabled"


def test_an_unknown_node_names_the_known_ones() -> None:
    assert refused(cluster(), "disable", node="n9") == "unknown node 'n9': the nodes are n1, n2 and n3"
    assert refused(cluster(), "disable", node="9").startswith("unknown node '9'")


def test_disabling_the_last_one_warns_which_addresses_are_lost() -> None:
    view = cluster()
    put(view, "node/n3", NodeRecord(2, "", hosted([C])))
    assert run(view, "disable", node="n1").warnings == ()
    done(view, "disable", node="n1")
    assert run(view, "disable", node="n2").warnings == (f"no other node can serve {A} and {B} at the moment",)
    done(view, "disable", node="n2")
    assert run(view, "stop", node="n3").warnings == (f"no other node can serve {C} at the moment",)


def test_unhealthy_nodes_that_would_take_over_count_as_able() -> None:
    """When no node is healthy the others serve all the same, so that disabling the last healthy one loses nothing."""
    view = cluster()
    for name in ("n2", "n3"):
        put(view, f"health/{name}", healthy(name, healthy=False, reason="x"))
    assert run(view, "disable", node="n1").warnings == (
        "no healthy node is left: n2 and n3 will serve although UNHEALTHY",
    )
    put(view, "tunable/NoIPHostOnAllDisabled", TunableRecord(1))
    assert run(view, "disable", node="n1").warnings == (f"no other node can serve {A}, {B} and {C} at the moment",)


def test_a_node_that_is_away_can_be_disabled_for_its_return() -> None:
    view = cluster()
    die(view, "n3")
    change = done(view, "disable", node="n3")
    assert change.wait is None
    assert "takes effect when it joins" in change.warnings[0]


def test_the_length_of_a_ban() -> None:
    view = cluster()
    done(view, "ban", node="n1")
    assert view.admin["n1"].record.banned_until == WALL + 300
    put(view, "tunable/RecoveryBanPeriod", TunableRecord(7))
    done(view, "ban", node="n1")
    assert view.admin["n1"].record.banned_until == WALL + 7
    done(view, "ban", node="n1", seconds=60)
    assert view.admin["n1"].record.banned_until == WALL + 60
    for seconds in (0, -1, 1e9, float("inf"), float("nan")):
        assert "cannot ban for" in refused(view, "ban", node="n1", seconds=seconds)


def test_a_corrupt_admin_record_is_repaired_by_any_command() -> None:
    view = cluster()
    done(view, "disable", node="n1")
    put(view, "admin/n1", b"nonsense")
    done(view, "disable", node="n1")
    assert not view.corrupt
    assert view.admin["n1"].record == AdminRecord(disabled=True)
    put(view, "admin/n1", b"nonsense")
    done(view, "enable", node="n1")
    assert not view.corrupt
    assert state(view, "n1") is NodeState.OK


def test_remove_forgets_everything_about_a_node_that_is_gone() -> None:
    view = cluster()
    put(view, "admin/n3", AdminRecord(disabled=True))
    put(view, f"prefer/{C}", PreferRecord("n3"))
    die(view, "n3")
    change = run(view, "remove", node="n3")
    assert Condition("member/n3", 0) in change.conditions
    assert {c.key for c in change.conditions} >= {"node/n3", "number/2", "admin/n3", f"prefer/{C}"}
    done(view, "remove", node="n3")
    assert not any("n3" in key for key in view._revisions)
    assert view.revision_of("number/2") == 0
    assert view.revision_of(f"prefer/{C}") == 0
    assert "n3" not in refused(view, "disable", node="x")


def test_remove_refuses_a_member_a_holder_and_no_name() -> None:
    view = cluster()
    assert refused(view, "remove", node="n3").startswith("n3 is OK: stop its daemon first")
    die(view, "n3")
    serve(view, C, "n3")
    assert f"has not given up {C} yet" in refused(view, "remove", node="n3")
    assert "give the name" in refused(view, "remove")


def test_remove_works_on_a_node_whose_record_cannot_be_read() -> None:
    view = cluster()
    die(view, "n3")
    delete(view, "node/n3")
    put(view, "node/n3", b"nonsense")
    done(view, "remove", node="n3")
    assert view.corrupt == {}


def test_remove_of_a_node_with_more_preferences_than_a_commit_holds() -> None:
    view = cluster()
    die(view, "n3")
    for number in range(200):
        put(view, f"prefer/198.51.100.{number}", PreferRecord("n3"))
    change = done(view, "remove", node="n3")
    assert len(change.operations) <= 100
    assert len(change.conditions) <= 100
    assert "repeat" in change.message
    while "repeat" in change.message:
        change = done(view, "remove", node="n3")
    assert view.prefer == {}
    assert "n3" not in view.nodes


def test_tunable_set_and_reset() -> None:
    view = cluster()
    assert (
        done(view, "tunable-set", name="MonitorInterval", value="5").message
        == "MonitorInterval = 5 seconds, on all nodes"
    )
    assert view.tunables["MonitorInterval"].record.value == 5
    assert run(view, "tunable-set", name="MonitorInterval", value=5.0).message == "MonitorInterval = 5 seconds already"
    change = done(view, "tunable-reset", name="MonitorInterval")
    assert change.message == "MonitorInterval = 15 seconds, its default, on all nodes"
    assert "MonitorInterval" not in view.tunables
    assert run(view, "tunable-reset", name="MonitorInterval").operations == ()


def test_tunables_that_cannot_be() -> None:
    view = cluster()
    assert "did you mean MonitorInterval?" in refused(view, "tunable-set", name="MonitorIntervall", value="5")
    assert "from 0.2 to 3600" in refused(view, "tunable-set", name="MonitorInterval", value="0")
    assert "0 or 1" in refused(view, "tunable-set", name="NoIPFailback", value="2")
    assert "'nan'" in refused(view, "tunable-set", name="MonitorInterval", value="nan")
    assert "no value given" in refused(view, "tunable-set", name="MonitorInterval")
    assert "unknown tunable" in refused(view, "tunable-reset", name="X")


def test_a_corrupt_tunable_can_be_set_and_reset() -> None:
    view = cluster()
    put(view, "tunable/MonitorInterval", b"x")
    done(view, "tunable-set", name="MonitorInterval", value="5")
    assert view.corrupt == {}
    put(view, "tunable/MonitorInterval", b"x")
    done(view, "tunable-reset", name="MonitorInterval")
    assert view.corrupt == {}


def test_defaults_from_the_configuration_never_override() -> None:
    view = cluster()
    put(view, "tunable/MonitorInterval", TunableRecord(7))
    change = default_tunables(view, {"MonitorInterval": 5.0, "NoIPFailback": 1})
    assert change is not None
    assert change.conditions == (Condition("tunable/NoIPFailback", 0),)
    commit(view, change.operations)
    assert view.tunables["NoIPFailback"].record.value == 1
    assert default_tunables(view, {"MonitorInterval": 5.0, "NoIPFailback": 1}) is None


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"command": "explode"},
        {"command": 5},
        {"command": "disable", "node": 5},
        {"command": "disable", "nodes": "n1"},
        {"command": "ban", "seconds": "long"},
        {"command": "disable", "wait": None},
    ],
)
def test_a_request_that_is_none_is_refused(message: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="not an admin command"):
        parse_request(message)


def test_nothing_is_done_before_the_store_was_read() -> None:
    with pytest.raises(UsageError, match="has not read the store yet"):
        plan_command(View(), parse_request({"command": "disable"}), local="n1", wall=WALL)


@pytest.mark.parametrize(
    ("command", "fields", "read"),
    [
        ("disable", {"node": "n1"}, {"admin/n1", "node/n1"}),
        ("stop", {"node": "n1"}, {"admin/n1", "node/n1"}),
        ("ban", {"node": "n1", "seconds": 5.0}, {"admin/n1", "node/n1"}),
        ("move", {"node": "n1", "address": B}, {f"prefer/{B}", "member/n1", "admin/n1"}),
        ("tunable-set", {"name": "TickleCount", "value": 7}, {"tunable/TickleCount"}),
    ],
)
def test_i8_a_command_is_conditional_on_every_key_that_it_read(
    command: str, fields: dict[str, object], read: set[str]
) -> None:
    view = cluster()
    change = run(view, command, **fields)
    assert {c.key for c in change.commit.conditions} == read
    assert all(view.condition(c.key) == c for c in change.commit.conditions)


def test_i8_removing_a_node_is_conditional_on_its_not_being_a_member() -> None:
    view = cluster()
    die(view, "n1")
    change = run(view, "remove", node="n1")
    conditions = {c.key: c.revision for c in change.commit.conditions}
    assert conditions["member/n1"] == 0
    assert {o.key for o in change.operations} <= set(conditions)
