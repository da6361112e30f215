"""The commands against a fake daemon: what they ask, what they print, how they end."""

from __future__ import annotations

import json
import re

import pytest

from locum.api.answers import failure, success
from locum.api.model import AdminResult
from locum.errors import ConfigError, LocumError, StoreUnavailable, UsageError
from locum.rules.schema import AdminRecord, PreferRecord, TunableRecord
from tests.unit.api.views import A, B, C, delete, die, healthy, plan, put, serve
from tests.unit.cli.conftest import Command, as_json, status_of
from tests.unit.cli.test_docs import COMMANDS


def test_status_of_a_settled_cluster(locum: Command) -> None:
    lines = locum("status").splitlines()
    assert lines == [
        "Seen by  n2",
        "Leader   n1",
        "Plan     4 (n3 joined)",
        "State    settled",
        "Store    memory: (hold 2 s, 1.5 s left)",
        "",
        "NUM  NODE  STATE  ADDRESSES  ROLE       PRIVATE   REASON",
        "  0  n1    OK             1  leader     10.0.0.1",
        "  1  n2    OK             1  this node  10.0.0.2",
        "  2  n3    OK             1             10.0.0.3",
        "",
        "3 public addresses, all served",
    ]


def test_status_says_what_is_wrong_and_why(locum: Command) -> None:
    view = locum.scene.view
    die(view, "n3")
    put(view, "health/n1", healthy("n1", healthy=False, reason="50.web: port 80 is closed"))
    put(view, "admin/n2", b"?")
    plan(view, {A: "n2", B: "n2"}, epoch=5, cause="n3 left (DISCONNECTED)")
    text = locum("status")
    assert "Plan     5 (n3 left (DISCONNECTED))" in text
    assert f"State    moving, waiting for n1 to release {A}; n2 to take {A}" in text
    assert "UNHEALTHY" in text
    assert "50.web: port 80 is closed" in text
    assert "3 public addresses, 1 not served, 1 moving:" in text
    assert f"- {A}/24: moves to n2 once n1 has released it" in text
    assert f"- {C}/64: waits for the next plan of the leader, n1" in text
    assert "Warnings:\n- store key 'admin/n2'" in text


def test_status_lists_only_so_many_addresses(locum: Command) -> None:
    status = status_of(locum.scene.view)
    lost = {"bits": 24, "interface": None, "node": None, "serving": False, "state": "unserved"}
    alike = [{**lost, "address": f"192.0.2.{number}", "reason": "all alike"} for number in range(100)]
    status["addresses"] = alike
    locum.scene.answers["status"] = lambda _: success(status)
    text = locum("status")
    assert "100 public addresses, 100 not served:" in text
    assert "192.0.2.4/24, 192.0.2.5/24 and 94 others: all alike" in text
    assert len(text.splitlines()) < 15
    status["addresses"] = [{**address, "reason": f"because {number}"} for number, address in enumerate(alike)]
    text = locum("status")
    assert "- and 88 more: 'locum ip' lists all" in text
    assert len(text.splitlines()) < 30


def test_status_of_a_node_that_hears_nothing_begins_with_that(locum: Command) -> None:
    locum.scene.old = ["the store is away"]
    lines = locum("status", status=3).splitlines()
    assert lines[0] == "! the store is away"
    assert re.fullmatch(r"! what follows was true at .{19}, at this node's last contact with the store", lines[1])
    assert "State    unknown: this is the last state known to this node" in lines


#: What shows the cluster as the daemon knows it.
SHOWING = ["status", "ip", "node", "tunable", "tunable get MonitorInterval", "connections"]


@pytest.mark.parametrize("command", SHOWING)
def test_a_command_that_shows_old_knowledge_says_so(locum: Command, command: str) -> None:
    words = command.split()
    fresh = locum(*words)
    assert locum.err == ""
    locum.scene.old = ["the store does not answer this node"]
    said = locum(*words, status=3) + locum.err
    assert "the store does not answer this node" in said
    assert "was true at" in said
    assert fresh.splitlines()[-1] in said, "what is known is shown all the same"
    shown = json.loads(locum(*words, "--json", status=3))
    assert "the store does not answer this node" in locum.err
    if isinstance(shown, dict):
        assert (shown["stale"], shown["age"]) == (True, 12.5)
        locum.scene.old = []
        assert json.loads(locum(*words, "--json"))["stale"] is False


