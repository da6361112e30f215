"""Nodes of another cluster, and machines of no cluster at all, that have the same addresses: with real daemons."""

from __future__ import annotations

import json
import sys

import pytest

from locum_lab.lab import Lab
from tests.lab.clusters import locum, locum_json
from tests.lab.conftest import MakeLab

pytestmark = pytest.mark.lab

LOCUM = (sys.executable, "-m", "locum.cli.main")


def rename(lab: Lab, node: str, *changes: tuple[str, str]) -> None:
    """Change the configuration of a node; the first one is what ``cluster.name`` becomes in the tests below."""
    path = lab.node_directory(node) / "config.toml"
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


def misspell(lab: Lab, node: str) -> None:
    rename(lab, node, (f'name = "{lab.layout.name}"', 'name = "misspelt"'))


def status(lab: Lab, node: str) -> dict[str, object]:
    return locum_json(lab, node, "status")


def obstacle(lab: Lab, node: str) -> str:
    """Why the node has not joined; the daemon may not answer yet."""
    done = lab.run(node, [*LOCUM, "status", "--json"])
    if not done.stdout.startswith("{"):
        return ""
    return str((json.loads(done.stdout)["daemon"] or {}).get("obstacle", ""))


def test_i1_a_node_with_a_misspelt_cluster_name_does_not_join(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=2, addresses=4, hold=1.0, daemons=False)
    misspell(lab, "n2")
    lab.start_daemon("n1")
    lab.wait_for("n1 to serve all", lambda: len(lab.configured("n1")) == 4)
    lab.start_daemon("n2")

    def refused() -> str:
        """First it waits to see whether n1 lives."""
        why = obstacle(lab, "n2")
        return why if "'misspelt'" in why else ""

    why = lab.wait_for("n2 to say why it does not join", refused)
    for part in ("'misspelt'", repr(lab.layout.name), "10.77.0.2", "fd77::2", "n1"):
        assert part in why
    assert lab.configured("n2") == {}
    assert len(lab.configured("n1")) == 4
    # With the right name it joins.
    lab.stop_daemon("n2")
    rename(lab, "n2", ('name = "misspelt"', f'name = "{lab.layout.name}"'))
    lab.start_daemon("n2")
    lab.wait_served()


def test_i1_of_two_clusters_that_start_at_the_same_instant_one_serves(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=2, addresses=4, hold=1.0, daemons=False)
    misspell(lab, "n2")
    lab.start_daemons()
    lab.wait_for("one to serve all", lambda: 4 in (len(lab.configured("n1")), len(lab.configured("n2"))), 60)
    configured = sorted(len(lab.configured(node)) for node in ("n1", "n2"))
    assert configured == [0, 4]


def test_what_a_dead_cluster_left_keeps_no_node_from_joining(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=2, addresses=4, hold=1.0, daemons=False)
    misspell(lab, "n2")
    lab.start_daemon("n2")
    lab.wait_for("n2 to serve all", lambda: len(lab.configured("n2")) == 4)
    lab.fault("n2", "kill-all")
    lab.start_daemon("n1")
    lab.wait_for("n1 to serve all", lambda: len(lab.configured("n1")) == 4, 60)
    assert "'misspelt'" in lab.daemon_log("n1").read_text()


def test_i1_a_cluster_with_a_store_of_its_own_is_found_on_the_wire(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=2, addresses=4, hold=1.0, daemons=False)
    rename(lab, "n2", ("store = ", 'store = "memory:" # '))
    lab.start_daemon("n1")
    lab.wait_for("n1 to serve all", lambda: len(lab.configured("n1")) == 4)
    lab.start_daemon("n2")
    mac = lab.layout.mac("n1", "eth1")

    def refused() -> dict[str, str]:
        done = lab.run("n2", [*LOCUM, "status", "--json"])
        if not done.stdout.startswith("{"):
            return {}
        reasons = {a["address"]: a["reason"] for a in json.loads(done.stdout)["addresses"]}
        return reasons if len(reasons) == 4 and all(mac in reason for reason in reasons.values()) else {}

    lab.wait_for("n2 to name the hardware address of n1", refused)
    assert lab.configured("n2") == {}
    assert len(lab.configured("n1")) == 4


def test_a_foreign_machine_keeps_its_own_address_only(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=2, addresses=4, hold=1.0, daemons=False)
    interface = next(
        link["ifname"]
        for link in json.loads(lab.run("client", ["ip", "-j", "addr"]).stdout)
        if any(a["local"].startswith("10.77.") for a in link["addr_info"])
    )
    lab.run("client", ["ip", "addr", "add", "10.77.0.2/24", "dev", interface])
    lab.start_daemons()
    lab.wait_for("the three others to be served", lambda: len(lab.served()) == 3, 60)
    [taken] = [a for a in status(lab, "n1")["addresses"] if a["address"] == "10.77.0.2"]  # type: ignore[attr-defined]
    assert "another machine has it: hardware address" in taken["reason"]
    lab.run("client", ["ip", "addr", "del", "10.77.0.2/24", "dev", interface])
    lab.wait_served()


def test_without_the_probe_nothing_is_asked(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=1, addresses=2, hold=1.0, daemons=False)
    rename(lab, "n1", ("[paths]", "[network]\nprobe = false\n\n[paths]"))
    lab.start_daemon("n1")
    lab.wait_served()


def test_a_claim_of_another_machine_while_an_address_is_held_is_told(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=2, addresses=2, hold=1.0)
    lab.wait_served()
    code = (
        "import socket, sys; from locum.machine.announcements import Announcer\n"
        "a = Announcer(); [a.announce(sys.argv[1], x) for x in ('10.77.0.2', 'fd77::2') for _ in range(3)]"
    )
    link = next(
        link
        for link in json.loads(lab.run("client", ["ip", "-j", "addr"]).stdout)
        if any(a["local"].startswith("10.77.") for a in link["addr_info"])
    )
    done = lab.run("client", [sys.executable, "-c", code, link["ifname"]])
    assert done.returncode == 0, done.stderr

    def told() -> bool:
        text = " ".join(status(lab, "n1")["warnings"])  # type: ignore[arg-type]
        return all(part in text for part in ("10.77.0.2", "fd77::2", link["address"]))

    lab.wait_for("every node to tell it", told)
    assert link["address"] in locum(lab, "n2", "status")
