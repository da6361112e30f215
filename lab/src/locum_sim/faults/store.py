"""Faults of the store and of the paths between it and the nodes."""

from __future__ import annotations

from locum.errors import StoreCorrupt
from locum.rules import schema
from locum.rules.admin import AdminRequest
from locum.rules.schema import NodeRecord
from locum_sim.faults.base import FaultKinds
from locum_sim.machine import Machine
from locum_sim.network import DOWN, UP


class StoreFaults(FaultKinds):
    """Kinds of faults, a method each."""

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
        """Messages from a node do not reach the store."""
        self._cut((UP,))

    def cut_down(self) -> None:
        """Messages from the store do not reach a node."""
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
        watch.lag = self._world.scenario.hold * self._random.uniform(0.05, 3.0)
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
        """A node's beats are lost; its other commits arrive at about the instant of its expiry.

        Mostly it is disabled as well, so that its addresses move at once; and the other nodes see it late.
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
        """The store does not answer for a while."""
        store, seconds = self._world.store, self._while()
        if not store.up:
            return
        self._say(f"the store is away for {seconds:.3f} s")
        store.up = False
        if self._random.random() < 0.5:
            store.break_watches()

        def over() -> None:
            if not store.up and not store.restoring:
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

    # -- a store that goes back ------------------------------------------------------------------------------

    def store_wiped(self) -> str:
        """The store is emptied."""
        return self._go_back("store_wiped", 0)

    def store_restored(self) -> str:
        """The store is restored from a copy of any age."""
        random, past = self._random, self._world.store.past
        recent = past[-random.choice((5, 50, 500)) :]
        commits = len(past) - random.randrange(len(recent) + 1)
        if random.random() < 0.5:
            # Just before a significant commit: an expiry, or a claim.
            kind, made = random.choice((("member/", False), ("claim/", True)))
            chosen = [
                number
                for number, (_, batch) in enumerate(past)
                if any(c.key.startswith(kind) and (c.value is not None) == made for c in batch.changes)
            ]
            commits = random.choice(chosen[-8:] or [commits])
        return self._go_back("store_restored", commits)

    def _go_back(self, kind: str, commits: int) -> str:
        """Go back to the state after this many ``commits``, perhaps with an outage, perhaps with revisions that jump.

        Two assumptions (``docs/safety.md``): the copy's content is older than the longest hold and twice its margin;
        and a daemon that starts after it knows the longest hold, by its own configuration or by the copy.
        """
        world, random = self._world, self._random
        store, machines = world.store, world.machines.values()
        promises = [(m.identity.hold, m.identity.margin) for m in machines]
        longest = max(hold + margin for hold, margin in promises)
        promises += [(m.file.hold, m.file.margin) for m in machines]
        copy = store.copy_at(commits)
        records = []
        for entry in copy.values():
            try:
                records.append(schema.decode(entry.key, entry.value))
            except StoreCorrupt:
                return f"{kind} left out"
        told = max((record.wait for record in records if isinstance(record, NodeRecord)), default=0.0)
        if not store.up or longest > max(min(hold + margin for hold, margin in promises), told) + 1e-9:
            return f"{kind} left out"
        age = 1.002 * max(hold + 2 * margin for hold, margin in promises)
        taken = store.past[commits - 1][0] if commits else 0.0
        away = max(0.0, taken + age - world.engine.now) + random.choice((0.0, 0.0, 0.01, 0.5, 3.0)) * random.random()
        skip = random.choice((0, 0, 1, 30, 100_000))
        self._say(f"{kind}: {len(store.past) - commits} commits are lost; the store is away for {away:.3f} s")
        for machine in machines:
            self._disturb(machine, away + 60.0)
        store.up, store.restoring = False, True
        store.back_at = world.engine.now + away
        embedded = commits > 0 and random.random() < 0.4
        if embedded:
            # The limit in the file is far above the revisions given out.
            skip = 1_000_000
        world.engine.after(away, self._gone_back, commits, skip, embedded)
        return kind

    def _gone_back(self, commits: int, skip: int, embedded: bool) -> None:
        world = self._world
        store = world.store
        self._say("the store is back, in another history")
        store.go_back(commits, skip, embedded)
        world.healed_revision = min(world.healed_revision, store.core.revision)
        world.checks.went_back()
        world.set_tunables()
        store.restoring = False
        store.start_again()
        if embedded and self._random.random() < 0.7:
            # A new agent knows only what the old one left.
            machine = self._someone()
            self._say(f"kill -9 of the agent on {machine.name}")
            world.engine.after(self._random.random() * 0.02, machine.kill_agent)
        for machine in world.machines.values():
            # A node that comes back now may have seen none of the lost commits.
            if self._random.random() < 0.5 and not machine.suspended and machine.powered:
                soon = self._random.random() * machine.identity.hold
                world.engine.after(soon, self._whole, machine)
                world.engine.after(soon, machine.thaw)
