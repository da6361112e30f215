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
_UNDO = """
tc qdisc delete dev eth0 ingress
tc qdisc delete dev eth0 root
ip link delete ifb0
"""


class Passed(NamedTuple):
    """What echo requests met: how many answers came, and whether a later request was answered before an earlier one.

    ``quickest`` and ``slowest`` are round-trip times in milliseconds.
    """

    sent: int
    answers: int
    disordered: bool
    quickest: float
    slowest: float


@contextlib.contextmanager
def poor(machine: Machine, options: str) -> Iterator[None]:
    """netem(8) with these options for everything that the guest sends and receives at eth0."""
    machine.sh(_APPLY, options)
    try:
        yield
    finally:
        if machine.powered:
            machine.sh(_UNDO)


def probe(machine: Machine, address: str, count: int = 100) -> Passed:
    """Send echo requests to an address, faster than they are answered."""
    # Status 1: nothing came back.
    output = machine.sh(f"ping -n -i 0.02 -c {count} -W 20 {address} || [ $? = 1 ]")
    numbers, times = [], []
    for line in output.splitlines():
        if " icmp_seq=" in line and "DUP!" not in line:
            numbers.append(int(line.partition(" icmp_seq=")[2].split()[0]))
            times.append(float(line.partition(" time=")[2].split()[0]))
    disordered = numbers != sorted(numbers)
    return Passed(count, len(numbers), disordered, min(times, default=0.0), max(times, default=0.0))
