"""Deliberate defects in what an agent does about held addresses, a failing gate, the store's watch and its own start.

:mod:`tests.sim.agent_mutations` has the table of all.
"""

from __future__ import annotations

from typing import Any

import pytest

from locum.clock import Clock
from locum.errors import LocumError
from locum.events.model import Event
from locum.node import life
from locum.node.announcements import Announcements
from locum.node.driver import Driver
from locum.node.gate_control import GateControl
from locum.node.gate_work import GateWork
from locum.node.kernel_news import KernelNews, Look
from locum.node.ports import HoldPagePort, NotesPort, ScriptsPort, TablePort
from locum.node.served_addresses import ServedAddresses
from locum.node.steps import Steps
from locum.rules import effects as fx
from locum.rules.node import Adoption

Patch = pytest.MonkeyPatch


# -- held addresses ---------------------------------------------------------------------------------------------


def renewed_after_the_hold(patch: Patch) -> None:
    """The thread that renews lifetimes does not look whether the hold has ended since it was asked."""
    patch.setattr(ServedAddresses, "_renew_now", lambda self, items, _: self._table.renew(items, self.lifetime))


def one_failure_ends_renewals(patch: Patch) -> None:
    """After a renewal without an answer no other is tried."""

    async def told(self: ServedAddresses, renewal: Any) -> None:
        try:
            await renewal
        except LocumError:
            return
        self._renewing = False

    patch.setattr(ServedAddresses, "_told_renewal", told)


def renewed_while_it_leaves(patch: Patch) -> None:
    """An address is renewed, and so configured again, while it is released."""

    async def begin(self: Steps, address: str) -> None:
        self._wire.gone(address)
        await self._forget_note(address)

    patch.setattr(Steps, "_begin", begin)


def forgotten_when_the_kernel_has_answered(patch: Patch) -> None:
    """An address that is removed may be renewed until the kernel has answered."""

    async def forget(self: Steps, address: str) -> None:
        await self.gate.mute(address)
        present = self.addresses.configured.get(address)
        if present is not None:
            await self.addresses.remove(address, *present)
            self._stop_serving(address)

    patch.setattr(Steps, "_forget", forget)


def announcements_outlive_the_address(patch: Patch) -> None:
    """An address that has left is announced as often as one that stays."""
    patch.setattr(Announcements, "_end_repeating", lambda self, address: self._repeating.pop(address, None))


def announced_after_the_hold(patch: Patch) -> None:
    """The thread that announces does not look whether the hold has ended since it was asked."""
    patch.setattr(
        Announcements, "_announce_now", lambda self, interface, address: self._announcer.announce(interface, address)
    )


def restored_after_it_left(patch: Patch) -> None:
    """An address is configured again although it left while its note was removed."""
    patch.setattr(ServedAddresses, "is_held", lambda *_: True)


def replacement_taken_for_a_loss(patch: Patch) -> None:
    """The removals of the agent itself count as those of another program."""
    original = ServedAddresses.replace

    async def replace(self: ServedAddresses, address: str) -> str:
        problem = await original(self, address)
        self.expected_removals.clear()
        return problem

    patch.setattr(ServedAddresses, "replace", replace)


def replacement_hides_a_loss(patch: Patch) -> None:
    """After a replacement no removal of the address is noticed."""

    class Kept(set[tuple[str, str]]):
        def discard(self, _item: object) -> None: ...

    original = ServedAddresses.__init__

    def init(self: ServedAddresses, **named: Any) -> None:
        original(self, **named)
        self.expected_removals = Kept()

    patch.setattr(ServedAddresses, "__init__", init)


def removed_though_it_became_ours(patch: Patch) -> None:
    """The thread that removes another program's address does not look whether this node has taken it since."""
    patch.setattr(KernelNews, "_remove_now", lambda self, *item: self._table.remove(*item))


def left_alone_for_good(patch: Patch) -> None:
    """An address that was left alone during an activity is not looked at when the activity has ended."""
    patch.setattr(KernelNews, "_activity_ended", lambda _self: None)


def news_during_a_look_is_lost(patch: Patch) -> None:
    """What changes while the kernel is looked at is not looked at."""

    async def work(self: Look) -> None:
        while self._wanted:
            await self._look()
            self._wanted = False

    patch.setattr(Look, "_work", work)


# -- a gate that fails ------------------------------------------------------------------------------------------


def armed_beside_what_was_not_muted(patch: Patch) -> None:
    """The gate is armed although an address could not be muted, or the rules are gone."""
    patch.setattr(GateWork, "_repair", lambda _self: None)


def removed_rules_stay_away(patch: Patch) -> None:
    """A change of the gate's sets fails when another program has removed the rules a moment ago."""
    patch.setattr(GateWork, "_change", lambda _self, change, addresses: change(addresses))


def muted_after_it_was_taken_again(patch: Patch) -> None:
    """An address that could not be muted, and was taken again, is muted by the next beat."""
    patch.setattr(GateWork, "allow", lambda self, address: self._gate.allow([address]))


