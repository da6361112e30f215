"""Harm to the store and to the ways between it and the nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from locum.cluster.admin import AdminRequest
from locum.sim.harm import Harm
from locum.sim.network import DOWN, UP

if TYPE_CHECKING:
    from locum.sim.machine import Machine


class StoreHarm(Harm):
    """Kinds of harm, a method each."""

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

    def late_release(self) -> None:
        """A node's beats are lost; what else it commits arrives at about the instant at which it is expired.

        Mostly it is disabled as well, so that what it gives up is another's at once; and the others see it late.
        """
        world, random, machine = self._world, self._random, self._someone()
        beaten = world.checks.beaten.get(machine.name)
        if beaten is None or machine.agent is None or not world.store.up:
            return
        end = beaten + machine.identity.hold + machine.identity.margin
        if end < world.engine.now:
            return
        machine.link.beats_lost = True
        machine.link.commits_at = end + random.uniform(-0.05, 0.01)
        lagging = [m.agent.store.watch for m in world.machines.values() if m is not machine and m.agent is not None]
        for watch in lagging:
            if watch is not None and random.random() < 0.7:
                watch.lag = random.uniform(0.0, 0.06)
        if random.random() < 0.8:
            self._admins.command(AdminRequest("disable", node=machine.name))
        self._say(
            f"beats of {machine.name} are lost; its commits arrive {machine.link.commits_at - end:+.3f} s from its end"
        )
        self._disturb(machine, end - world.engine.now + 1.0)

        round_ = self._round

        def over() -> None:
            if not self._on or self._round != round_:
                # Healed meanwhile.
                return
            machine.link.stop_aiming()
            for watch in lagging:
                if watch is not None:
                    watch.catch_up()
            self._admins.command(AdminRequest("enable", node=machine.name))

        world.engine.at(end + 0.2, over)

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
