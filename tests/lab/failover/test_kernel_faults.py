"""What the cluster believes is what the kernels have: faults of a kernel under a running cluster, and what follows."""

from __future__ import annotations

import threading
import time

import pytest

from locum_lab.lab import Lab
from tests.lab.clusters import address_report, addresses_of, install_recorder, locum, seen, wait_moved
from tests.lab.conftest import MakeLab

pytestmark = pytest.mark.lab

#: Answers leave by a table of their own, with a rule for each address.
SOURCE_ROUTE = """\
#!/bin/sh
table=77
case "$1" in
takeip)
    case "$3" in *:*) exit 0 ;; esac
    ip rule del from "$3" table $table 2>/dev/null
    ip rule add from "$3" table $table || exit 1
    ip route replace 192.0.2.0/24 via 10.77.0.1 dev "$2" src "$3" table $table || exit 1
    ;;
releaseip)
    ip rule del from "$3" table $table 2>/dev/null
    ;;
esac
exit 0
"""


def on(lab: Lab, node: str, *command: str, check: bool = True) -> str:
    """Run a command in a node's namespace."""
    done = lab.run(node, list(command))
    assert not check or done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def all_served(lab: Lab) -> bool:
    """Whether every address is served, whatever the states of the nodes."""
    return all(address.state == "served" for address in lab.status().addresses)


def four(addresses: tuple[str, ...]) -> tuple[str, ...]:
    """Those of IPv4."""
    return tuple(address for address in addresses if ":" not in address)


def test_a_kernel_that_loses_mutes_or_refuses_an_address(make_lab: MakeLab) -> None:
    """One cluster, one fault after another: all are mended, or the address moves."""
    lab = make_lab(daemons=False)
    install_recorder(lab)
    for node in lab.layout.node_names:
        lab.write_script(node, "20.sourceroute", SOURCE_ROUTE)
    lab.start_daemons()
    lab.wait_served()
    victim = next(n for n in lab.layout.node_names if four(addresses_of(lab, n)))
    other = next(n for n in lab.layout.node_names if n != victim)
    address = four(addresses_of(lab, victim))[0]
    locum(lab, victim, "ip", "move", address, other)
    lab.wait_for("the move", lambda: lab.served().get(address) == other)
    assert address in on(lab, other, "ip", "route", "show", "table", "77")

    # A repair that scripts hear of.
    before = len(seen(lab, other, "takeip"))
    on(lab, other, "ip", "address", "del", f"{address}/24", "dev", "eth1")
    lab.wait_for("the route of a script", lambda: address in on(lab, other, "ip", "route", "show", "table", "77"))
    lab.wait_for("takeip once more", lambda: len(seen(lab, other, "takeip")) > before)
    lab.wait_served()
    assert lab.served()[address] == other

    # The source of the node's own connections.
    static, probe = "10.77.0.240", ("ip", "route", "get", "10.77.0.99")
    for commands in (("add",), ("del", "add")):
        for command in commands:
            on(lab, other, "ip", "address", command, f"{static}/24", "dev", "eth1")
        lab.wait_for("the own source", lambda: f"src {static} " in on(lab, other, *probe))
    lab.wait_for("the route of a script", lambda: address in on(lab, other, "ip", "route", "show", "table", "77"))
    lab.wait_served()

    # The gate's set, edited by hand.
    on(lab, other, "nft", "delete", "element", "inet", "locum", "held4", f"{{ {address} }}")
    lab.wait_for("the gate's set", lambda: address in on(lab, other, "nft", "list", "set", "inet", "locum", "held4"))

    # A setting that makes neighbours get no answer is said.
    on(lab, other, "sysctl", "-qw", "net.ipv4.conf.eth1.arp_ignore=8")
    lab.wait_for("the warning", lambda: "arp_ignore is 8 on eth1" in locum(lab, victim, "status"))
    on(lab, other, "sysctl", "-qw", "net.ipv4.conf.eth1.arp_ignore=0")
    lab.wait_for("its end", lambda: "arp_ignore is 8 on eth1" not in locum(lab, victim, "status"))

    # A kernel that refuses IPv6: those addresses move, the others stay.
    holder = next(n for n in lab.layout.node_names if set(addresses_of(lab, n)) - set(four(addresses_of(lab, n))))
    six = tuple(a for a in addresses_of(lab, holder) if ":" in a)
    on(lab, holder, "sysctl", "-qw", "net.ipv6.conf.eth1.disable_ipv6=1")
    wait_moved(lab, six, holder)
    lab.wait_for("the warning", lambda: "IPv6 is disabled on eth1" in locum(lab, holder, "status"))
    on(lab, holder, "sysctl", "-qw", "net.ipv6.conf.eth1.disable_ipv6=0")
    lab.wait_for("the end of it", lambda: "IPv6 is disabled on eth1" not in locum(lab, holder, "status"))


def test_an_address_that_no_kernel_accepts_says_so(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=2, addresses=4)
    lab.wait_served()
    six = next(p.address for p in lab.layout.public_addresses if ":" in p.address)
    for node in lab.layout.node_names:
        on(lab, node, "sysctl", "-qw", "net.ipv6.conf.eth1.disable_ipv6=1")

    def said() -> bool:
        report = address_report(lab, six)
        return report is not None and report.state == "unserved" and "could not take it" in report.reason

    lab.wait_for("the reason", said)
    for node in lab.layout.node_names:
        on(lab, node, "sysctl", "-qw", "net.ipv6.conf.eth1.disable_ipv6=0")
    lab.wait_served()


def test_a_wrong_interface_name_changes_nothing_and_a_deleted_interface_moves_its_addresses(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=2, addresses=4)
    lab.wait_served()
    victim = next(node for node in lab.layout.node_names if addresses_of(lab, node))
    mine = addresses_of(lab, victim)
    file = lab.node_directory(victim) / "public_addresses"
    good = file.read_text()
    file.write_text(good.replace(" eth1", " eth9"))
    assert "found interface eth9" in locum(lab, victim, "reload", status=2)
    assert "the configuration cannot be read" in locum(lab, victim, "status")
    assert addresses_of(lab, victim) == mine
    file.write_text(good)
    locum(lab, victim, "reload")
    assert "the configuration cannot be read" not in locum(lab, victim, "status")

    on(lab, victim, "ip", "link", "delete", "eth1")
    wait_moved(lab, mine, victim)
    lab.wait_for("the reason", lambda: "no interface eth1" in locum(lab, victim, "status"))
    lab.wait_for("all addresses", lambda: all_served(lab))


def test_a_link_that_is_lost_24_times_a_minute_moves_its_addresses_once_or_twice(make_lab: MakeLab) -> None:
    lab = make_lab()
    lab.wait_served()
    victim = "n2"
    mine = addresses_of(lab, victim)
    assert mine
    moves = dict.fromkeys(mine, 0)
    last = dict.fromkeys(mine, victim)
    stop = threading.Event()

    def flap() -> None:
        while not stop.is_set():
            for state in ("down", "up"):
                on(lab, victim, "ip", "link", "set", "eth1", state, check=False)
                time.sleep(1.25)

    flapping = threading.Thread(target=flap)
    flapping.start()
    try:
        end = time.monotonic() + 40
        while time.monotonic() < end:
            for address, node in lab.served().items():
                if address in mine and node != last[address]:
                    last[address] = node
                    moves[address] += 1
            time.sleep(0.1)
    finally:
        stop.set()
        flapping.join()
    print(moves)
    assert all(1 <= count <= 2 for count in moves.values()), moves
    # The node itself counts as healthy much later.
    lab.wait_for("every address to be served", lambda: all_served(lab))
