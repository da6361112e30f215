"""Faults from outside: links, firewalls, manual changes, scripts, services, clocks, foreign writes in the store."""

from __future__ import annotations

import msgspec

from locum.rules.hold import CLOCK_RATE_BOUND, margin_for
from locum.store.base import Delete, Put
from locum_sim.checks import ADMIN, STRANGER
from locum_sim.clocks import MachineClock
from locum_sim.faults.base import DOUBLE, FaultKinds
from locum_sim.machine import Machine
from locum_sim.scenario import HOLDS
from locum_sim.scripts import Trouble
from locum_sim.service import Author
from locum_sim.simulated_kernel import Kernel

#: Keys that another program may spoil or delete; the cluster must survive this (``docs/simulation.md``).
SPOILABLE = ("beat", "health", "phase", "plan", "leader", "member", "claim", "node")
#: Keys that another writer may rewrite unchanged during a decision: everything that decisions read.
REWRITTEN = ("beat", "health", "phase", "plan", "leader", "member", "claim", "node", "number", "admin")
#: Those of them that administrators write.
DURABLE = ("admin/", "node/", "number/")
DELETABLE = ("beat", "health", "phase", "plan", "leader", "member")


class OutsideFaults(FaultKinds):
    """Kinds of faults, a method each."""

    # -- the public side -------------------------------------------------------------------------------------

    def link_down(self) -> None:
        """A public interface loses its link."""
        machine, seconds = self._someone(), self._while()
        name = self._random.choice(list(machine.kernel.links))
        self._say(f"{name} of {machine.name} has no link for {seconds:.3f} s")
        self._set_link(machine, name, False)
        self._world.engine.after(seconds, self._set_link, machine, name, True)

    def flap_link(self) -> None:
        """A public interface loses its link repeatedly."""
        machine = self._someone()
        name = self._random.choice(list(machine.kernel.links))
        period, turns = self._random.uniform(1.0, 4.0), self._random.randrange(6, 16)
        self._say(f"{name} of {machine.name} loses its link every {period:.1f} s")
        self._world.promises.flaps(machine.name, name, turns * period)
        for turn in range(turns):
            self._world.engine.after(turn * period, self._flap, machine, name, False)
            up = (turn + self._random.uniform(0.2, 0.8)) * period
            self._world.engine.after(up, self._flap, machine, name, True)

    def _flap(self, machine: Machine, name: str, up: bool) -> None:
        if self._on or up:
            self._set_link(machine, name, up)

    def refuse_address(self) -> None:
        """A kernel does not accept an address for a while; mostly it loses it as well."""
        machine, seconds = self._someone(), self._while()
        hosted = sorted(machine.hosted)
        if not hosted:
            return
        chosen = hosted if self._random.random() < 0.3 else [self._random.choice(hosted)]
        self._say(f"the kernel of {machine.name} refuses {', '.join(chosen)} for {seconds:.3f} s")
        kernel = machine.kernel
        kernel.refuses.update(chosen)
        if self._random.random() < 0.8:
            for address in chosen:
                kernel.remove(address)
        self._world.engine.after(seconds, kernel.refuses.difference_update, chosen)

    def refuse_gate(self) -> None:
        """A kernel does not arm the gate for a while."""
        machine, seconds = self._someone(), self._while()
        self._say(f"the gate of {machine.name} cannot be armed for {seconds:.3f} s")
        machine.kernel.gate_fails = True
        self._disturb(machine, seconds)
        self._world.engine.after(seconds, self._gate_works, machine.kernel)

    def refuse_removal(self) -> None:
        """The kernel of a machine carries out no removal of addresses for the guard for a while."""
        machine, seconds = self._someone(), self._while()
        self._say(f"the guard of {machine.name} cannot remove addresses for {seconds:.3f} s")
        machine.kernel.removal_fails = self._random.choice(("all", "each"))
        self._world.engine.after(seconds, self._removal_works, machine, machine.kernel)

    def _removal_works(self, machine: Machine, kernel: Kernel) -> None:
        if machine.kernel is kernel:
            machine.removal_works()

    def _gate_works(self, kernel: Kernel) -> None:
        kernel.gate_fails = False

    def _set_link(self, machine: Machine, name: str, up: bool) -> None:
        machine.kernel.links[name] = up
        self._world.promises.links_changed()
        if machine.agent is not None:
            machine.agent.links_changed()

    def flush_rules(self) -> None:
        """A firewall reload removes the gate's rules; the agent runs and notices."""
        machine = self._someone()
        agent = machine.agent
        if agent is None or machine.agent_stopped or machine.guard_stopped or not machine.kernel.open():
            return
        self._say(f"the rules of {machine.name} are flushed")
        machine.kernel.lose_rules()
        self._world.engine.after(self._random.uniform(0.0002, 0.005), agent.gate_damaged)

    def remove_by_hand(self) -> None:
        """A public address is removed from a machine by hand."""
        machine = self._someone()
        if machine.kernel.addresses and machine.powered:
            address = self._random.choice(list(machine.kernel.addresses))
            self._say(f"{address} is removed from {machine.name} by hand")
            machine.kernel.remove(address)

    def add_by_hand(self) -> None:
        """A public address is configured on a machine by hand."""
        machine = self._someone()
        hosted = [h.address for h in machine.identity.addresses if h.address not in machine.kernel.addresses]
        if hosted and machine.powered:
            address = self._random.choice(hosted)
            self._say(f"{address} is added to {machine.name} by hand")
            self._world.by_hand.add((machine.name, address))
            machine.kernel.add(address, self._random.choice(list(machine.kernel.links)), 10**6)

    # -- scripts ---------------------------------------------------------------------------------------------

    def _trouble(self, event: str, mode: str) -> None:
        machine, seconds = self._someone(), self._while()
        trouble = Trouble(mode, self._random.choice((0.3, 1.0)))
        self._say(f"scripts of {machine.name} {mode} at {event} for {seconds:.3f} s")
        machine.behaviour.trouble[event] = trouble

        def over() -> None:
            if machine.behaviour.trouble.get(event) is trouble:
                del machine.behaviour.trouble[event]

        self._world.engine.after(seconds, over)

    def _some_event(self) -> str:
        return self._random.choice(
            ("*", "takeip", "takeip", "releaseip", "releaseip", "updateip", "recovered", "ipreallocated", "startup")
        )

    def scripts_fail(self) -> None:
        """Scripts of an event fail."""
        self._trouble(self._some_event(), "fail")

    def scripts_slow(self) -> None:
        """Scripts of an event are slow."""
        self._trouble(self._some_event(), "slow")

    def scripts_hang(self) -> None:
        """Scripts of an event hang until their time-out."""
        self._trouble(self._some_event(), "hang")

    def monitor_fails(self) -> None:
        """A service is broken; often its end is noticed at once."""
        machine_mode = self._random.choice(("fail", "fail", "hang"))
        self._trouble("monitor", machine_mode)
        machine = self._someone()
        if machine.agent is not None and self._random.random() < 0.5:
            machine.agent.trigger_monitor()

    # -- clocks ----------------------------------------------------------------------------------------------

    def clock_rate(self) -> None:
        """A crystal changes its rate, within the bound."""
        machine = self._someone()
        half = CLOCK_RATE_BOUND / 2
        machine.clock.set_rate(1.0 + self._random.uniform(-half, half))

    def clock_step(self) -> None:
        """The wall clock is set."""
        machine = self._someone()
        seconds = self._random.choice((-1.0, 1.0)) * self._random.choice((0.05, 0.5, 3.0))
        if machine.suspended or self._world.engine.now - machine.clock.woke_at < DOUBLE:
            return
        self._say(f"the wall clock of {machine.name} is set by {seconds} s")
        machine.clock.step_wall(seconds)
        machine.kernel.look_again()
        step = (machine, machine.clock, -seconds)
        self._stepped.append(step)
        self._world.engine.after(self._while(), self._step_back, step)

    def _step_back(self, step: tuple[Machine, MachineClock, float]) -> None:
        """Correct the wall clock, unless that would be one fault too many: then it stays wrong."""
        if step not in self._stepped:
            return
        self._stepped.remove(step)
        machine, clock, seconds = step
        asleep = machine.suspended or self._world.engine.now - clock.woke_at < DOUBLE
        if machine.clock is clock and not (asleep and seconds < 0):
            clock.step_wall(seconds)
            machine.kernel.look_again()

    # -- foreign writes and admins -----------------------------------------------------------------------------

    def _some_key(self, kinds: tuple[str, ...]) -> str | None:
        kind = self._random.choice(kinds)
        keys = [entry.key for entry in self._world.store.core.snapshot(kind).entries]
        return self._random.choice(keys) if keys else None

    def spoil_key(self) -> None:
        """Another program overwrites a key with garbage."""
        key = self._some_key(SPOILABLE)
        if key is not None and self._world.store.up:
            value = self._random.choice((b"", b"garbage", b"[]", b"{}", b"\xff\xfe"))
            self._say(f"another program spoils {key}")
            self._touched(key)
            self._world.store.commit(STRANGER, (), (Put(key, value),))

    def delete_key(self) -> None:
        """Another program deletes a key."""
        key = self._some_key(DELETABLE)
        if key is not None and self._world.store.up:
            self._say(f"another program deletes {key}")
            self._touched(key)
            self._world.store.commit(STRANGER, (), (Delete(key),))

    def meddle(self) -> None:
        """Just before a node's commit takes effect, another writer rewrites a key that the decision read.

        The value stays, so that a decision without a condition on that revision fails without any other fault. Half of
        the time it is the first key that the commit itself writes, if present.
        """
        world, random, store = self._world, self._random, self._world.store
        until, share = world.engine.now + 2.0 + self._while(), random.choice((0.1, 0.3, 0.6))

        def write_again(author: Author) -> None:
            if world.engine.now > until or not self._on:
                store.meddler = None
            elif author.read is not None and random.random() < share:
                present = [key for key in author.read if key.partition("/")[0] in REWRITTEN and store.core.get(key)]
                if present:
                    self._write_again(present[0] if random.random() < 0.5 else random.choice(present))

        store.meddler = write_again

    def _write_again(self, key: str) -> None:
        store = self._world.store
        entry = store.core.get(key)
        if entry is None:
            return
        if key.startswith(DURABLE):
            author = ADMIN
        else:
            author = STRANGER
            self._touched(key)
        self._say(f"{key} is written once more just before the commit of another")
        meddler, store.meddler = store.meddler, None
        store.commit(author, (), (Put(key, entry.value),))
        store.meddler = meddler

    def _touched(self, key: str) -> None:
        """Allow for a node whose membership was touched: it gives it up, releases everything and joins anew."""
        if key.startswith("member/"):
            self._disturb(self._world.machines[key[7:]], 60.0)

    def admin(self) -> str:
        """An admin gives a command."""
        return self._admins.something()

    def leave(self) -> None:
        """A node is stopped, mostly in order; often it comes back after a while, sometimes it stays away."""
        world, machine = self._world, self._someone()
        if machine.guard is None or machine.name in world.retired:
            return
        self._say(f"{machine.name} leaves")
        machine.terminate(by_command=self._random.random() < 0.5)
        if self._random.random() < 0.2:
            # Somebody is impatient: the second signal ends the agent at once.
            world.engine.after(self._random.uniform(0.01, 1.0), machine.terminate)
            world.engine.after(self._random.uniform(1.0, 2.0), machine.terminate)
        stays = self._random.random() < 0.2 and len(world.retired) + 1 < len(world.machines)
        if stays:
            world.retired.add(machine.name)
            self._disturb(machine, 10**6)
            return
        seconds = self._while() + 5.0
        self._disturb(machine, seconds + 3.0)
        world.engine.after(seconds, self._come_back, machine)

    def _come_back(self, machine: Machine) -> None:
        if machine.guard is None and machine.name not in self._world.retired:
            machine.start_daemon()

    def reload(self) -> None:
        """A node's configuration changes: it loses an address, or has all of them again."""
        world, machine = self._world, self._someone()
        number = list(world.machines).index(machine.name)
        configured = world.scenario.hosted[number]
        if len(machine.file.addresses) < len(configured) or len(configured) < 2:
            chosen = configured
        else:
            gone = self._random.choice(configured)
            chosen = tuple(h for h in configured if h is not gone)
        self._say(f"{machine.name} is configured for {len(chosen)} of {len(configured)} addresses")
        machine.file = msgspec.structs.replace(machine.file, addresses=chosen)
        machine.reload()

    def change_hold(self) -> None:
        """An admin writes another hold into a node's configuration: the next daemon has it."""
        machine = self._someone()
        store = self._world.store
        if store.restoring or self._world.engine.now - store.went_back_at < 10.0:
            # A daemon that starts now must know the longest earlier hold.
            return
        hold = self._random.choice(HOLDS)
        self._say(f"{machine.name} is configured for a hold of {hold} s from its daemon's next start")
        machine.file = msgspec.structs.replace(machine.file, hold=hold, margin=margin_for(hold))
        self._disturb(machine, 0.0)