def test_every_command_that_asks_a_daemon_is_known_to_show_or_not() -> None:
    """A new command has to decide whether what it shows can be old."""
    acting = {"ip move", "ip auto", "tunable set", "tunable reset", "reload", "shutdown"}
    acting |= {f"node {verb}" for verb in ("disable", "enable", "stop", "continue", "ban", "unban", "remove")}
    acting |= {f"connections {verb}" for verb in ("tickle", "kill", "add", "delete")}
    of_this_node = {f"event {verb}" for verb in ("list", "run", "status", "enable", "disable", "check")}
    of_this_node.add("debug dump")
    showing = {"status", "ip list", "node list", "tunable list", "tunable get", "connections list", "history"}
    asking = {
        name.removeprefix("locum ")
        for name, command in COMMANDS.items()
        if any("--socket" in parameter.opts for parameter in command.params) and name != "locum store"
    }
    assert asking == acting | of_this_node | showing


def test_status_json_is_what_the_daemon_said(locum: Command) -> None:
    assert json.loads(locum("status", "--json")) == status_of(locum.scene.view)


def test_status_of_a_newer_daemon_with_more_fields(locum: Command) -> None:
    status = status_of(locum.scene.view)
    status["novelty"] = {"x": 1}
    status["nodes"][0]["novelty"] = 1
    locum.scene.answers["status"] = lambda _: success(status)
    assert "settled" in locum("status")


def test_an_answer_that_is_no_status(locum: Command) -> None:
    locum.scene.answers["status"] = lambda _: success({"nodes": 5})
    locum("status", status=1)
    assert "update 'locum' and the daemon to the same version" in locum.err


@pytest.mark.parametrize("command", [["ip"], ["ip", "list"]])
def test_ip(locum: Command, command: list[str]) -> None:
    view = locum.scene.view
    put(view, f"prefer/{A}", PreferRecord("n1"))
    plan(view, {A: "n1", B: "n2"}, epoch=5)
    delete(view, f"claim/{C}")
    for name in ("n1", "n2", "n3"):
        put(view, f"health/{name}", healthy(name, refused={C: "takeip: no"}))
    assert locum(*command).splitlines() == [
        "ADDRESS         NODE  INTERFACE  STATE     NOTE",
        f"{A}/24    n1    eth1       served    moved there by an admin",
        f"{B}/24    n2    eth1       served",
        f"{C}/64  -     -          unserved  no node can serve it: n1, n2 and n3 could not take it (takeip: no)",
    ]


def test_ip_json_has_the_addresses(locum: Command) -> None:
    data = json.loads(locum("ip", "--json"))
    assert list(data) == ["node", "leader", "epoch", "progress", "stale", "age", "addresses"]
    assert data["addresses"][0]["node"] == "n1"


def test_ip_without_addresses(locum: Command) -> None:
    status = status_of(locum.scene.view)
    status["addresses"] = []
    locum.scene.answers["status"] = lambda _: success(status)
    assert locum("ip") == "No node is configured for any public address.\n"


def test_node_list(locum: Command) -> None:
    put(locum.scene.view, "admin/n3", AdminRecord(disabled=True))
    assert "  2  n3    DISABLED" in locum("node")
    assert list(json.loads(locum("node", "list", "--json"))) == ["node", "leader", "stale", "age", "nodes"]


