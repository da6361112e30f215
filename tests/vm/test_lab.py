"""The lab of guests itself: what it leaves behind, and access to its guests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from locum_lab import lab as labs
from locum_lab import namespaces, processes, state
from locum_lab.state import LabState
from locum_lab.vm import image
from locum_lab.vm.lab import SETTLED_WITHIN, VmLab, leftovers
from tests.vm.healing import restore
from tests.vm.places import wait_all_on

_OWNER = """
import os, sys
from locum_lab import processes
from locum_lab.layout import Layout
from locum_lab.vm.lab import VmLab
VmLab.up(Layout(name=sys.argv[1], nodes=2, addresses=2), owner=processes.find(os.getpid()))
"""


@pytest.fixture
def name() -> Iterator[str]:
    yield (made := f"v{os.getpid()}-end")
    labs.down(made)


def test_guests_end_with_the_process_that_owns_them(name: str) -> None:
    image.get()  # so that the owner needs no time for it
    owner = subprocess.Popen([sys.executable, "-c", _OWNER, name])
    try:
        found = _wait_for_guests(name, owner, 2)
        owner.send_signal(signal.SIGKILL)
    finally:
        owner.kill()
        owner.wait()
    assert processes.wait_gone(list(found.guests.values()), 60) == ()
    leftovers()
    assert state.read(name) is None
    assert namespaces.existing(f"locum-{name}-") == ()


def _wait_for_guests(name: str, owner: subprocess.Popen[bytes], number: int) -> LabState:
    deadline = time.monotonic() + SETTLED_WITHIN
    while time.monotonic() < deadline:
        found = state.read(name)
        if found is not None and len(found.guests) == number:
            assert all(processes.alive(process) for process in found.guests.values())
            return found
        assert owner.poll() is None, "the owner ended before it had started its guests"
        time.sleep(0.05)
    pytest.fail(f"the owner did not start its guests within {SETTLED_WITHIN:g} s")


def test_commands_in_a_guest_have_status_output_and_input(cluster: VmLab) -> None:
    machine = cluster.machine("n1")
    done = machine.run(["sh", "-c", "cat; echo problem >&2; exit 3"], text="given")
    assert (done.status, done.stdout, done.stderr) == (3, "given", "problem\n")
    machine.write("/root/deep/file", b"\x00\xff" * 100, mode=0o600)
    assert machine.agent.read("/root/deep/file") == b"\x00\xff" * 100
    assert machine.sh("stat -c %a /root/deep/file").strip() == "600"


def test_guests_have_identities_of_their_own(cluster: VmLab) -> None:
    """Also where they continue from the saved state of one guest: names, hardware addresses, random numbers, clock."""
    own = []
    for name, machine in cluster.machines.items():
        assert machine.sh("hostname").strip() == name
        for number, interface in enumerate(machine.hardware.interfaces):
            assert machine.read(f"/sys/class/net/eth{number}/address").strip() == interface.mac
        own += [machine.read("/etc/machine-id"), machine.read("/proc/sys/kernel/random/uuid")]
        # Other tests stop the clocks of n2.
        if name != "n2":
            _check_clock(cluster, name)
        assert machine.journal(lines=1)
    assert len(set(own)) == len(own)


def _check_clock(lab: VmLab, name: str) -> None:
    """The guest has the time of day of this machine, not the one of the saved state or of the image."""
    machine = lab.machine(name)
    # The clock of a guest that boots comes from one that has whole seconds. An emulated processor measures its own
    # frequency while others disturb it.
    age = time.time() - (lab.directory / "image.json").stat().st_mtime
    allowed = machine.clock_late + 1 + age / 100
    before = time.time()
    shown = float(machine.sh("date +%s.%N"))
    assert before - allowed <= shown <= time.time() + allowed


def test_a_guest_is_reached_while_its_networks_are_cut(healed: VmLab) -> None:
    healed.cut("c1")
    assert healed.machine("c1").sh("hostname").strip() == "c1"
    healed.uncut("c1")
    healed.machine("c1").sh("ping -c 1 -W 60 public1")


def test_a_node_that_is_cut_off_does_not_reach_the_store(healed: VmLab) -> None:
    """The store is not behind the bridge, but at it."""
    healed.cut("n2")
    wait_all_on(healed, "n1")
    healed.uncut("n2")
    healed.wait_served()


def test_fixtures_put_right_what_a_test_leaves(healed: VmLab) -> None:
    """A guest that lost its cables and Locum, and stands still; and one that is about to sleep."""
    machine = healed.machine("n2")
    machine.sh("systemctl stop locum")
    healed.cut("n2")
    machine.set_carrier("eth0", up=False)
    machine.freeze()
    restore(healed)
    machine.agent.start(["systemctl", "suspend"])
    restore(healed)
    assert machine.sh("systemctl is-active locum").strip() == "active"


def test_another_process_finds_the_lab(cluster: VmLab) -> None:
    command = [sys.executable, "-m", "locum_lab.command", "exec", "--name", cluster.layout.name]
    done = subprocess.run([*command, "n2", "--", "hostname"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "n2\n")
    done = subprocess.run([*command, "c1", "--", "false"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
