"""One node of the cluster, as a state machine: inputs and time go in, effects come out.

Rules of this file: it takes inputs, calls the parts in their order, and says when it must be called again. The parts
make the decisions. :mod:`locum.rules` explains the caller's duties and the promises of this class;
:mod:`locum.rules.membership` has the stages of a node's life.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

from locum.config.tunables import Tunables
from locum.rules import schema
from locum.rules.agenda import Agenda
from locum.rules.beats import Beats
from locum.rules.commit_kinds import Claim, Farewell, Join, LeaderCommit
from locum.rules.effects import Effect
from locum.rules.health import Health
from locum.rules.identity import Adoption, Identity
from locum.rules.membership import Membership
from locum.rules.moment import Moment
from locum.rules.occurrences import Occurrence
from locum.rules.parts import Parts
from locum.rules.plan import inactive
from locum.rules.schema import HostedAddress
from locum.rules.status import NodeStatus, Stage
from locum.rules.view import View
from locum.store.base import Batch, CommitResult, Snapshot

__all__ = ["Adoption", "Identity", "Node", "NodeStatus", "Stage"]

#: Shortest time between two checks of something that is due but waits for something else, in seconds.
LOOK_AGAIN = 0.02


class Node:
    """One node (see the module). ``new_incarnation`` returns a name that was never used before."""

    def __init__(
        self,
        identity: Identity,
        view: View,
        new_incarnation: Callable[[], str],
        adoption: Adoption | None = None,
    ) -> None:
        self.view = view
        self.parts = Parts(identity, view)
        self._membership = Membership(self.parts, new_incarnation, adoption)
        self._beats = Beats(self.parts, self._membership)
        self._agenda = Agenda(self.parts)
        self._health = Health(self.parts)
        # When the whole situation was last examined, after how many full reads, and when it is due again.
        self._looked = -math.inf
        self._reads = 0
        self._wakeup: float | None = None

    # -- inputs: each records what happened, then runs the step ------------------------------------------------

    def tick(self, now: float, wall: float) -> None:
        """Time has passed. ``now``: CLOCK_BOOTTIME seconds; ``wall``: unix seconds."""
        self._membership.time_passes(now, wall)
        self._step()

    def store_read(self, snapshot: Snapshot, known: int, now: float, wall: float) -> None:
        """The whole store was read. ``known``: the view's ``known`` when the read was requested."""
        keys = self.view.reset(snapshot, known)
        self.parts.history.answered(snapshot.began, now, read=True)
        self._view_changed(keys, 0, now, wall)
        self.parts.chronicle.begin_anew()

    def store_changed(self, batch: Batch, now: float, wall: float) -> None:
        """The watch has reported one commit."""
        if keys := self.view.apply(batch):
            self._view_changed(keys, batch.revision, now, wall)

    def _view_changed(self, keys: set[str], revision: int, now: float, wall: float) -> None:
        held = self.parts.hold.valid(self.parts.context.now)
        self._membership.time_passes(now, wall)
        if self.view.another_history:
            self._begin_history()
            held = True
        self._keys_changed(keys, revision)
        # Most changes are beats, which only postpone the expiry of a node.
        if not schema.only_beats(keys) or held != self.parts.hold.valid(now) or self._reads != self.view.reads:
            self._step()

    def watch_lost(self, now: float, wall: float) -> None:
        """The store does not have the watch's position; the caller reads everything again.

        This happens after a crash of the embedded store, and after the start of a restored copy. Beats cannot tell the
        two apart: a crash may lose their last values, and their keys then get new revisions
        (:mod:`locum.store.sqlite`). The node keeps what it holds; it begins nothing before all holds of another history
        have ended.
        """
        self._membership.time_passes(now, wall)
        self.parts.history.watch_lost()
        self._step()

    def beat_done(self, request: int, result: CommitResult | None, sent_at: float, now: float, wall: float) -> None:
        """A beat was answered; see :class:`locum.rules.effects.SendBeat`."""
        if self._beats.answered(request, result, sent_at, now, wall):
            self._step()

    def commit_done(self, request: int, result: CommitResult | None, now: float, wall: float) -> None:
        """A commit was answered; ``result`` is None when the store did not answer."""
        self._membership.time_passes(now, wall)
        answer = self.parts.commits.answered(request, result)
        if result is not None:
            self.parts.history.answered(result.began, now)
        refused = result is not None and answer is not None and not answer.accepted
        if self.view.another_history:
            self._begin_history()
        elif answer is not None:
            match answer.kind:
                case LeaderCommit():
                    self.parts.leading.finished(answer.kind, answer.accepted)
                case Claim() if refused:
                    self.parts.serving.claims.refused()
                case Join() if refused:
                    self.parts.history.mark_uncertain()
                case Farewell() if answer.accepted:
                    self._membership.left()
            self._keys_changed(answer.keys, result.revision if result is not None else 0)
        self._step()

    def activity_done(self, request: int, ok: bool, reason: str, now: float, wall: float) -> None:
        """The activity of ``request`` has ended; ``reason`` says why it is not ok."""
        self._membership.time_passes(now, wall)
        self.parts.activity.ended(request, ok, reason)
        self._step()

    def probed(self, request: int, found: Mapping[str, str], now: float, wall: float) -> None:
        """A probe was answered; see :class:`locum.rules.effects.ProbeAddresses`."""
        self._membership.time_passes(now, wall)
        self.parts.serving.probed(request, found)
        self._step()

    def clusters_seen(
        self, request: int, problem: str | None, addresses: frozenset[str], now: float, wall: float
    ) -> None:
        """The store was searched; see :class:`locum.rules.effects.LookForClusters`."""
        self._membership.time_passes(now, wall)
        self.parts.lookout.seen(request, problem, addresses)
        self._step()

    def clusters_awaited(self, request: int, reason: str, now: float, wall: float) -> None:
        """A search for other clusters cannot finish yet, for ``reason``; it continues."""
        self._membership.time_passes(now, wall)
        self.parts.lookout.awaits(request, reason)
        self._step()

    def links_changed(self, links: Mapping[str, bool], now: float, wall: float) -> None:
        """The links' states, of all interfaces: name → up."""
        self._membership.time_passes(now, wall)
        if dict(links) != self.parts.serving.links.states:
            self.parts.serving.links_changed(links)
            self.parts.monitoring.trigger()
        self._step()

    def address_removed(self, address: str, interface: str, now: float, wall: float) -> None:
        """The kernel reports that ``address`` is gone from ``interface``."""
        self._membership.time_passes(now, wall)
        if self.parts.hold.valid(now):
            self.parts.serving.address_removed(address, interface)
        self._step()

    def restored(self, address: str, interface: str, problem: str, now: float, wall: float) -> None:
        """The answer to :class:`locum.rules.effects.Restore`."""
        self._membership.time_passes(now, wall)
        self.parts.serving.restored(address, interface, problem)
        self._step()

    def renewal_failed(self, address: str, interface: str, problem: str, now: float, wall: float) -> None:
        """The kernel did not renew the lifetime of a held address."""
        self._membership.time_passes(now, wall)
        self.parts.serving.renewal_failed(address, interface, problem)
        self._step()

    def address_unfit(self, address: str, interface: str, reason: str, now: float, wall: float) -> None:
        """A held address is configured and cannot work on this node, for ``reason``: another node should serve it."""
        self._membership.time_passes(now, wall)
        self.parts.serving.give_up(address, interface, reason)
        self._step()

    def scripts_forget(self, addresses: Collection[str], now: float, wall: float) -> None:
        """State that scripts had attached to these held addresses may be gone: run ``takeip`` for them again."""
        self._membership.time_passes(now, wall)
        self.parts.serving.scripts_forget(addresses)
        self._step()

    def still_here(self, address: str, reason: str, now: float, wall: float) -> None:
        """An address under release could be neither removed nor muted. Comes before the activity's answer."""
        self._membership.time_passes(now, wall)
        self.parts.serving.still_here(address, reason)
        self._step()

    def gate_changed(self, problem: str, now: float, wall: float) -> None:
        """The kernel's gate could not be armed, opened or restored, or ("") works again."""
        self._membership.time_passes(now, wall)
        self.parts.obstacles.seen("gate", problem, now)
        self._step()

    def warnings_changed(self, source: str, texts: tuple[str, ...], now: float, wall: float) -> None:
        """Replace the warnings of ``source`` (a part of the agent) for admins."""
        self._membership.time_passes(now, wall)
        self.parts.obstacles.warn(source, texts)
        self._step()

    def beat_now(self, now: float, wall: float) -> None:
        """Send a beat at once: the kernel's gate was shut and waits for one."""
        self._membership.time_passes(now, wall)
        self.parts.hold.beat_now()
        self._step()

    def trigger_monitor(self, now: float, wall: float) -> None:
        """An event that ``monitor`` should examine has happened, such as a listening socket that went away."""
        self._membership.time_passes(now, wall)
        self.parts.monitoring.trigger()
        self._step()

    def configure(self, identity: Identity, now: float, wall: float) -> None:
        """The configuration was reloaded. Name, hold and margin stay as they were until the node joins again."""
        self._membership.time_passes(now, wall)
        self.parts.configure(identity)
        self._step()

    def handles_changed(self, events: tuple[str, ...], now: float, wall: float) -> None:
        """Set the events that this node's scripts handle; the leader prepares a plan only when a script handles it."""
        self._membership.time_passes(now, wall)
        self._health.handles = events
        self._step()

    def leave(self, now: float, wall: float) -> None:
        """Stop in order: fail over, run ``shutdown``, leave, :class:`Exit`."""
        self._membership.time_passes(now, wall)
        self.parts.leaving.ask()
        self._step()

    # -- outputs -----------------------------------------------------------------------------------------------

    def take_effects(self) -> list[Effect]:
        """The effects to carry out now, in order; each is returned once."""
        effects, self.parts.context.effects = self.parts.context.effects, []
        return effects

    def take_occurrences(self) -> list[Occurrence]:
        """What has happened in the cluster since the last call; each is returned once, an open one again at its end."""
        return self.parts.chronicle.take()

    def remembered(self) -> list[Occurrence]:
        """The latest occurrences, returned or not."""
        return self.parts.chronicle.remembered()

    def leads(self) -> bool:
        """Whether this node is the leader, as far as it knows."""
        return self.parts.leading.leads()

    def status(self) -> NodeStatus:
        """This node's knowledge about itself, beyond what the view shows."""
        parts = self.parts
        here = parts.serving.local.items()
        return NodeStatus(
            identity=parts.identity,
            stage=self._membership.stage,
            incarnation=parts.context.incarnation,
            leaving=parts.leaving.asked,
            hold=parts.hold.hold,
            interval=parts.hold.interval,
            deadline=parts.hold.deadline,
            current_at=max(parts.detector.current_at, self._membership.began_at),
            committing=parts.commits.waiting,
            activity=parts.activity.name,
            moving=parts.serving.moving,
            hosted=parts.serving.hosted,
            held={address: local.interface for address, local in here if local.held},
            unsure={address: local.interface for address, local in here if not local.held},
            unsteady=parts.serving.links.unsteady(),
            started=parts.monitoring.started,
            obstacle=parts.joining.obstacle,
            unable=parts.obstacles.unable(parts.context.now),
            last_retry=parts.serving.refusals.latest_due(),
            last_retake=parts.serving.upkeep.latest_retake(),
            tunables=parts.context.tunables,
        )

    # Single facts of the status, for callers that ask often: it takes time in proportion to the node's addresses.

    @property
    def tunables(self) -> Tunables:
        """The cluster's tunables as last seen."""
        return self.parts.context.tunables

    @property
    def hosted(self) -> Mapping[str, HostedAddress]:
        """The configured addresses."""
        return self.parts.serving.hosted

    @property
    def activity(self) -> str | None:
        """The event or kind of the activity under way."""
        return self.parts.activity.name

    @property
    def moving(self) -> str | None:
        """The address of the activity under way, if it has one."""
        return self.parts.serving.moving

    @property
    def leaving(self) -> bool:
        """Whether the node was asked to leave."""
        return self.parts.leaving.asked

    def next_wakeup(self) -> float:
        """The CLOCK_BOOTTIME second at which :meth:`tick` must be called at the latest (inf: never)."""
        if self._wakeup is None:
            self._wakeup = self._next_look()
        return self._wakeup

    def _next_look(self) -> float:
        parts, stage, since = self.parts, self._membership.stage, self._looked
        due = [parts.commits.next_pause_end(since), parts.leaving.give_up_at]
        if stage is Stage.LOST and self._membership.empty:
            due.append(parts.context.now)
        if stage is Stage.JOINING:
            due += [parts.joining.next_due, parts.lookout.next_due()]
        if stage is Stage.MEMBER:
            # Since the last step and not since the last input: beats of others are inputs without a step.
            due += [parts.hold.next_due, parts.serving.next_due(since), parts.following.next_due(since)]
            due += [parts.monitoring.steady_at(since), parts.obstacles.next_due(since)]
            due += [parts.lookout.next_due(), parts.leading.next_due()]
            if parts.history.quiet_until > since:
                due.append(parts.history.quiet_until)
            if parts.hold.deadline > parts.context.now:
                due.append(parts.hold.deadline)
            if parts.activity.idle and not inactive(self.view, parts.context.name, parts.context.wall):
                due.append(parts.monitoring.next_due)
        soonest = min(due)
        # Whatever was due at the last step and was not done waits for something else: check again soon, but never spin.
        return soonest if soonest > self._looked else self._looked + LOOK_AGAIN

    # -- the step --------------------------------------------------------------------------------------------

    def _keys_changed(self, keys: set[str], revision: int) -> None:
        """The view has changed at ``keys``, by one commit at ``revision``; 0: by several."""
        view, now = self.view, self.parts.context.now
        if keys and revision and not schema.only_beats(keys):
            self.parts.chronicle.keys_changed(keys, revision)
        # Sorted, so that a run of the simulation is the same in every process.
        for key in sorted(keys):
            kind, _, node = key.partition("/")
            if kind not in ("member", "beat", "node"):
                continue
            if kind == "member":
                self.parts.detector.forget(node)
            if kind in ("member", "node"):
                self.parts.history.longest_wait()
            if kind == "beat" and node == self.parts.context.name:
                beat = view.beats.get(node)
                if beat is not None and beat.record.incarnation == self.parts.context.incarnation:
                    self.parts.detector.beat_echoed(beat.record.sequence, now)
            if kind in ("member", "beat") and node in view.members:
                self.parts.detector.beat_seen(node, view.revision_of(f"beat/{node}"), now)
                if kind == "beat" and node != self.parts.context.name and self.parts.detector.store_is_back(now):
                    self.parts.hold.beat_now()
                    self._wakeup = None
        if view.corrupt:
            for key in sorted(keys & view.corrupt.keys()):
                self.parts.context.note(view.corrupt[key], "error")
        self.parts.leading.keys_changed(keys)

    def _begin_history(self) -> None:
        self._beats.forget()
        self.parts.chronicle.forget()
        self._membership.begin_history()

    def _step(self) -> None:
        """Examine the whole situation."""
        self.parts.chronicle.time_passes()
        self._looked, self._reads, self._wakeup = self.parts.context.now, self.view.reads, None
        if self.view.loaded:
            self._membership.step()
        elif self._membership.stage is Stage.JOINING:
            # The cluster is not known yet.
            self._leave_step()
            return
        if self._membership.stage is Stage.LEFT:
            return
        moment = self._moment()
        if moment.member:
            self._member_step(moment)
        self._agenda.step(moment)
        self._leave_step()

    def _moment(self) -> Moment:
        parts, context, plan = self.parts, self.parts.context, self.view.plan
        member = self._membership.member
        mine = parts.following.plan() if member else None
        return Moment(
            member=member,
            holds=member and parts.hold.valid(context.now),
            inactive=inactive(self.view, context.name, context.wall),
            plan=mine,
            plan_revision=plan.revision if plan is not None else 0,
            mine=parts.serving.mine(mine),
            may_move=mine is None or parts.following.may_move(mine),
            may_begin=parts.history.may_begin(),
        )

    def _member_step(self, moment: Moment) -> None:
        parts = self.parts
        parts.monitoring.inactive(moment.inactive)
        self._beats.send()
        if moment.holds and parts.history.current:
            parts.leading.step()
        clear = parts.lookout.look(parts.identity.addresses)
        parts.serving.step(moment, parts.lookout.barred(), may_take=clear and moment.may_take)
        if moment.plan is not None and moment.holds:
            parts.following.step(moment.plan, parts.serving.settled(moment), parts.serving.changes)
        parts.following.write_ban()
        self._health.step()
        parts.joining.refresh()

    def _leave_step(self) -> None:
        parts, membership = self.parts, self._membership
        if not parts.leaving.asked or membership.stage is Stage.LEFT:
            return
        if not parts.activity.idle or parts.serving.local:
            return
        holds = parts.hold.valid(parts.context.now)
        if parts.leaving.step(member=membership.member, hold_valid=holds, started=parts.monitoring.started):
            membership.left()
