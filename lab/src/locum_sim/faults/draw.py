"""Random faults of machines, networks, the store, scripts and clocks, and their healing.

One generator decides everything, so that a seed is a history. A kind is a method; the report counts it by its name,
and ``--only`` and ``--without`` accept it. ``docs/simulation.md`` lists the kinds; the design promises to survive each.
"""

from __future__ import annotations

from collections.abc import Collection
from random import Random

from locum_sim.faults.outside import OutsideFaults
from locum_sim.faults.processes import ProcessFaults
from locum_sim.faults.store import StoreFaults
from locum_sim.machine import Machine
from locum_sim.world import World

#: Kind → its weight, before the seed makes some kinds rarer and others more common.
WEIGHTS = {
    "kill_agent": 3.0,
    "kill_agent_midway": 3.0,
    "kill_all": 2.0,
    "abandon": 0.7,
    "kill_guard": 1.0,
    "kill_guard_midway": 1.0,
    "power_off": 1.5,
    "freeze_agent": 2.0,
    "freeze_guard": 1.0,
    "freeze_guard_midway": 1.0,
    "refuse_fork": 0.3,
    "freeze_all": 3.0,
    "freeze_midway": 5.0,
    "hiccup": 4.0,
    "stutter": 3.0,
    "suspend": 1.5,
    "cut": 4.0,
    "cut_up": 1.5,
    "cut_down": 1.5,
    "break_watch": 1.5,
    "lag_watch": 1.5,
    "lose_messages": 1.5,
    "delay_messages": 2.0,
    "late_release": 1.5,
    "store_outage": 2.0,
    "store_restart": 1.0,
    "link_down": 3.0,
    "flap_link": 1.0,
    "refuse_address": 1.5,
    "refuse_gate": 0.7,
    "refuse_removal": 0.5,
    "scripts_fail": 2.0,
    "scripts_slow": 2.0,
    "scripts_hang": 1.0,
    "monitor_fails": 2.0,
    "flush_rules": 1.0,
    "remove_by_hand": 1.5,
    "add_by_hand": 1.5,
    "clock_rate": 1.0,
    "clock_step": 0.5,
    "spoil_key": 0.7,
    "delete_key": 0.7,
    "meddle": 1.5,
    "admin": 4.0,
    "leave": 1.5,
    "reload": 1.0,
    "change_hold": 0.7,
    "store_wiped": 0.3,
    "store_restored": 0.7,
}


class Faults(ProcessFaults, StoreFaults, OutsideFaults):
    """The faults of one run. ``only`` and ``without`` are kinds; empty means no restriction."""

    def __init__(self, world: World, only: Collection[str] = (), without: Collection[str] = ()) -> None:
        random = Random(f"faults {world.scenario.seed}")
        weights = {kind: weight * random.choice((0.0, 0.3, 1.0, 1.0, 3.0)) for kind, weight in WEIGHTS.items()}
        super().__init__(world, random)
        self._kinds = [k for k in weights if (not only or k in only) and k not in without and weights[k]]
        self._weights = [weights[k] for k in self._kinds]
        tunables = world.scenario.tunables
        steady = tunables.get("LinkUpDelay") == 3.0 and tunables.get("DampingLongest") == 6.0
        world.promises.only_flaps = self._kinds == ["flap_link"] and steady
        world.on_expiry = self._check_expiry
        world.on_end = self._daemon_ended

    def begin(self) -> None:
        """Begin to inject faults."""
        self._on = True
        self._round += 1
        self._victim = self._random.randrange(60)
        for machine in self._world.machines.values():
            machine.comes_back = False
        self._soon(self._round)

    def _soon(self, number: int) -> None:
        calm = self._world.scenario.calm
        self._world.engine.after(self._random.expovariate(1.0 / calm), self._strike, number)

    def _strike(self, number: int) -> None:
        if not self._on or number != self._round:
            return
        if self._kinds:
            kind = self._random.choices(self._kinds, self._weights)[0]
            done: object = getattr(self, kind)()
            name = done if isinstance(done, str) else kind
            self._world.faults[name] += 1
        self._soon(number)

    def heal(self) -> None:
        """Repair everything at once; most decisions of administrators stay."""
        world, random = self._world, self._random
        self._on = False
        world.healed_at = world.engine.now
        world.healed_revision = world.store.core.revision
        if world.trace.on:
            world.trace.say("faults", "everything is healed")
        for machine in world.machines.values():
            machine.agent_trap.clear()
            machine.guard_trap.clear()
            machine.forks_again()
            machine.removal_works()
            machine.link.heal()
            machine.behaviour.trouble.clear()
            machine.resume()
            machine.thaw()
            self._links_up(machine)
            machine.kernel.refuses.clear()
            machine.kernel.gate_fails = False
            if machine.agent is not None and machine.agent.store.watch is not None:
                machine.agent.store.watch.catch_up()
            if machine.name in world.retired:
                if machine.guard is None:
                    machine.remove_leftovers()
                continue
            machine.power_on()
            machine.abandoned_until = 0.0
            machine.comes_back = True
            if machine.guard is None:
                machine.start_daemon()
        for step in list(self._stepped):
            self._step_back(step)
        if not world.store.up and not world.store.restoring:
            world.store.start_again()
        clean = random.random() < 0.6
        # Decisions that a store would lose which is about to go back are postponed.
        wait = max(world.store.back_at - world.engine.now, 0.0) if world.store.restoring else 0.0
        world.engine.after(wait + 0.001, self._admins.tidy_up, clean)

    def _links_up(self, machine: Machine) -> None:
        if not all(machine.kernel.links.values()):
            machine.kernel.links = dict.fromkeys(machine.kernel.links, True)
            if machine.agent is not None:
                machine.agent.links_changed()

    def _check_expiry(self, name: str, incarnation: str) -> None:
        """Fail if a node was expired that lived and reached the store whenever the store was up.

        A membership that its own node does not know (a join that was given up and took effect much later, its answer
        lost, the watch behind) does not count as alive.
        """
        machine = self._world.machines[name]
        if self._busy.get(name, 0) or machine.agent is None or not machine.running:
            return
        status = machine.agent.node.status()
        if not status.member or status.incarnation != incarnation:
            return
        quiet = self._world.engine.now - max(self._quiet_since[name], machine.agent.read_at)
        if quiet > 3 * machine.identity.hold + 1.0 and self._world.engine.now > 10.0:
            self._world.fail("expiry", f"{name} was expired although only the store was away")
