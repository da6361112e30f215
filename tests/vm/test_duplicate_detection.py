"""IPv6 public addresses on nodes whose kernels detect duplicates (RFC 4862), as Debian's do.

Nodes do not detect duplicates of public addresses: the kernel is told to add them without (IFA_F_NODAD), so that they
serve at once, and a detection cannot refuse them because of the last packets of the earlier holder. Only one node may
speak for an address at a time, and the gate sees to that. The holder answers the detection of other machines.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from locum.clock import boottime
from locum_lab.vm.lab import VmLab
from locum_lab.vm.machine import Machine
from locum_lab.vm.watching import Watching

#: Questions of the client's detection, a second apart: an emulated holder answers late.
_PATIENT = 10
_KEYS = ("accept_dad", "dad_transmits")


@pytest.fixture
def detecting(healed: VmLab) -> Iterator[VmLab]:
    """Nodes with the kernel's detection; the client's asks for longer."""
    interfaces = {"n1": "eth1", "n2": "eth1", "c1": "eth0"}
    before = {name: _detection(healed.machine(name), interface) for name, interface in interfaces.items()}
    for name, interface in interfaces.items():
        _set_detection(healed.machine(name), interface, (1, _PATIENT if name == "c1" else 1))
    yield healed
    for name, interface in interfaces.items():
        _set_detection(healed.machine(name), interface, before[name])


def _detection(machine: Machine, interface: str) -> tuple[int, ...]:
    """What is in force: whether duplicates are detected, and the number of questions."""
    values = machine.sh(f"sysctl -n {' '.join(f'net.ipv6.conf.{interface}.{key}' for key in _KEYS)}")
    return tuple(map(int, values.split()))


def _set_detection(machine: Machine, interface: str, values: tuple[int, ...]) -> None:
    pairs = (f"net.ipv6.conf.{interface}.{key}={value}" for key, value in zip(_KEYS, values, strict=True))
    machine.sh(f"sysctl -qw {' '.join(pairs)}")


def _shown(machine: Machine, address: str) -> str:
    return machine.sh(f"ip -6 -oneline address show to {address}")


def _is_refused(client: Machine, address: str) -> bool:
    """Whether the client's kernel finds that the address is in use."""
    client.sh(f"ip address add {address}/64 dev eth0")
    try:
        client.wait_for(
            "the end of the detection",
            lambda: "dadfailed" in (shown := _shown(client, address)) or "tentative" not in shown,
        )
        return "dadfailed" in _shown(client, address)
    finally:
        client.sh(f"ip address delete {address}/64 dev eth0")


def test_i1_a_moved_ipv6_address_is_served_without_detection_and_defended_against_others(detecting: VmLab) -> None:
    served = detecting.served()
    address = next(address for address in served if ":" in address)
    old, new = served[address], next(node for node in detecting.layout.node_names if node != served[address])
    client, holder = detecting.machine("c1"), detecting.machine(new)
    for node in detecting.layout.node_names:
        assert _detection(detecting.machine(node), "eth1") == (1, 1)
    # The kernel of the new holder detects: an address that is added by hand must wait.
    assert "tentative" in holder.sh("ip address add fd77::9998/64 dev eth1; ip -6 -o address show to fd77::9998")
    holder.sh("ip address delete fd77::9998/64 dev eth1")
    assert not _is_refused(client, "fd77::9999"), "an address that is free"

    with Watching(detecting) as watching:
        begun = boottime()
        detecting.machine(old).sh(f"locum ip move {address} {new}")
        detecting.wait_for("the move", lambda: detecting.served().get(address) == new)

        def heard() -> bool:
            watching.read()
            return address in watching.spoken_by(new, begun)

        detecting.wait_for("the new holder is heard", heard)
        shown = _shown(holder, address)
        assert address in shown
        assert not {"tentative", "dadfailed"} & set(shown.split())
        client.sh(f"ping -c 1 -W 60 {address}")
        assert _is_refused(client, address)
        detecting.machine(old).sh(f"locum ip auto {address}")
        detecting.wait_served()
        assert watching.end().violations == 0
