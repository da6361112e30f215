"""External actions on a machine and its processes: stop, kill, switch off.

Faults only; :mod:`locum_sim.host` has the machine's own behaviour.
"""

from __future__ import annotations

import msgspec

from locum.machine.gate.lifetimes import LATENESS, lifetime_for
from locum_sim.clocks import MachineClock
from locum_sim.host import Host
from locum_sim.simulated_kernel import Kernel

#: How long scripts may outlive a killed agent, and add an address, in seconds (with some room).
LAST_WORDS = 0.2


class Machine(Host):
    """A :class:`locum_sim.host.Host` with faults."""

    def kill_guard(self) -> None:
        """SIGKILL: the agent goes with it (PR_SET_PDEATHSIG); the init system starts anew."""
        if self.guard is None:
            return
        self.guard.die()
        self.guard = None
        self.guard_trap.clear()
        self.kill_agent()
        self.run.engine.after(self.random.uniform(0.1, 3.0), self._restart)

    def kill_all(self) -> None:
        """SIGKILL to every process of Locum at once."""
        self.kill_guard()
        self.kill_children()

    def abandon(self, seconds: float) -> None:
        """:meth:`kill_all`, and nothing is started for ``seconds``: the kernel alone must end what is left."""
        self.kill_all()
        self.abandoned_until = self.run.engine.now + seconds
        if self.powered:
            self._look_for_leftovers(self.kernel, self.clock.jiffies())

    def _look_for_leftovers(self, kernel: Kernel, since: float) -> None:
        if self.guard or kernel is not self.kernel or not self.powered:
            return
        if self.clock.jiffies() - since > lifetime_for(self.identity.hold) + LATENESS + LAST_WORDS:
            self.observers.checks.all_processes_dead(self.name)
        else:
            self.run.engine.after(0.5, self._look_for_leftovers, kernel, since)

    def freeze(self, agent: bool, guard: bool, children: bool) -> None:
        """SIGSTOP."""
        self._freezes += 1
        self.agent_frozen |= agent
        self.guard_frozen |= guard
        self.children_frozen |= children
        self._stops_changed()
        if self.agent_frozen and not self.guard_frozen:
            self.observers.watchfulness.agent_stopped(self.name)

    def thaw(self) -> None:
        """SIGCONT, in any order."""
        self._freezes += 1
        self.agent_frozen = self.guard_frozen = self.children_frozen = False
        self._stops_changed()

    def suspend(self) -> None:
        """Suspend the machine: no process runs, jiffies stop, the boot-time clock continues."""
        if self.powered and not self.suspended:
            self.suspended = self.kernel.suspended = True
            self.clock.suspend()
            self._stops_changed()

    def resume(self) -> None:
        """Resume the machine; its kernel slightly before its processes."""
        if self.suspended:
            self.suspended = self.kernel.suspended = False
            self.clock.resume()
            self.kernel.look_again()
            self.run.engine.after(0.0005 + self.random.random() * 0.002, self._stops_changed)

    def power_off(self) -> None:
        """Switch the machine and its kernel off."""
        self.kill_all()
        self.powered = False
        for address in list(self.kernel.addresses):
            self.kernel.remove(address)

    def remove_leftovers(self) -> None:
        """An admin removes addresses configured by hand on a machine that no longer runs a daemon."""
        for address in list(self.kernel.addresses):
            self.kernel.remove(address)

    def power_on(self) -> None:
        """Boot again: an empty kernel, other clocks, another identity of the machine."""
        if self.powered:
            return
        self._boots += 1
        self.powered = True
        self.suspended = False
        self.agent_frozen = self.guard_frozen = self.children_frozen = False
        wall_error = self.clock.wall() - self.run.wall()
        self.clock = MachineClock(self.run.engine, self.random.uniform(1, 30), self.clock.rate, wall_error)
        self._boot_kernel()
        self.notes.clear()
        self.file = msgspec.structs.replace(self.file, machine=f"{self.name} boot {self._boots}")
        self._stops_changed()
        self.left = self.terminating = False
        self.run.engine.after(self.random.uniform(0.1, 1.0), self._booted, self._boots)

    def _booted(self, boot: int) -> None:
        if boot == self._boots and not self.left:
            self.start_daemon()
