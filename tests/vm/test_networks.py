"""Public addresses on the interfaces that servers have: VRF, bonds, VLANs, bridges and macvlan.

For each kind, all processes of a holder stand still, and packets show that the kernel silences it before another node
speaks. Requests continue to arrive at the holder: nothing is delivered there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from locum.clock import boottime
from locum_lab.vm.lab import VmLab
from locum_lab.vm.machine import Machine
from locum_lab.vm.watching import Watching
from tests.vm.asking import asking
from tests.vm.conftest import CALM, MakeVmLab
from tests.vm.hearing import Hearing


class Kind(NamedTuple):
    """Makes ``interface`` on a node and removes it again, by shell commands; $mac: the hardware address of eth1.

    The interface has that address, because the observer recognises a node by it. ``vlan``: the tag of the frames, or 0.
    ``lose`` takes the carrier away from a bond's port $port, and ``find`` gives it back; without them, QEMU does.
    """

    interface: str
    make: str
    undo: str
    vlan: int = 0
    lose: str = ""
    find: str = ""


#: Another hardware address for eth1, where an interface on top of it has its own.
_OTHER_MAC = "02:4c:ff:00:00:01"

#: Otherwise eth1 answers ARP for the addresses of a macvlan on it, too.
_IGNORES = "net.ipv4.conf.eth1.arp_ignore"

# The bond's partner, and a bridge that connects it with eth1, are in a network namespace of the node, which stands for
# a switch: the lab's own bridges speak no LACP.
_LACP = f"""
modprobe bonding max_bonds=0
ip netns add switch
ip -n switch link add br0 type bridge forward_delay 0
ip link add bond0 address $mac type bond mode 802.3ad lacp_rate fast miimon 100
ip -n switch link add bond1 type bond mode 802.3ad lacp_rate fast miimon 100
for n in 0 1; do
    ip link add port$n type veth peer name port$n netns switch
    ip link set port$n master bond0
    ip -n switch link set port$n master bond1
