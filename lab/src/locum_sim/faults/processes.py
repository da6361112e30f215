"""Faults of processes and machines: killed, stopped, suspended, without power, in the middle of any act."""

from __future__ import annotations

from locum_sim.faults.base import DOUBLE, FaultKinds
from locum_sim.machine import Machine


class ProcessFaults(FaultKinds):
    """Kinds of faults, a method each."""

    def kill_agent(self) -> None:
        """The agent dies; the guard starts another."""
        machine = self._someone()
        self._say(f"kill -9 of the agent on {machine.name}")
        self._disturb(machine, 1.0)
        machine.kill_agent()

    def kill_agent_midway(self) -> None:
        """The agent dies in the middle of an act."""
        machine = self._someone()
        self._disturb(machine, 3.0)

        def snare() -> None:
            self._say(f"kill -9 of the agent on {machine.name}, midway")
            self._disturb(machine, 1.0)
            machine.kill_agent()

        machine.agent_trap.set(self._random.randint(1, 60), snare)

    def kill_all(self) -> None:
        """Every process of Locum dies; the init system starts anew."""
        machine = self._someone()
        self._say(f"kill -9 of everything on {machine.name}")
        self._disturb(machine, 6.0)
        machine.kill_all()

    def abandon(self) -> None:
        """Every process of Locum dies, and the init system starts nothing for a while."""
        machine, seconds = self._someone(), self._random.uniform(3.0, 15.0)
        self._say(f"kill -9 of everything on {machine.name}; nothing is started for {seconds:.3f} s")
        self._disturb(machine, seconds + 6.0)
        machine.abandon(seconds)

    def kill_guard(self) -> None:
        """The guard dies, and the agent with it; running scripts live on for a moment."""
        machine = self._someone()
        self._say(f"kill -9 of the guard on {machine.name}")
        self._disturb(machine, 6.0)
        machine.kill_guard()

    def kill_guard_midway(self) -> None:
        """The guard dies in the midst of some act: its start, its silencing, its end."""
        machine = self._someone()

        def snare() -> None:
            self._say(f"kill -9 of the guard on {machine.name}, midway")
            self._disturb(machine, 6.0)
            machine.kill_guard()

        machine.guard_trap.set(self._random.randint(1, 60), snare)

    def freeze_guard_midway(self) -> None:
        """SIGSTOP in the midst of some act of the guard."""
        machine, seconds = self._someone(), self._while()
        who = self._random.choice(("guard", "all"))
        machine.guard_trap.set(self._random.randint(1, 60), lambda: self._freeze(machine, who, seconds))

    def refuse_fork(self) -> None:
        """A machine has no process to spare for a while: its guard cannot start an agent."""
        machine, seconds = self._someone(), self._while()
        self._say(f"{machine.name} has no process to spare for {seconds:.3f} s")
        self._disturb(machine, seconds)
        machine.fork_fails = True
        self._world.engine.after(seconds, machine.forks_again)

    def power_off(self) -> None:
        """The machine is gone and comes back after a while."""
        machine = self._someone()
        seconds = self._while()
        self._say(f"{machine.name} loses power for {seconds:.3f} s")
        self._disturb(machine, seconds + 3.0)
        machine.power_off()
        self._world.engine.after(seconds, self._power_on, machine)

    def _power_on(self, machine: Machine) -> None:
        if machine.name not in self._world.retired:
            machine.power_on()

    def _freeze(self, machine: Machine, who: str, seconds: float) -> None:
        self._say(f"{who} on {machine.name} stopped for {seconds:.3f} s")
        self._disturb(machine, seconds + (10.0 if seconds > 8 else 0.0))
        machine.freeze(who in ("agent", "all"), who in ("guard", "all"), who == "all")
        self._world.engine.after(seconds, self._thaw, machine)

    def _thaw(self, machine: Machine) -> None:
        if machine.agent_frozen or machine.guard_frozen:
            self._say(f"{machine.name} continues")
            machine.thaw()

    def freeze_agent(self) -> None:
        """SIGSTOP of the agent, now and then for so long that the guard replaces it."""
        machine, seconds = self._someone(), self._while()
        if self._random.random() < 0.1:
            seconds = self._random.uniform(8.0, 15.0)
        self._freeze(machine, "agent", seconds)

    def freeze_guard(self) -> None:
        """SIGSTOP of the guard."""
        self._freeze(self._someone(), "guard", self._while())

    def freeze_all(self) -> None:
        """SIGSTOP of every process of Locum."""
        self._freeze(self._someone(), "all", self._while())

    def freeze_midway(self) -> None:
        """SIGSTOP in the middle of an act of the agent."""
        machine, seconds = self._someone(), self._while()
        who = self._random.choice(("agent", "all"))
        self._disturb(machine, 3.0)
        machine.agent_trap.set(self._random.randint(1, 60), lambda: self._freeze(machine, who, seconds))

    def hiccup(self) -> None:
        """The agent does not run for some milliseconds, in the middle of an act."""
        machine, seconds = self._someone(), self._random.uniform(0.0005, 0.08)
        machine.agent_trap.set(self._random.randint(1, 60), lambda: self._freeze(machine, "agent", seconds))

    def stutter(self) -> None:
        """Every process of Locum is stopped in the middle of an act, continues for a few steps, and stops again."""
        machine, hold = self._someone(), self._world.scenario.hold
        random = self._random
        pauses = [hold * random.uniform(0.02, 0.95) for _ in range(random.randint(1, 3))]
        pauses.append(hold * random.uniform(0.8, 2.0))
        self._disturb(machine, sum(pauses))
        self._stutter(machine, pauses, random.randint(1, 60), self._round)

    def _stutter(self, machine: Machine, pauses: list[float], steps: int, number: int) -> None:
        if not self._on or number != self._round:
            return

        def snare() -> None:
            self._freeze(machine, "all", pauses[0])
            if len(pauses) > 1:
                steps = self._random.randint(1, 12)
                self._world.engine.after(pauses[0], self._stutter, machine, pauses[1:], steps, number)

        machine.agent_trap.set(steps, snare)

    def suspend(self) -> None:
        """The machine is suspended and resumed."""
        machine, seconds = self._someone(), self._while()
        if not machine.powered or self._world.engine.now - machine.clock.set_back_at < DOUBLE:
            return
        self._say(f"{machine.name} is suspended for {seconds:.3f} s")
        self._disturb(machine, seconds)
        machine.suspend()
        machine.link.cut = [True, True]
        self._world.engine.after(seconds, self._resume, machine)

    def _resume(self, machine: Machine) -> None:
        self._say(f"{machine.name} resumes")
        machine.link.heal()
        machine.resume()