@pytest.mark.parametrize(
    ("arguments", "request_"),
    [
        ("node enable n1", {"command": "enable", "node": "n1", "wait": 0}),
        ("node enable", {"command": "enable", "node": "", "wait": 0}),
        ("node disable n1", {"command": "disable", "node": "n1", "wait": 20}),
        ("node disable n1 --no-wait", {"command": "disable", "node": "n1", "wait": 0}),
        ("node disable n1 --wait 3", {"command": "disable", "node": "n1", "wait": 3}),
        ("node stop n1", {"command": "stop", "node": "n1", "wait": 20}),
        ("node continue n1", {"command": "continue", "node": "n1", "wait": 0}),
        ("node ban n1", {"command": "ban", "node": "n1", "wait": 20}),
        ("node ban n1 --seconds 5", {"command": "ban", "node": "n1", "wait": 20, "seconds": 5}),
        ("node unban n1", {"command": "unban", "node": "n1", "wait": 0}),
        ("node remove n1", {"command": "remove", "node": "n1", "wait": 0}),
        ("ip move 192.0.2.1 n1", {"command": "move", "address": "192.0.2.1", "node": "n1", "wait": 20}),
        ("ip auto 192.0.2.1", {"command": "auto", "address": "192.0.2.1", "wait": 0}),
        ("tunable set X 5", {"command": "tunable-set", "name": "X", "value": "5", "wait": 0}),
        ("tunable set X -1", {"command": "tunable-set", "name": "X", "value": "-1", "wait": 0}),
        ("tunable reset X", {"command": "tunable-reset", "name": "X", "wait": 0}),
    ],
)
def test_admin_commands_ask_for_what_they_say(locum: Command, arguments: str, request_: dict[str, object]) -> None:
    assert locum(*arguments.split()) == "done so\n"
    assert locum.request == {"op": "admin", **request_}


def test_admin_warnings_go_to_standard_error(locum: Command) -> None:
    locum.scene.admin = as_json(AdminResult("n1 is disabled", warnings=("no other node can serve x",)))
    assert locum("node", "disable", "n1") == "n1 is disabled\n"
    assert locum.err == "locum: note: no other node can serve x\n"


def test_what_is_accepted_but_not_finished_is_no_success(locum: Command) -> None:
    locum.scene.admin = as_json(AdminResult("n1 is disabled", complete=False, pending="still moving: 192.0.2.1 (why)"))
    assert locum("node", "disable", "n1", status=1) == ""
    assert locum.err == "locum: accepted; still moving: 192.0.2.1 (why)\n"
    assert json.loads(locum("node", "disable", "n1", "--json", status=1))["complete"] is False


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (UsageError("unknown node 'x': the nodes are n1"), 2, "locum: unknown node 'x': the nodes are n1\n"),
        (StoreUnavailable("the store does not answer"), 1, "locum: the store does not answer\n"),
        (LocumError("x"), 1, "locum: x\n"),
        (ConfigError("f", ["f:1: a", "f:2: b"]), 2, "locum: f:1: a\nlocum: f:2: b\n"),
    ],
)
def test_errors_of_the_daemon(locum: Command, error: LocumError, status: int, text: str) -> None:
    locum.scene.answers["admin"] = lambda _: failure(error)
    assert locum("node", "enable", status=status) == ""
    assert locum.err == text


def test_tunables(locum: Command) -> None:
    put(locum.scene.view, "tunable/NoIPFailback", TunableRecord(0))
    text = locum("tunable")
    assert "MonitorInterval" in text
    assert "time between two monitor events" in text
    assert locum("tunable", "get", "monitorinterval") == "15\n"
    assert json.loads(locum("tunable", "get", "NoIPFailback", "--json"))["set"] is True
    assert {row["name"] for row in json.loads(locum("tunable", "list", "--json"))["tunables"]} > {"MonitorInterval"}
    locum("tunable", "get", "MonitorIntervall", status=2)
    assert "did you mean MonitorInterval?" in locum.err


def test_reload(locum: Command) -> None:
    locum.scene.answers["reload"] = lambda _: success({"changes": ["address x added"], "ignored": ["node.number"]})
    assert locum("reload") == "address x added\n"
    assert locum.err == "locum: note: node.number has changed; restart the daemon to apply it\n"
    locum.scene.answers["reload"] = lambda _: success({"changes": [], "ignored": []})
    assert locum("reload") == "nothing has changed\n"


