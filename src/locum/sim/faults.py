"""Harm at random: what can happen to machines, networks, the store, scripts and clocks, and its healing.

Rules of this file: everything comes from one generator, so that a seed is a history. A kind is a method; its name is
what the report counts and what ``--only`` and ``--without`` take. The kinds are those that ``docs/simulation.md``
lists, and each is one that the design promises to survive.
"""

from __future__ import annotations

from collections.abc import Collection
from random import Random
from typing import TYPE_CHECKING

import msgspec

from locum.cluster.hold import CLOCK_RATE_BOUND, margin_for
from locum.cluster.node import Stage
from locum.sim.admins import Admins
from locum.sim.checks import STRANGER
from locum.sim.network import DOWN, UP
from locum.sim.scripts import Trouble
from locum.sim.shape import HOLDS
from locum.store.base import Delete, Put

if TYPE_CHECKING:
    from locum.sim.clocks import MachineClock
    from locum.sim.machine import Machine
    from locum.sim.world import World

#: Kind → how often it is chosen, before the seed makes some of them rarer and others more common.
WEIGHTS = {
    "kill_agent": 3.0,
    "kill_agent_midway": 3.0,
    "kill_all": 2.0,
    "abandon": 0.7,
    "kill_guard": 1.0,
    "power_off": 1.5,
    "freeze_agent": 2.0,
    "freeze_guard": 1.0,
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
    "store_outage": 2.0,
    "store_restart": 1.0,
    "link_down": 3.0,
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
    "admin": 4.0,
    "leave": 1.5,
    "reload": 1.0,
    "change_hold": 0.7,
}

#: A suspended machine is kept silent by its wall clock alone. That it is suspended and its wall clock is set back
#: within so many seconds (more than the longest hold) is one fault too many.
DOUBLE = 4.0
#: What a stranger may spoil or delete and the cluster must survive (``docs/simulation.md``).
SPOILABLE = ("beat", "health", "phase", "plan", "leader", "member", "claim", "node")
DELETABLE = ("beat", "health", "phase", "plan", "leader", "member")


