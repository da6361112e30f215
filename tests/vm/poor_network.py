"""A poor network for a guest's private interface: netem, in both directions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from locum_lab.vm.machine import Machine

#: A queueing discipline works on what leaves an interface. What arrives at eth0 goes through ifb0 first (tc-mirred(8)).
_APPLY = """
modprobe -a sch_netem sch_ingress cls_matchall act_mirred
modprobe ifb numifbs=0
ip link add ifb0 type ifb
ip link set ifb0 up
tc qdisc add dev eth0 root netem $1
tc qdisc add dev eth0 ingress
tc filter add dev eth0 ingress matchall action mirred egress redirect dev ifb0
tc qdisc add dev ifb0 root netem $1
"""
#: A guest that has lost its power has nothing of it. What must be gone afterwards is looked for.
_UNDO = """
tc qdisc delete dev eth0 ingress 2>/dev/null || true
tc qdisc delete dev eth0 root 2>/dev/null || true
ip link delete ifb0 2>/dev/null || true
! tc qdisc show | grep -E 'netem|ingress' >&2
"""


class Passed(NamedTuple):
    """What echo requests met: how many were answered, and more than once (``doubles``); whether a later one was
    answered before an earlier one; and the shortest round-trip time in milliseconds.
    """

    sent: int
    answered: int
    doubles: int
    disordered: bool
    quickest: float


@contextlib.contextmanager
def poor(machine: Machine, options: str) -> Iterator[None]:
    """netem(8) with these options for everything that the guest sends and receives at eth0."""
    try:
        machine.sh(_APPLY, options)
        yield
    finally:
        undo(machine)


def undo(machine: Machine) -> None:
    """Remove it from a guest, whether it is there or not. The guest goes on for that if it stands still."""
    if machine.powered:
        machine.thaw()
        machine.sh(_UNDO)


def probe(machine: Machine, address: str, count: int = 100) -> Passed:
    """Send echo requests to an address, faster than they are answered."""
    # Status 1: nothing came back.
    output = machine.sh(f"ping -n -i 0.02 -c {count} -W 20 {address} || [ $? = 1 ]")
    numbers, times, doubles = [], [], 0
    for line in output.splitlines():
        if "DUP!" in line:
            doubles += 1
        elif " icmp_seq=" in line:
            numbers.append(int(line.partition(" icmp_seq=")[2].split()[0]))
            times.append(float(line.partition(" time=")[2].split()[0]))
    return Passed(count, len(numbers), doubles, numbers != sorted(numbers), min(times, default=0.0))