def test_shutdown_says_when_it_cannot_see_the_end_of_the_daemon(locum: Command) -> None:
    """The fake daemon has no guard as its parent, like one of another PID namespace."""
    locum.scene.answers["shutdown"] = lambda _: success({"message": "leaving"})
    assert "cannot be watched" in locum("shutdown")
    assert locum("shutdown", "--no-wait") == "the daemon leaves the cluster\n"


def test_shutdown_can_return_when_the_addresses_are_handed_over(locum: Command) -> None:
    locum.scene.answers["shutdown"] = lambda _: success({"message": "the addresses are handed over"})
    assert "are handed over" in locum("shutdown", "--handed-over")
    assert locum.request == {"op": "shutdown", "until": "handed-over"}
    locum("shutdown", "--handed-over", "--no-wait", status=2)


def test_shutdown_until_the_handover_accepts_a_daemon_that_has_ended_meanwhile(locum: Command) -> None:
    locum.scene.answers["shutdown"] = lambda _: None
    assert "are handed over" in locum("shutdown", "--handed-over")


def test_shutdown_from_within_an_event_does_not_wait(locum: Command) -> None:
    message = "leaves the cluster when the event recovered (script 25.a) has ended"
    locum.scene.answers["shutdown"] = lambda _: success({"message": message, "inside": "recovered"})
    assert locum("shutdown") == f"the daemon {message}\n"


def test_status_lists_the_files_that_never_run_and_says_when_the_directory_is_at_fault(locum: Command) -> None:
    ignored = [f"{number}.web.bak: is a copy" for number in range(10, 20)]
    status = status_of(locum.scene.view)
    scripts = {"directory": "/etc/locum/events", "in_use": 4, "ignored": ignored, "problem": ""}
    locum.scene.answers["status"] = lambda _: success({**status, "daemon": {**status["daemon"], "scripts": scripts}})
    text = locum("status")
    assert f"Scripts  4 in use from /etc/locum/events; never run: {'; '.join(ignored[:6])} and 4 others\n" in text
    scripts.update(ignored=[], problem="two scripts")
    assert "Scripts  4 in use from /etc/locum/events; the directory is faulty: see the warnings\n" in locum("status")


def test_watch_json_prints_a_line_per_change(locum: Command) -> None:
    first = status_of(locum.scene.view)
    second = {**first, "leader": "n3"}
    locum.scene.answers["watch"] = lambda _: [success(first), success(second), failure(LocumError("enough"))]
    lines = locum("status", "--watch", "--json", status=1).splitlines()
    assert [json.loads(line)["leader"] for line in lines] == ["n1", "n3"]


def test_watch_without_a_terminal_prints_one_picture_after_the_other(locum: Command) -> None:
    first = status_of(locum.scene.view)
    locum.scene.answers["watch"] = lambda _: [
        success(first),
        success({**first, "leader": "n3"}),
        failure(LocumError("enough")),
    ]
    text = locum("status", "--watch", status=1)
    assert text.count("Seen by") == 2
    assert "\x1b" not in text


def test_watching_addresses_is_not_disturbed_by_what_else_changes(locum: Command) -> None:
    first = status_of(locum.scene.view)
    serve(locum.scene.view, A, "n2")
    third = status_of(locum.scene.view)
    locum.scene.answers["watch"] = lambda _: [
        success(first),
        success({**first, "warnings": ["something"]}),
        success(third),
        failure(LocumError("enough")),
    ]
    assert locum("ip", "--watch", status=1).count("ADDRESS") == 2
    assert len(locum("ip", "--watch", "--json", status=1).splitlines()) == 2


def test_watch_waits_for_a_daemon_that_restarts(locum: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("locum.cli.ask.LOOK_AGAIN", 0.01)
    first = status_of(locum.scene.view)
    rounds = iter([[success(first)], None, [success(first), failure(LocumError("enough"))]])
    locum.scene.answers["watch"] = lambda _: next(rounds)
    assert len(locum("status", "--watch", "--json", status=1).splitlines()) == 2
    assert locum.err.count("waiting for it") == 1
