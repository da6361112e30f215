"""One node of the cluster, as a state machine: inputs and time go in, effects come out.

::

    JOINING ──member key written──> MEMBER ──member key gone──> LOST ──all released──> JOINING
                                      │   (or the store's history is another)
                                      │
                                      └──leave(), nothing left to serve, shutdown ran──> LEFT

The driver (:mod:`locum.agent`, or the simulation) calls one input method at a time and then carries out
:meth:`Node.take_effects`; at :meth:`Node.next_wakeup` it calls :meth:`Node.tick`. Every input ends in the same
``_step``, which looks at the whole situation anew: there is no memory of "what I was about to do", so a lost
message, a crash and a late answer all lead to the same place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

from locum.cluster import schema
from locum.cluster.activity import Activity
from locum.cluster.checking import Checking
from locum.cluster.commit_kinds import Claim, Farewell, Join, LeaderCommit, WriteHealth
from locum.cluster.commits import Commits
from locum.cluster.context import Context
from locum.cluster.effects import ConfirmHold, DropHold, Effect, Exit, SendBeat
from locum.cluster.following import Following
from locum.cluster.history import History
from locum.cluster.hold import Observers, OwnHold
from locum.cluster.identity import Adoption, Identity
from locum.cluster.joining import Joining
from locum.cluster.leading import Leading
from locum.cluster.leaving import Leaving
from locum.cluster.lookout import Lookout
from locum.cluster.obstacles import Obstacles
from locum.cluster.plan import current_health, inactive
from locum.cluster.schema import BeatRecord, HealthRecord
from locum.cluster.serving import Serving
from locum.cluster.status import NodeStatus, Stage
from locum.cluster.view import View
from locum.store.base import Commit, CommitResult, Put

__all__ = ["Adoption", "Identity", "Node", "NodeStatus", "Stage"]

#: Shortest time between two looks at something that is due but waits for something else, in seconds.
LOOK_AGAIN = 0.02


class Node:
    """See the module. ``new_incarnation`` returns a name that was never used before."""

    def __init__(
        self,
        identity: Identity,
        view: View,
        new_incarnation: Callable[[], str],
        adoption: Adoption | None = None,
    ) -> None:
        self.identity = identity
        self.view = view
        self.stage = Stage.JOINING
        self._handles: tuple[str, ...] = ()
        # When the present membership began, or the try to get it.
        self._began_at = 0.0
        self._new_incarnation = new_incarnation
        self._adoption = adoption
        self._was_inactive = False
        # When the whole situation was looked at last, with how many full reads, and when the next look is due.
        self._looked = -math.inf
        self._reads = 0
        self._wakeup: float | None = None
        # Beats under way → the highest revision that was known when each was sent.
        self._known: dict[int, int] = {}
        self.context = Context(identity.name, view)
        self.history = History(self.context, identity)
        self.hold = OwnHold(identity.hold)
        self.observers = Observers(self.hold.interval)
        self.commits = Commits(self.context)
        self.activity = Activity(self.context)
        self.serving = Serving(self.context, self.commits, self.activity)
        self.serving.configure(identity)
        self.checking = Checking(self.context, self.activity)
        self.obstacles = Obstacles(identity.hold)
        self.following = Following(self.context, self.commits, self.activity)
        self.leading = Leading(self.context, self.commits, self.observers)
        self.leaving = Leaving(self.context, self.commits, self.activity, self.following, self.leading)
        self.joining = Joining(self.context, self.commits, identity)
        self.lookout = Lookout(self.context, self.obstacles, identity)

    # -- inputs: each says what happened, then looks at the whole --------------------------------------------

    def tick(self, now: float, wall: float) -> None:
        """Time has passed. ``now``: CLOCK_BOOTTIME seconds; ``wall``: unix seconds."""
        self._enter(now, wall)
        self._step()

    def view_changed(self, keys: set[str], now: float, wall: float) -> None:
        """The driver has fed the view from the watch; ``keys`` is what the view said had changed."""
        held = self.hold.valid(self.context.now)
        self._enter(now, wall)
        if self.view.another_history:
            self._begin_history()
            held = True
        self._keys_changed(keys)
        # Most changes are beats, which only put off the time at which a node would be expired.
        only_beats = bool(keys) and all(key.startswith("beat/") for key in keys)
        if not only_beats or held != self.hold.valid(now) or self._reads != self.view.reads:
            self._step()

    def watch_lost(self, now: float, wall: float) -> None:
        """The store does not have the place at which the watch was; the driver reads everything anew.

        So it is after a crash of the embedded store, and after a restored copy of one was started, which cannot be told
        apart by beats: a crash may lose their last values, and their keys get new revisions then
        (:mod:`locum.store.sqlite`). What is held stays; nothing is begun before all holds of another history are over.
        """
        self._enter(now, wall)
        self.history.watch_lost()
        self._step()

    def beat_done(self, ticket: int, result: CommitResult | None, sent_at: float, now: float, wall: float) -> None:
        """A beat was answered; see :class:`locum.cluster.effects.SendBeat`."""
        accepted = None if result is None else result.accepted
        known = self._known.pop(ticket, None)
        if result is not None and known is not None:
            beat = Put(f"beat/{self.context.name}", b"")
            self.view.another_history = self.view.answered(result, [beat], known)
            if self.view.another_history:
                self.view.forget()
                self._enter(now, wall)
                self._begin_history()
                self._step()
                return
        if accepted and self.stage is Stage.MEMBER and self.hold.under_way(ticket):
            self._look_for_gap(now, wall)
        # The hold is prolonged before it is looked at: an answer that arrives late but still counts must not
        # be preceded by the end of the hold.
        current, held = self.hold.under_way(ticket), self.hold.valid(now)
        slot = self.hold.finished(ticket, accepted, sent_at) if self.stage is Stage.MEMBER else None
        if result is not None and accepted and current and self.stage is Stage.MEMBER:
            self.context.last_beat = max(self.context.last_beat, result.revision)
        if slot is not None and now < self.hold.deadline:
            incarnation, revision = self.context.incarnation, self.context.last_beat
            self.context.emit(ConfirmHold(incarnation, slot, self.hold.deadline, revision, self.history.quiet_until))
        self._enter(now, wall)
        # A refusal of a beat of an earlier membership says nothing about this one.
        if accepted is False and current and self.stage is Stage.MEMBER:
            # Or the store was restored from a copy that has the membership, but not its last beat.
            self._lose("the store refused a beat: another node expired this membership")
        elif accepted and held:
            # The hold lasts longer, and nothing else is different.
            return
        self._step()

    def commit_done(self, ticket: int, result: CommitResult | None, now: float, wall: float) -> None:
        """A commit was answered; ``result`` is None when the store did not answer."""
        self._enter(now, wall)
        answer = self.commits.answered(ticket, result)
        refused = result is not None and answer is not None and not answer.accepted
        if self.view.another_history:
            self._begin_history()
        elif answer is not None:
            match answer.kind:
                case LeaderCommit():
                    self.leading.finished(answer.kind, answer.accepted)
                case Claim() if refused:
                    self.serving.claim_refused()
                case Join() if refused:
                    self.history.doubt()
                case Farewell() if answer.accepted:
                    self._left()
            self._keys_changed(answer.keys)
        self._step()

    def activity_done(self, ticket: int, ok: bool, reason: str, now: float, wall: float) -> None:
        """An event run has ended; ``reason`` says why it is not ok."""
        self._enter(now, wall)
        self.activity.ended(ticket, ok, reason)
        self._step()

    def probed(self, ticket: int, found: Mapping[str, str], now: float, wall: float) -> None:
        """A probe was answered; see :class:`locum.cluster.effects.ProbeAddresses`."""
        self._enter(now, wall)
        self.serving.probed(ticket, found)
        self._step()

    def clusters_seen(
        self, ticket: int, problem: str | None, addresses: frozenset[str], now: float, wall: float
    ) -> None:
        """The store was searched; see :class:`locum.cluster.effects.LookForClusters`."""
        self._enter(now, wall)
        self.lookout.seen(ticket, problem, addresses)
        self._step()

    def clusters_awaited(self, ticket: int, reason: str, now: float, wall: float) -> None:
        """A search for other clusters cannot come to its end, for ``reason``; it goes on."""
        self._enter(now, wall)
        self.lookout.awaits(ticket, reason)
        self._step()

    def links_changed(self, links: Mapping[str, bool], now: float, wall: float) -> None:
        """The links' states, of all interfaces: name → up."""
        self._enter(now, wall)
        if dict(links) != self.serving.links:
            self.serving.links_changed(links)
            self.checking.trigger()
        self._step()

    def address_removed(self, address: str, interface: str, now: float, wall: float) -> None:
        """The kernel says that ``address`` is gone from ``interface``."""
        self._enter(now, wall)
        if self.hold.valid(now):
            self.serving.address_removed(address, interface)
        self._step()

    def restored(self, address: str, interface: str, problem: str, now: float, wall: float) -> None:
        """The answer to :class:`locum.cluster.effects.Restore`."""
        self._enter(now, wall)
        self.serving.restored(address, interface, problem)
        self._step()

    def renewal_failed(self, address: str, interface: str, problem: str, now: float, wall: float) -> None:
        """The kernel did not renew the lifetime of a held address."""
        self._enter(now, wall)
        self.serving.renewal_failed(address, interface, problem)
        self._step()

    def address_unfit(self, address: str, interface: str, reason: str, now: float, wall: float) -> None:
        """A held address is configured and cannot work on this node, for ``reason``: another node should have it."""
        self._enter(now, wall)
        self.serving.give_up(address, interface, reason)
        self._step()

    def scripts_forget(self, addresses: Collection[str], now: float, wall: float) -> None:
        """What scripts had attached to these held addresses may be gone: they are to be told once more."""
        self._enter(now, wall)
        self.serving.scripts_forget(addresses)
        self._step()

    def still_here(self, address: str, reason: str, now: float, wall: float) -> None:
        """An address that is being given up could be neither removed nor muted. Comes before the activity's answer."""
        self._enter(now, wall)
        self.serving.still_here(address, reason)
        self._step()

    def gate_changed(self, problem: str, now: float, wall: float) -> None:
        """The kernel's gate could not be armed, opened or put back, or ("") can again."""
        self._enter(now, wall)
        self.obstacles.seen("gate", problem, now)
        self._step()

    def warnings_changed(self, source: str, texts: tuple[str, ...], now: float, wall: float) -> None:
        """What ``source`` (a part of the agent) has to tell admins at present, replacing what it told before."""
        self._enter(now, wall)
        self.obstacles.warn(source, texts)
        self._step()

    def beat_now(self, now: float, wall: float) -> None:
        """Send a beat at once: the kernel's gate was shut and waits for one."""
        self._enter(now, wall)
        self.hold.hurry()
        self._step()

    def trigger_monitor(self, now: float, wall: float) -> None:
        """Something happened that ``monitor`` should look at, such as a listening socket that went away."""
        self._enter(now, wall)
        self.checking.trigger()
        self._step()

    def configure(self, identity: Identity, now: float, wall: float) -> None:
        """The configuration was reloaded. Name, hold and margin stay as they were until the node joins anew."""
        self._enter(now, wall)
        self.identity = identity
        self.lookout.configure(identity)
        self.joining.identity = identity
        self.history.identity = identity
        self.serving.configure(identity)
        self._step()

    def handles_changed(self, events: tuple[str, ...], now: float, wall: float) -> None:
        """The events that this node's scripts handle; the leader prepares a plan only when a script has work then."""
        self._enter(now, wall)
        self._handles = events
        self._step()

    def leave(self, now: float, wall: float) -> None:
        """Stop in order: fail over, run ``shutdown``, leave, :class:`Exit`."""
        self._enter(now, wall)
        self.leaving.ask()
        self._step()

    # -- outputs -----------------------------------------------------------------------------------------------

    def take_effects(self) -> list[Effect]:
        """What is to be done now, in order; handed out once."""
        effects, self.context.effects = self.context.effects, []
        return effects

    def status(self) -> NodeStatus:
        """What this node knows about itself, beyond what the view shows."""
        here = self.serving.local.items()
        return NodeStatus(
            identity=self.identity,
            stage=self.stage,
            incarnation=self.context.incarnation,
            leaving=self.leaving.asked,
            hold=self.hold.hold,
            interval=self.hold.interval,
            deadline=self.hold.deadline,
            current_at=max(self.observers.current_at, self._began_at),
            committing=self.commits.waiting,
            activity=self.activity.name,
            moving=self.serving.moving,
            hosted=self.serving.hosted,
            held={address: local.interface for address, local in here if local.held},
            unsure={address: local.interface for address, local in here if not local.held},
            started=self.checking.started,
            obstacle=self.joining.obstacle,
            unable=self.obstacles.unable(self.context.now),
            last_retry=self.serving.refusals.latest_due(),
            last_told=self.serving.upkeep.latest_tell(),
            tunables=self.context.tunables,
        )

    def next_wakeup(self) -> float:
        """The CLOCK_BOOTTIME second at which :meth:`tick` must be called at the latest (inf: never)."""
        if self._wakeup is None:
            self._wakeup = self._next_look()
        return self._wakeup

    def _next_look(self) -> float:
        context = self.context
        due = [self.commits.next_pause_end(self._looked), self.leaving.next_due()]
        if self.stage is Stage.LOST and self.activity.idle and not self.serving.local and self.history.current:
            due.append(context.now)
        if self.stage is Stage.JOINING:
            due += [self.joining.next_due(), self.lookout.next_due()]
        if self.stage is Stage.MEMBER:
            # Since the last look and not since the last input: the beats of others are inputs without a look.
            due += [self.hold.next_due, self.serving.next_due(self._looked), self.following.next_due(self._looked)]
            due += [self.checking.steady_at(self._looked), self.obstacles.next_due(self._looked)]
            if self.history.quiet_until > self._looked:
                due.append(self.history.quiet_until)
            due.append(self.lookout.next_due())
            due.append(self.leading.next_due(self.context.incarnation))
            if self.hold.deadline > context.now:
                due.append(self.hold.deadline)
            if self.activity.idle and not self._inactive():
                due.append(self.checking.next_due())
        soonest = min(due)
        # What was due at the last look and was not done waits for something else; look again soon, but never spin.
        return soonest if soonest > self._looked else self._looked + LOOK_AGAIN

    # -- the step --------------------------------------------------------------------------------------------

    def _enter(self, now: float, wall: float) -> None:
        """Every input begins here: the time, and whether the hold has ended since the last one."""
        held = self.hold.valid(self.context.now)
        self.context.now, self.context.wall = now, wall
        if held and not self.hold.valid(now):
            self.context.note("the hold has ended without an answer from the store: releasing all addresses", "error")
            self.serving.doubt()
            self.context.emit(DropHold())

    def _keys_changed(self, keys: set[str]) -> None:
        view, now = self.view, self.context.now
        # In an order, so that a run of the simulation is the same in every process.
        for key in sorted(keys):
            kind, node = schema.split_key(key)
            if kind == "member":
                self.observers.forget(node)
            if kind in ("member", "node"):
                self.history.longest_wait()
            if kind == "beat" and node == self.context.name:
                beat = view.beats.get(node)
                if beat is not None and beat.record.incarnation == self.context.incarnation:
                    self.observers.beat_echoed(beat.record.sequence, now)
            if kind in ("member", "beat") and node in view.members:
                self.observers.beat_seen(node, view.revision_of(f"beat/{node}"), now)
                if kind == "beat" and node != self.context.name and self.observers.store_is_back(now):
                    self.hold.hurry()
                    self._wakeup = None
        if any(key in view.corrupt for key in keys):
            for key in sorted(keys & view.corrupt.keys()):
                self.context.note(view.corrupt[key], "error")
        self.leading.keys_changed(keys)

    def _step(self) -> None:
        self._looked, self._reads, self._wakeup = self.context.now, self.view.reads, None
        if self.stage is Stage.LEFT:
            return
        if not self.view.loaded:
            # Nothing is known of the cluster; what is here can be released all the same.
            if self.stage is Stage.LOST:
                self._activity_step()
            if self.leaving.asked:
                self._leave_step()
            return
        if self.stage is Stage.MEMBER and f"member/{self.context.name}" in self.view.corrupt:
            # Whoever starts anew cannot read that we are a member, and frees our claims after a hold.
            self._lose("this node's membership cannot be read in the store")
        if self.stage is Stage.MEMBER and not self.view.alive(self.context.name, self.context.incarnation):
            if self.leaving.ends_membership:
                # Our own farewell, seen in the watch before its answer came.
                self._left()
                return
            self._lose("this node's membership is gone from the store")
        if self.stage is Stage.LOST and not self.serving.local and self.activity.idle and self.history.current:
            self.stage = Stage.JOINING
            self.lookout.begin()
        if self.stage is Stage.JOINING:
            self._join()
        if self.stage is Stage.MEMBER:
            self._look_for_contradiction()
        if self.stage is Stage.MEMBER:
            self._member_step()
        self._activity_step()
        if self.leaving.asked:
            self._leave_step()

    def _look_for_contradiction(self) -> None:
        """A claim on an address that is held here ends with this membership, or by this node after the release.

        So another node's claim on it is proof of another history, or a stranger's work. Addresses are released one
        after the other; by then the other node may have taken this one. All of them fall silent at once instead.
        """
        found = self.serving.contradiction(self.context.incarnation)
        if found is not None:
            self._lose(found)

    def _join(self) -> None:
        if self.leaving.asked:
            return
        adoption, self._adoption = self._adoption, None
        if adoption is not None:
            if self._may_adopt(adoption):
                self._adopt(adoption)
            else:
                self.serving.inherit(adoption.held)
                self._lose("the membership of the agent before this one is gone, or was on other terms")
            return
        if self.context.incarnation and self.view.alive(self.context.name, self.context.incarnation):
            self.stage = Stage.MEMBER
            self.hold.lose()
            self.context.last_beat = 0
            self.following.join()
            self.checking.unearn()
            self.lookout.begin()
            self.context.note(f"joined as {self.context.incarnation}")
            return
        if not self.lookout.clear():
            self.joining.blocked(self.lookout.obstacle, self.lookout.awaited)
            return
        # Until a commit of this very incarnation is seen, each try has a name of its own.
        candidate = self._new_incarnation()
        self.joining.step(candidate)
        if self.joining.tried == candidate:
            self._call_itself(candidate)

    def _may_adopt(self, adoption: Adoption) -> bool:
        """Whether the membership stands with the beat that it was held by, and on terms that this agent keeps.

        Others wait as long as its key says. A store without that beat was restored from an older copy.
        """
        view, beat = self.view, f"beat/{self.context.name}"
        if not view.alive(self.context.name, adoption.incarnation) or view.revision_of(beat) < adoption.revision:
            return False
        # The embedded store gives beats new revisions when it starts. An address that was held has its claim in one
        # history: so a copy shows itself by one that it does not have.
        if any(view.claim_of(address) != (self.context.name, adoption.incarnation) for address in adoption.held):
            return False
        terms = self.view.members[self.context.name].record
        return terms.hold == self.identity.hold and terms.margin >= self.identity.margin

    def _adopt(self, adoption: Adoption) -> None:
        self.stage = Stage.MEMBER
        self.lookout.trust()
        self._call_itself(adoption.incarnation)
        self.hold.adopt(adoption.deadline, adoption.slot, self._last_sequence())
        self.context.last_beat = adoption.revision
        self.history.quiet_until = adoption.quiet
        mine = (self.context.name, self.context.incarnation)
        claims = {a: c.record for a, c in self.view.claims.items() if (c.record.node, c.record.incarnation) == mine}
        self.serving.adopt(adoption.held, claims)
        self.serving.scripts_forget(adoption.missing)
        if not self.hold.valid(self.context.now):
            self.serving.doubt()
        health = current_health(self.view, self.context.name)
        if health is not None:
            self.checking.adopt(health.started, health.earned, health.healthy, health.reason)
            self.serving.adopt_links(health.down)
        self.following.adopt(self.context.incarnation)
        self.context.note(f"adopted {self.context.incarnation} with {len(adoption.held)} addresses")

    def _call_itself(self, incarnation: str) -> None:
        if incarnation != self.context.incarnation:
            self.context.incarnation, self._began_at = incarnation, self.context.now

    def _last_sequence(self) -> int:
        beat = self.view.beats.get(self.context.name)
        return beat.record.sequence if beat is not None else 0

    def _lose(self, why: str) -> None:
        """This incarnation is over: silent at once, then tell the scripts, then join anew."""
        self.context.note(f"{why}; releasing all addresses and joining anew", "error")
        self.stage = Stage.LOST
        self._call_itself("")
        self.hold.lose()
        self.context.last_beat = 0
        self.serving.doubt()
        self.checking.lost()
        self.context.emit(DropHold())
        self.history.doubt()

    # -- a store that goes back ----------------------------------------------------------------------------------

    def _begin_history(self) -> None:
        """The store's history is another one: silent at once, and nothing that was known before counts any more."""
        what = self.history.changed()
        self._known.clear()
        self.commits.forget()
        self.observers.forget_all()
        self.leading.forget()
        self.serving.forget()
        if self.stage is Stage.MEMBER:
            self._lose(what)
        elif self.stage is not Stage.LEFT:
            self._call_itself("")
            self.context.note(what, "error")
            self.history.doubt()

    def _look_for_gap(self, now: float, wall: float) -> None:
        """A beat was accepted: whether the store can have gone back unseen since the last one.

        A copy is older than the longest hold and its margin (``docs/safety.md``). So a store that was restored
        since this node's last accepted beat lacks that beat, and refuses the next one, unless the gap between the two
        is at least as long. Then, as at the beginning of a membership, some node may still go on by the hold that it
        has in another history, with claims that this one does not show: nothing is claimed or taken until all of
        those are over.
        """
        hold = self.hold
        if now < hold.proven + hold.hold + self.identity.margin:
            return
        # The end of the hold comes first; and whatever the view knows may be another history's.
        self._enter(now, wall)
        self.observers.forget_all()
        for node in self.view.members:
            self.observers.beat_seen(node, self.view.revision_of(f"beat/{node}"), now)
        self.leading.forget()
        self.history.doubt()
        self.history.keep_quiet()

    def _member_step(self) -> None:
        now = self.context.now
        self._watch_inactivity()
        if self.hold.due(now):
            self._beat()
        plan = self.following.plan(self.context.incarnation)
        mine = self.serving.mine(plan, self.context.incarnation)
        hold_valid = self.hold.valid(now)
        if hold_valid and self.history.current:
            self.leading.step(self.context.incarnation)
        revision = self.view.plan.revision if self.view.plan is not None else 0
        may_take = hold_valid and plan is not None and self.following.may_move(plan) and self.history.may_begin()
        may_take = self.lookout.look(self.identity.addresses) and may_take
        self.serving.step(mine - self.lookout.barred(), revision, self.context.incarnation, may_take)
        if plan is not None and hold_valid:
            settled = self.serving.settled(mine)
            self.following.step(plan, self.context.incarnation, settled, self.serving.changes)
        self.following.write_ban()
        self._write_health()
        self.joining.refresh()

    def _beat(self) -> None:
        context = self.context
        ticket = context.ticket()
        slot = self.hold.begin(ticket, context.now)
        self.observers.beat_sent(self.hold.sequence, context.now)
        record = BeatRecord(self.context.incarnation, self.hold.sequence)
        put = Put(f"beat/{context.name}", schema.encode(record))
        reason = {put.key: "the node alone writes it, and its membership, a condition, proves which life of the node"}
        self._known[ticket] = self.view.known
        commit = Commit(tuple(context.membership()), (put,), reason)
        context.emit(SendBeat(ticket, slot, commit, context.incarnation, self.hold.hold, self.hold.interval))

    def _write_health(self) -> None:
        key = f"health/{self.context.name}"
        truth = HealthRecord(
            incarnation=self.context.incarnation,
            started=self.checking.started and self.checking.judged,
            earned=self.checking.earned,
            healthy=self.checking.healthy,
            reason=self.checking.reason,
            down=self.serving.down(),
            refused=self.serving.refusals.reasons(),
            occupied={**self.serving.refusals.occupied(), **self.lookout.occupied(self.serving.hosted)},
            leaving=self.leaving.asked,
            handles=self._handles,
            warning=self._warning(),
            unable=self.obstacles.unable(self.context.now),
            unsteady=self.serving.unsteady(),
            settling=self.checking.settling(),
            warnings=self.obstacles.warnings(),
        )
        known = self.view.health.get(self.context.name)
        if known is None or known.record != truth or key in self.view.corrupt:
            member = self.view.condition(f"member/{self.context.name}")
            self.commits.start(WriteHealth(), [member, self.view.condition(key)], [Put(key, schema.encode(truth))])

    def _warning(self) -> str:
        return "; ".join(part for part in (self.identity.warning, self.history.warning()) if part)

    def _inactive(self) -> bool:
        return inactive(self.view, self.context.name, self.context.wall)

    def _watch_inactivity(self) -> None:
        """A node that is stopped or banned must prove its services again before it serves (I6).

        It says so at once, not when it is free again: others would plan with what it said before.
        """
        present = self._inactive()
        if present and not self._was_inactive:
            self.checking.unearn()
        self._was_inactive = present

    # -- activities --------------------------------------------------------------------------------------------

    def _activity_step(self) -> None:
        if self.activity.idle:
            work, _ = self._next_work()
            if work is not None:
                work()
        elif self.activity.name == "monitor" or (self.activity.name == "startup" and self.leaving.asked):
            # Moving addresses does not wait for a check that may take long.
            _, urgent = self._next_work()
            if urgent or self.leaving.asked:
                self.activity.cancel()

    def _next_work(self) -> tuple[Callable[[], None] | None, bool]:
        """The next thing to do, and whether it may interrupt a monitor."""
        member = self.stage is Stage.MEMBER
        hold_valid = member and self.hold.valid(self.context.now)
        plan = self.following.plan(self.context.incarnation) if member else None
        mine = self.serving.mine(plan, self.context.incarnation)
        may_move = plan is None or self.following.may_move(plan)
        # Where there is no plan at all, somebody deleted it: that is no reason to stop serving before there is another.
        may_release = may_move and (self.view.plan is not None or not member or self._inactive())
        address = self.serving.release_due(mine, hold_valid, may_release, self.context.incarnation)
        if address is not None:
            return lambda: self.serving.release(address), True
        if hold_valid and plan is not None:
            if self.following.prepare_due(plan):
                return lambda: self.following.prepare(plan), True
            if (
                may_move
                and self.history.may_begin()
                and (take := self.serving.take_due(mine, self.context.incarnation)) is not None
            ):
                return lambda: self.serving.take(take), True
            if may_move and (update := self.serving.update_due(mine)) is not None:
                return lambda: self.serving.update(update), True
            if may_move and (again := self.serving.retake_due(mine)) is not None:
                return lambda: self.serving.retake(again), True
            if self.following.closing_due(plan):
                return lambda: self.following.close(plan), True
        if member and not self._inactive() and not self.leaving.asked:
            return self.checking.due(), False
        return None, False

    # -- leaving -----------------------------------------------------------------------------------------------

    def _leave_step(self) -> None:
        if self.stage is Stage.LEFT or not self.activity.idle or self.serving.local:
            return
        member, started = self.stage is Stage.MEMBER, self.checking.started
        if self.leaving.step(member=member, hold_valid=self.hold.valid(self.context.now), started=started):
            self._left()

    def _left(self) -> None:
        if self.stage is not Stage.LEFT:
            self.stage = Stage.LEFT
            self.leaving.left()
            self.context.emit(Exit())