def lost_gate_is_no_obstacle(patch: Patch) -> None:
    """Addresses are configured although the gate could not be put back."""
    original = GateWork.__init__

    def init(self: GateWork, gate: Any, clock: Clock) -> None:
        original(self, gate, clock)
        patch.setattr(GateWork, "gone", property(lambda _self: "", lambda *_: None), raising=False)

    patch.setattr(GateWork, "__init__", init)


def addresses_outlive_the_gate(patch: Patch) -> None:
    """Addresses stay configured when the gate cannot be put back."""

    async def restore(self: Steps) -> None:
        await self.gate.restore()

    patch.setattr(Steps, "restore_gate", restore)


def opened_by_a_beat_from_before_the_drop(patch: Patch) -> None:
    """The answer to a beat opens the gate although the hold was dropped since."""
    original = GateControl.drop

    def drop(self: GateControl) -> None:
        armed = dict(self._armed)
        original(self)
        self._armed.update(armed)

    patch.setattr(GateControl, "drop", drop)


def beat_beside_a_slow_one_unanswered(patch: Patch) -> None:
    """A beat that comes while the one before waits for the gate has no answer."""
    original = Driver._beat

    async def beat(self: Driver, effect: fx.SendBeat, sent_at: float) -> None:
        if not self._arming:
            await original(self, effect, sent_at)

    patch.setattr(Driver, "_beat", beat)


# -- the driver -------------------------------------------------------------------------------------------------


def watch_begins_too_late(patch: Patch) -> None:
    """The change right after a snapshot is not received."""
    original = Driver._follow
    patch.setattr(Driver, "_follow", lambda self, after: original(self, after + 1))


def doubt_during_a_read_ignored(patch: Patch) -> None:
    """A view that is doubted while it is read counts."""

    def read_anew(self: Driver) -> None:
        if self._following is not None:
            self._again = True
            self._following.reschedule(self._loop.time())

    patch.setattr(Driver, "_read_anew", read_anew)


def timer_that_came_early_is_not_repeated(patch: Patch) -> None:
    """A timer that ended a moment too early stays the one that is waited for."""
    patch.setattr(Driver, "_tick", lambda self: self.feed(self.node.tick))


# -- start ------------------------------------------------------------------------------------------------------


def init_after_an_adoption(patch: Patch) -> None:
    """An agent that adopts runs ``init`` and ``setup`` beside the services of its predecessor."""
    run, take_over = life.run, life.take_over

    async def runs(beginning: life.Beginning[Any], *others: Any) -> str | None:
        patch.setattr(life, "take_over", lambda _none, *rest: take_over(beginning, *rest))
        return await run(life.Beginning(None, (), (), None), *others)

    patch.setattr(life, "run", runs)


def failed_setup_is_no_obstacle(patch: Patch) -> None:
    """A node starts although ``setup`` has failed."""
    original = Steps.run_once

    async def run_once(self: Steps, event: Event) -> str | None:
        reason = await original(self, event)
        return None if event is Event.SETUP else reason

    patch.setattr(Steps, "run_once", run_once)


def events_before_they_are_known(patch: Patch) -> None:
    """Events run before the rules know which of them the scripts handle."""

    async def start(driver: Driver, steps: Steps, scripts: ScriptsPort) -> None:
        try:
            await scripts.start()
        except LocumError as error:
            return driver.end(str(error))
        steps.engine_ready.set()
        return driver.feed(driver.node.handles_changed, await scripts.handled())

    patch.setattr(life, "_start_engine", start)


def any_interface_is_the_right_one(patch: Patch) -> None:
    """An agent that adopts takes an address for present wherever it is."""
    original = life.adoption_of

    def adoption_of(page: HoldPagePort, notes: NotesPort, table: TablePort) -> Adoption | None:
        found = original(page, notes, table)
        if found is None:
            return None
        present = {one.address for one in table.list()}
        missing = found.missing - present
        return Adoption(found.incarnation, found.deadline, found.slot, found.revision, found.quiet, found.held, missing)

    patch.setattr(life, "adoption_of", adoption_of)


UPKEEP_MUTATIONS = (
    renewed_after_the_hold,
    one_failure_ends_renewals,
    renewed_while_it_leaves,
    forgotten_when_the_kernel_has_answered,
    announcements_outlive_the_address,
    announced_after_the_hold,
    restored_after_it_left,
    replacement_taken_for_a_loss,
    replacement_hides_a_loss,
    removed_though_it_became_ours,
    left_alone_for_good,
    news_during_a_look_is_lost,
    armed_beside_what_was_not_muted,
    removed_rules_stay_away,
    muted_after_it_was_taken_again,
    lost_gate_is_no_obstacle,
    addresses_outlive_the_gate,
    opened_by_a_beat_from_before_the_drop,
    beat_beside_a_slow_one_unanswered,
    watch_begins_too_late,
    doubt_during_a_read_ignored,
    timer_that_came_early_is_not_repeated,
    init_after_an_adoption,
    failed_setup_is_no_obstacle,
    events_before_they_are_known,
    any_interface_is_the_right_one,
)