class Faults:
    """The harm of one run. ``only`` and ``without`` are kinds; empty means no restriction."""

    def __init__(self, world: World, only: Collection[str] = (), without: Collection[str] = ()) -> None:
        self._world = world
        self._random = random = Random(f"faults {world.shape.seed}")
        self._admins = Admins(world, Random(f"admins {world.shape.seed}"))
        weights = {kind: weight * random.choice((0.0, 0.3, 1.0, 1.0, 3.0)) for kind, weight in WEIGHTS.items()}
        self._kinds = [k for k in weights if (not only or k in only) and k not in without and weights[k]]
        self._weights = [weights[k] for k in self._kinds]
        self._on = False
        self._round = 0
        #: In some runs most of the harm is done to one machine, so that one thing comes on top of another.
        self._focus = random.choice((0.0, 0.0, 0.5, 0.8))
        self._victim = random.randrange(60)
        #: Wall clocks that were set, and by how much they are to be set back.
        self._stepped: list[tuple[Machine, MachineClock, float]] = []
        self._busy: dict[str, int] = {}
        self._quiet_since = dict.fromkeys(world.machines, -1.0)
        world.on_expiry = self._check_expiry
        world.on_end = self._agent_ended

    @property
    def admins(self) -> Admins:
        """Whoever gives commands in this run."""
        return self._admins

    # -- trouble and healing ---------------------------------------------------------------------------------

    def begin(self) -> None:
        """From now on things happen."""
        self._on = True
        self._round += 1
        self._victim = self._random.randrange(60)
        for machine in self._world.machines.values():
            machine.comes_back = False
        self._soon(self._round)

    def _soon(self, number: int) -> None:
        calm = self._world.shape.calm
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
        """Everything is repaired at once; what admins decided stays, mostly."""
        world, random = self._world, self._random
        self._on = False
        world.healed_at = world.engine.now
        world.healed_revision = world.store.core.revision
        if world.trace.on:
            world.trace.say("faults", "everything is healed")
        for machine in world.machines.values():
            machine.trap = 0
            machine.link.heal()
            machine.behaviour.trouble.clear()
            machine.resume()
            machine.thaw()
            self._links_up(machine)
            if machine.agent is not None and machine.agent.store.watch is not None:
                machine.agent.store.watch.catch_up()
            if machine.name in world.retired:
                if not machine.guard:
                    machine.remove_leftovers()
                continue
            machine.power_on()
            machine.abandoned_until = 0.0
            machine.comes_back = True
            if not machine.guard:
                machine.start_daemon()
        for step in list(self._stepped):
            self._step_back(step)
        if not world.store.up:
            world.store.start_again()
        clean = random.random() < 0.6
        world.engine.after(0.001, self._admins.tidy_up, clean)

    def _links_up(self, machine: Machine) -> None:
        if not all(machine.kernel.links.values()):
            machine.kernel.links = dict.fromkeys(machine.kernel.links, True)
            if machine.agent is not None:
                machine.agent.links_changed()

    # -- helpers ---------------------------------------------------------------------------------------------

    def _someone(self) -> Machine:
        machines = list(self._world.machines.values())
        if self._random.random() < self._focus:
            return machines[self._victim % len(machines)]
        return self._random.choice(machines)

    def _while(self) -> float:
        """How long something lasts: mostly about a hold, sometimes a blink, sometimes long."""
        random, hold = self._random, self._world.shape.hold
        chance = random.random()
        if chance < 0.2:
            return random.uniform(0.001, 0.1)
        if chance < 0.8:
            return hold * random.uniform(0.3, 2.5)
        return random.uniform(1.0, 12.0)

    def _say(self, text: str) -> None:
        if self._world.trace.on:
            self._world.trace.say("faults", text)

    def _disturb(self, machine: Machine, seconds: float) -> None:
        """Until some time after ``seconds`` nobody may expect this node to beat."""
        name = machine.name
        self._busy[name] = self._busy.get(name, 0) + 1
        self._world.engine.after(seconds + 3.0, self._calm, name)

    def _calm(self, name: str) -> None:
        self._busy[name] -= 1
        self._quiet_since[name] = self._world.engine.now

    def _agent_ended(self, machine: Machine) -> None:
        self._disturb(machine, 3.0)

    def _check_expiry(self, name: str, incarnation: str) -> None:
        """Nobody may expire a node that has lived and reached the store all the time while the store was there.

        A membership of which its own node does not know (a join that was given up and took effect much later, the
        answer lost, the watch behind) is nobody's life.
        """
        machine = self._world.machines[name]
        if self._busy.get(name, 0) or machine.agent is None or not machine.running:
            return
        node = machine.agent.node
        if node.stage is not Stage.MEMBER or node.incarnation != incarnation:
            return
        quiet = self._world.engine.now - max(self._quiet_since[name], machine.agent.read_at)
        if quiet > 3 * machine.identity.hold + 1.0 and self._world.engine.now > 10.0:
            self._world.fail("expiry", f"{name} was expired although only the store was away")

    # -- processes -------------------------------------------------------------------------------------------

    def kill_agent(self) -> None:
        """The agent dies; the guard starts another."""
        machine = self._someone()
        self._say(f"kill -9 of the agent on {machine.name}")
        self._disturb(machine, 1.0)
        machine.kill_agent()

    def kill_agent_midway(self) -> None:
        """The agent dies in the midst of some act."""
        machine = self._someone()
        self._disturb(machine, 3.0)

        def snare() -> None:
            self._say(f"kill -9 of the agent on {machine.name}, midway")
            self._disturb(machine, 1.0)
            machine.kill_agent()

        machine.set_trap(self._random.randint(1, 60), snare)

    def kill_all(self) -> None:
        """Every process of ours dies; the init system starts anew."""
        machine = self._someone()
        self._say(f"kill -9 of everything on {machine.name}")
        self._disturb(machine, 6.0)
        machine.kill_all()

    def abandon(self) -> None:
        """Every process of ours dies, and the init system does not start anything for a while."""
        machine, seconds = self._someone(), self._random.uniform(3.0, 15.0)
        self._say(f"kill -9 of everything on {machine.name}; nothing is started for {seconds:.3f} s")
        self._disturb(machine, seconds + 6.0)
        machine.abandon(seconds)

    def kill_guard(self) -> None:
        """The guard dies, and the agent with it; scripts under way live on for a moment."""
        machine = self._someone()
        self._say(f"kill -9 of the guard on {machine.name}")
        self._disturb(machine, 6.0)
        machine.kill_guard()

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
            self._say(f"{machine.name} goes on")
            machine.thaw()

    def freeze_agent(self) -> None:
        """SIGSTOP of the agent."""
        self._freeze(self._someone(), "agent", self._while())

    def freeze_guard(self) -> None:
        """SIGSTOP of the guard."""
        self._freeze(self._someone(), "guard", self._while())

    def freeze_all(self) -> None:
        """SIGSTOP of every process of ours."""
        self._freeze(self._someone(), "all", self._while())

    def freeze_midway(self) -> None:
        """SIGSTOP in the midst of some act of the agent."""
        machine, seconds = self._someone(), self._while()
        who = self._random.choice(("agent", "all"))
        self._disturb(machine, 3.0)
        machine.set_trap(self._random.randint(1, 60), lambda: self._freeze(machine, who, seconds))

    def hiccup(self) -> None:
        """The agent does not run for some milliseconds, in the midst of some act."""
        machine, seconds = self._someone(), self._random.uniform(0.0005, 0.08)
        machine.set_trap(self._random.randint(1, 60), lambda: self._freeze(machine, "agent", seconds))

    def stutter(self) -> None:
        """Every process of ours is stopped in the midst of some act, goes on for a few steps, and is stopped again."""
        machine, hold = self._someone(), self._world.shape.hold
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

        machine.set_trap(steps, snare)

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

    # -- network and store -----------------------------------------------------------------------------------

    def _cut(self, ways: tuple[int, ...]) -> None:
        machine, seconds = self._someone(), self._while()
        self._say(f"{machine.name} is cut from the store ({'/'.join(('up', 'down')[w] for w in ways)}) {seconds:.3f} s")
        self._disturb(machine, seconds + 1.0)
        machine.link.keeps = self._random.choice((0.0, 0.5, 1.0))
        for way in ways:
            machine.link.cut[way] = True
        self._world.engine.after(seconds, self._whole, machine)

    def _whole(self, machine: Machine) -> None:
        if not machine.suspended:
            machine.link.heal()
            if self._random.random() < 0.3:
                self._break_watch(machine)

    def cut(self) -> None:
        """A node and the store do not reach each other."""
        self._cut((UP, DOWN))

    def cut_up(self) -> None:
        """What a node sends does not reach the store."""
        self._cut((UP,))

    def cut_down(self) -> None:
        """What the store sends does not reach a node."""
        self._cut((DOWN,))

    def _break_watch(self, machine: Machine) -> None:
        agent = machine.agent
        if agent is not None and agent.store.watch is not None:
            agent.store.watch.broken()

    def break_watch(self) -> None:
        """The connection of a watch is lost."""
        machine = self._someone()
        self._say(f"the watch of {machine.name} breaks")
        self._break_watch(machine)

    def lag_watch(self) -> None:
        """A watch lags behind for a while."""
        machine, seconds = self._someone(), self._while()
        agent = machine.agent
        watch = agent.store.watch if agent is not None else None
        if watch is None:
            return
        watch.lag = self._world.shape.hold * self._random.uniform(0.05, 3.0)
        self._say(f"the watch of {machine.name} lags {watch.lag:.3f} s for {seconds:.3f} s")

        self._world.engine.after(seconds, watch.catch_up)

    def lose_messages(self) -> None:
        """Some messages between a node and the store are lost."""
        machine, seconds = self._someone(), self._while()
        machine.link.loss = self._random.choice((0.05, 0.3, 0.7))
        self._say(f"{machine.link.loss:.0%} of the messages of {machine.name} are lost for {seconds:.3f} s")
        self._disturb(machine, seconds)
        self._world.engine.after(seconds, self._whole, machine)

    def delay_messages(self) -> None:
        """Some messages between a node and the store come very late."""
        machine, seconds = self._someone(), self._while()
        machine.link.late = self._random.choice((0.05, 0.3, 0.7))
        machine.link.latest = self._random.choice((0.1, 1.0, 10.0))
        self._say(f"{machine.link.late:.0%} of the messages of {machine.name} are late for {seconds:.3f} s")
        self._disturb(machine, seconds + machine.link.latest)
        self._world.engine.after(seconds, self._whole, machine)

    def store_outage(self) -> None:
        """The store answers nobody for a while."""
        store, seconds = self._world.store, self._while()
        if not store.up:
            return
        self._say(f"the store is away for {seconds:.3f} s")
        store.up = False
        if self._random.random() < 0.5:
            store.break_watches()

        def over() -> None:
            if not store.up:
                self._say("the store is back")
                store.start_again()

        self._world.engine.after(seconds, over)

    def store_restart(self) -> None:
        """The store is restarted: every watch is lost, sometimes with the history."""
        self._say("the store is restarted")
        store = self._world.store
        if self._random.random() < 0.5:
            store.core.compact(store.core.revision)
        store.break_watches()

    # -- the public side -------------------------------------------------------------------------------------

    def link_down(self) -> None:
        """A public interface loses its link."""
        machine, seconds = self._someone(), self._while()
        name = self._random.choice(list(machine.kernel.links))
        self._say(f"{name} of {machine.name} has no link for {seconds:.3f} s")
        self._set_link(machine, name, False)
        self._world.engine.after(seconds, self._set_link, machine, name, True)

    def _set_link(self, machine: Machine, name: str, up: bool) -> None:
        machine.kernel.links[name] = up
        if machine.agent is not None:
            machine.agent.links_changed()

    def flush_rules(self) -> None:
        """Somebody reloads a firewall and takes the gate's rules along; the agent is there and notices."""
        machine = self._someone()
        agent = machine.agent
        if agent is None or machine.agent_stopped or machine.guard_stopped or not machine.kernel.open():
            return
        self._say(f"the rules of {machine.name} are flushed")
        machine.kernel.lose_rules()
        self._world.engine.after(self._random.uniform(0.0002, 0.005), agent.gate_damaged)

    def remove_by_hand(self) -> None:
        """Somebody removes a public address from a machine."""
        machine = self._someone()
        if machine.kernel.addresses and machine.powered:
            address = self._random.choice(list(machine.kernel.addresses))
            self._say(f"somebody removes {address} from {machine.name}")
            machine.kernel.remove(address)

    def add_by_hand(self) -> None:
        """Somebody configures a public address on a machine."""
        machine = self._someone()
        hosted = [h.address for h in machine.identity.addresses if h.address not in machine.kernel.addresses]
        if hosted and machine.powered:
            address = self._random.choice(hosted)
            self._say(f"somebody adds {address} to {machine.name}")
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
        """A service is broken; often something notices at once."""
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
        """Somebody sets the wall clock."""
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
        """Somebody notices and sets the clock right, unless that would be one fault too many: then it stays wrong."""
        if step not in self._stepped:
            return
        self._stepped.remove(step)
        machine, clock, seconds = step
        asleep = machine.suspended or self._world.engine.now - clock.woke_at < DOUBLE
        if machine.clock is clock and not (asleep and seconds < 0):
            clock.step_wall(seconds)
            machine.kernel.look_again()

    # -- strangers and admins --------------------------------------------------------------------------------

    def _some_key(self, kinds: tuple[str, ...]) -> str | None:
        kind = self._random.choice(kinds)
        keys = [entry.key for entry in self._world.store.core.snapshot(kind).entries]
        return self._random.choice(keys) if keys else None

    def spoil_key(self) -> None:
        """A stranger overwrites a key with garbage."""
        key = self._some_key(SPOILABLE)
        if key is not None and self._world.store.up:
            value = self._random.choice((b"", b"garbage", b"[]", b"{}", b"\xff\xfe"))
            self._say(f"a stranger spoils {key}")
            self._touched(key)
            self._world.store.commit(STRANGER, (), (Put(key, value),))

    def delete_key(self) -> None:
        """A stranger deletes a key."""
        key = self._some_key(DELETABLE)
        if key is not None and self._world.store.up:
            self._say(f"a stranger deletes {key}")
            self._touched(key)
            self._world.store.commit(STRANGER, (), (Delete(key),))

    def _touched(self, key: str) -> None:
        """A node whose membership was touched gives it up, releases everything and joins anew: that takes a while."""
        if key.startswith("member/"):
            self._disturb(self._world.machines[key[7:]], 60.0)

    def admin(self) -> str:
        """An admin gives a command."""
        return self._admins.something()

    def leave(self) -> None:
        """A node is stopped in order; often it comes back after a while, sometimes it stays away."""
        world, machine = self._world, self._someone()
        if not machine.guard or machine.name in world.retired:
            return
        self._say(f"{machine.name} leaves")
        machine.terminate()
        stays = self._random.random() < 0.2 and len(world.retired) + 1 < len(world.machines)
        if stays:
            world.retired.add(machine.name)
            self._disturb(machine, 10**6)
            return
        seconds = self._while() + 5.0
        self._disturb(machine, seconds + 3.0)
        world.engine.after(seconds, self._come_back, machine)

    def _come_back(self, machine: Machine) -> None:
        if not machine.guard and machine.name not in self._world.retired:
            machine.start_daemon()

    def reload(self) -> None:
        """The configuration of a node changes: an address less, or all of them again."""
        world, machine = self._world, self._someone()
        number = list(world.machines).index(machine.name)
        configured = world.shape.hosted[number]
        if len(machine.identity.addresses) < len(configured) or len(configured) < 2:
            chosen = configured
        else:
            gone = self._random.choice(configured)
            chosen = tuple(h for h in configured if h is not gone)
        self._say(f"{machine.name} is configured for {len(chosen)} of {len(configured)} addresses")
        machine.identity = msgspec.structs.replace(machine.identity, addresses=chosen)
        if machine.agent is not None:
            machine.agent.configure()

    def change_hold(self) -> None:
        """An admin writes another hold into a node's configuration: the next agent has it."""
        machine = self._someone()
        hold = self._random.choice(HOLDS)
        self._say(f"{machine.name} is configured for a hold of {hold} s from its agent's next start")
        machine.next_hold = (hold, margin_for(hold))
        self._disturb(machine, 0.0)