done
ip link set bond0 up
ip link set eth1 down
ip link set eth1 address {_OTHER_MAC}
ip link set eth1 netns switch
for port in bond1 eth1; do ip -n switch link set $port master br0 up; done
ip -n switch link set br0 up
"""

KINDS = {
    "vrf": Kind(
        "eth1",
        "ip link add red type vrf table 100; ip link set red up; ip link set eth1 master red",
        "ip link delete red",
    ),
    "802.3ad": Kind(
        "bond0",
        _LACP,
        """ip -n switch link set eth1 netns 1
        ip link set eth1 down
        ip link set eth1 address $mac up
        ip link delete bond0
        for n in 0 1; do ip link delete port$n; done
        ip netns delete switch""",
        lose="ip -n switch link set $port down",
        find="ip -n switch link set $port up",
    ),
    "active-backup": Kind(
        "bond0",
        """modprobe bonding max_bonds=0
        ip link add bond0 address $mac type bond mode active-backup miimon 100
        for port in eth1 eth2; do ip link set $port down; ip link set $port master bond0; done
        ip link set bond0 up""",
        "ip link delete bond0; ip link set eth1 up; ip link set eth2 up",
    ),
    "vlan": Kind(
        "eth1.5",
        "ip link add link eth1 name eth1.5 type vlan id 5; ip link set eth1.5 up",
        "ip link delete eth1.5",
        vlan=5,
    ),
    "bridge": Kind(
        "br0",
        """ip link add br0 address $mac type bridge forward_delay 0
        ip link set eth1 master br0
        ip link set br0 up""",
        "ip link delete br0",
    ),
    "macvlan": Kind(
        "pub0",
        f"""ip link set eth1 down; ip link set eth1 address {_OTHER_MAC} up
        sysctl -q {_IGNORES}=1
        ip link add link eth1 name pub0 address $mac type macvlan mode bridge; ip link set pub0 up""",
        f"ip link delete pub0; ip link set eth1 down; ip link set eth1 address $mac up; sysctl -q {_IGNORES}=0",
    ),
}

#: Options of an address without a lifetime.
_STAY = "valid_lft forever preferred_lft forever nodad"

#: Counts the packets to public addresses that have passed the gate on a node: before destination NAT and routing, and
#: when they are delivered.
_COUNTERS = """
table inet seen
delete table inet seen
table inet seen {{
    counter arrived {{ }}
    counter delivered {{ }}
    chain prerouting {{
        type filter hook prerouting priority -150; policy accept;
        ip daddr {{ {four} }} counter name arrived
        ip6 daddr {{ {six} }} counter name arrived
    }}
    chain input {{
        type filter hook input priority 400; policy accept;
        ip daddr {{ {four} }} counter name delivered
        ip6 daddr {{ {six} }} counter name delivered
    }}
}}
"""


@pytest.fixture(scope="module")
def plain(make_vm_lab: MakeVmLab) -> VmLab:
    """Two nodes with two public interfaces, which nothing but the tests configures.

    Processes of n2 may stand still for longer than systemd's watchdog waits.
    """
    lab = make_vm_lab(interfaces=2, settings=CALM)
    for name in lab.layout.node_names:
        machine = lab.machine(name)
        for interface in lab.layout.public_interfaces:
            machine.write(f"/etc/systemd/network/20-{interface}.network.d/test.conf", "[Link]\nUnmanaged=yes\n")
        machine.sh("networkctl reload; for name in eth1 eth2; do ip link set $name up; done")
    n2 = lab.machine("n2")
    n2.write("/etc/systemd/system/locum.service.d/test.conf", "[Service]\nWatchdogSec=0\n")
    pool = [public.address for public in lab.layout.public_addresses]
    four, six = ([a for a in pool if (":" in a) is wanted] for wanted in (False, True))
    n2.write("/etc/seen.nft", _COUNTERS.format(four=", ".join(four), six=", ".join(six)))
    n2.sh("systemctl daemon-reload; systemctl restart locum")
    lab.wait_served()
    return lab


@pytest.fixture(scope="module")
def kind(plain: VmLab, request: pytest.FixtureRequest) -> Iterator[Kind]:
    """n2 has its public addresses on an interface of this kind; in a VLAN, n1 has it too. Afterwards n2 is stopped."""
    wanted = KINDS[request.param]
    nodes = plain.layout.node_names if wanted.vlan else ("n2",)
    for name in nodes:
        _configure(plain, name, wanted.make, wanted.interface)
    yield wanted
    for name in nodes:
        _configure(plain, name, wanted.undo, ",".join(plain.layout.public_interfaces), start=name != "n2")


def _configure(lab: VmLab, name: str, commands: str, interfaces: str, *, start: bool = True) -> None:
    """Stop Locum on a node, run the commands, and let it have all public addresses on these interfaces."""
    lines = "".join(f"{public.address}/{public.bits} {interfaces}\n" for public in lab.layout.public_addresses)
    machine = lab.machine(name)
    machine.sh("systemctl stop locum")
    machine.sh(f"mac={lab.layout.mac(name, 'eth1')}\n{commands}")
    machine.write("/etc/locum/public_addresses", lines)
    if start:
        machine.sh("systemctl start locum")


def _of_n2(lab: VmLab) -> set[str]:
    found = {address for address, node in lab.served().items() if node == "n2"}
    assert found
    return found


def _configured(machine: Machine, interface: str) -> set[str]:
    shown = machine.sh(f"ip -o address show dev {interface}")
    return {line.split()[3].partition("/")[0] for line in shown.splitlines()}


def _passed(machine: Machine) -> dict[str, int]:
    """How many packets to public addresses have passed the gate on their way in, by counter."""
    found: dict[str, Any] = json.loads(machine.sh("nft -j list counters table inet seen"))
    counters = [item["counter"] for item in found["nftables"] if "counter" in item]
    return {counter["name"]: counter["packets"] for counter in counters}


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_i1_a_node_whose_processes_stand_still_is_silent_before_another_speaks(plain: VmLab, kind: Kind) -> None:
    n2 = plain.machine("n2")
    plain.wait_served()
    report = plain.status("n2")
    mine = {item.address: item for item in report.addresses if item.node == "n2"}
    assert mine
    assert {item.interface for item in mine.values()} == {kind.interface}
    assert not [warning for warning in report.warnings if "packet sockets" in warning]
    mac = plain.layout.mac("n2", "eth1")
    n2.sh("nft -f /etc/seen.nft")
    with Watching(plain, vlan=kind.vlan) as watching, Hearing(plain, "n2") as hearing:

        def heard(node: str, since: float) -> bool:
            watching.read()
            return mine.keys() <= watching.spoken_by(node, since)

        with asking(plain, mac, mine, kind.vlan):
            plain.wait_for("n2 is heard", lambda: heard("n2", 0.0))
            n2.wait_for("requests", lambda: all(_passed(n2).values()))
            stopped = boottime()
            n2.sh("systemctl kill --signal=SIGSTOP locum")
            # The kernel would remove the addresses soon: now only the gate silences them.
            for item in mine.values():
                n2.sh(f"ip address change {item.address}/{item.bits} dev {kind.interface} {_STAY}")
            plain.wait_for("n1 is heard", lambda: heard("n1", stopped))
            # A packet that was sent before may be read a moment later.
            silent, passed = boottime() + 1.0, _passed(n2)
            n2.sh(f"sleep {plain.layout.hold:g}")
            hearing.read()
            assert mine.keys() <= {item.address for item in hearing.heard if item.t < stopped}
            assert [item for item in hearing.spoken(silent) if item.address in mine] == []
            assert _passed(n2) == passed
            assert mine.keys() <= _configured(n2, kind.interface)
            n2.sh("systemctl kill --signal=SIGCONT locum")
        plain.wait_served()
        assert watching.end().violations == 0


@pytest.mark.parametrize("kind", ["802.3ad", "active-backup"], indirect=True)
def test_addresses_stay_when_a_bond_loses_a_port(plain: VmLab, kind: Kind) -> None:
    n2 = plain.machine("n2")
    plain.wait_served()
    ports = n2.read("/sys/class/net/bond0/bonding/slaves").split()
    assert len(ports) == 2

    def up(port: str) -> bool:
        return n2.read(f"/sys/class/net/{port}/bonding_slave/mii_status").strip() == "up"

    def change(port: str, *, carrier: bool) -> None:
        if command := kind.find if carrier else kind.lose:
            n2.sh(f"port={port}; {command}")
        else:
            n2.set_carrier(port, up=carrier)
        n2.wait_for(f"carrier {carrier} at {port}", lambda: up(port) is carrier)

    if kind.lose:
        # Both ports are in one aggregator: the partner's LACP was heard.
        assert n2.read("/sys/class/net/bond0/bonding/ad_num_ports").strip() == "2"
    with Watching(plain) as watching:
        before = plain.served()
        for port in ports:
            change(port, carrier=False)
            changed = boottime()
            plain.wait_for("a hold later", lambda since=changed: boottime() > since + plain.layout.hold)  # type: ignore[misc]
            assert plain.served() == before
            change(port, carrier=True)
        assert watching.end().violations == 0


@pytest.mark.parametrize("kind", ["macvlan"], indirect=True)
def test_a_node_warns_while_the_interface_below_a_macvlan_answers_for_its_addresses(plain: VmLab, kind: Kind) -> None:
    n2 = plain.machine("n2")
    plain.wait_served()

    def warned() -> bool:
        return any("eth1 answers ARP" in warning for warning in plain.status("n2").warnings)

    n2.sh(f"sysctl -q {_IGNORES}=0")
    plain.wait_for("the warning", warned)
    n2.sh(f"sysctl -q {_IGNORES}=1")
    plain.wait_for("its end", lambda: not warned())
    assert kind.interface == "pub0"
