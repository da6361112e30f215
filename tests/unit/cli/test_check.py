"""``locum status --check``: the exit statuses and the line that a monitoring system shows."""

from __future__ import annotations

import json

import pytest

from locum.api.answers import failure
from locum.errors import PermissionRequired
from locum.rules.schema import AdminRecord, PreferRecord
from tests.unit.api.views import A, B, C, delete, healthy, plan, put
from tests.unit.cli.conftest import Command

FIGURES = "served=3 unserved=0 moving=0 nodes_ok=3 nodes=3"


def test_everything_served(locum: Command) -> None:
    assert locum("status", "--check") == f"LOCUM OK - 3 public addresses, all served | {FIGURES}\n"


def test_an_unserved_address_is_critical_and_named_with_its_reason(locum: Command) -> None:
    view = locum.scene.view
    delete(view, f"claim/{C}")
    for name in ("n1", "n2", "n3"):
        put(view, f"health/{name}", healthy(name, refused={C: "takeip: a | b\x1b[31m"}))
    line = locum("status", "--check", status=2)
    assert line.startswith(f"LOCUM CRITICAL - 1 of 3 public addresses not served: {C} (was to be served by n3,")
    assert line.endswith(" | served=2 unserved=1 moving=0 nodes_ok=3 nodes=3\n")
    assert line.count("|") == 1, "a bar begins the performance data"
    assert line.isprintable() or line[:-1].isprintable()


def test_an_address_that_is_answered_for_while_it_moves_is_served(locum: Command) -> None:
    plan(locum.scene.view, {A: "n2", B: "n2", C: "n3"}, epoch=5)
    assert "unserved=0 moving=1" in locum("status", "--check")


def test_a_node_that_is_cut_off_does_not_know(locum: Command) -> None:
    delete(locum.scene.view, f"claim/{C}")
    locum.scene.old = ["the store does not answer this node"]
    said = "LOCUM UNKNOWN - n2 is cut off: the store does not answer this node\n"
    assert locum("status", "--check", status=3) == said
    assert locum("status", "--check", "--warnings", status=3) == said


def test_warnings_and_nodes_that_are_not_ok_count_on_demand(locum: Command) -> None:
    view = locum.scene.view
    put(view, "admin/n3", AdminRecord(disabled=True))
    put(view, f"prefer/{A}", PreferRecord("n1"))
    put(view, "admin/n2", b"?")
    assert locum("status", "--check").startswith("LOCUM OK - ")
    line = locum("status", "--check", "--warnings", status=1)
    assert line.startswith(
        "LOCUM WARNING - 3 public addresses, all served; n2 is DISABLED; n3 is DISABLED; store key 'admin/n2'"
    )


def test_json_with_the_same_status(locum: Command) -> None:
    delete(locum.scene.view, f"claim/{C}")
    assert json.loads(locum("status", "--check", "--json", status=2))["node"] == "n2"


@pytest.mark.parametrize("options", [["--watch"], ["--nonsense"], ["surplus"]])
def test_a_check_that_is_called_wrongly_is_unknown_and_not_critical(locum: Command, options: list[str]) -> None:
    locum("status", "--check", *options, status=3)
    locum("status", *[option for option in options if option != "--watch"], "--warnings", status=2)


def test_without_an_answer_nothing_is_known(locum: Command) -> None:
    assert locum("status", "--check", "--socket", "/nowhere/x.sock", status=3).startswith(
        "LOCUM UNKNOWN - no Locum daemon"
    )
    locum.scene.answers["status"] = lambda _: failure(PermissionRequired("run as root"))
    assert locum("status", "--check", status=3) == "LOCUM UNKNOWN - run as root\n"
