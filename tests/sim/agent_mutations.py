"""Deliberate defects in the agent's procedures (``src/locum/node``), in the manner of :mod:`tests.sim.mutations`.

They patch the product's modules: what the simulation runs is what a node runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from typing import Any

import pytest

from locum.events.runner.results import Outcome
from locum.node import life
from locum.node.driver import Driver
from locum.node.gate_control import GateControl
from locum.node.gate_work import GateWork
from locum.node.kernel_news import KernelNews
from locum.node.ports import HoldPagePort, NotesPort, TablePort
from locum.node.reconfiguration import Reconfiguration
from locum.node.served_addresses import ServedAddresses
from locum.node.steps import Outcome as Done
from locum.node.steps import Steps
from locum.rules import effects as fx
from locum.rules.hold import OwnHold
from locum.rules.node import Adoption
from locum_sim.run import Knobs
from tests.sim.upkeep_mutations import UPKEEP_MUTATIONS

Patch = pytest.MonkeyPatch


async def _nothing(*_: Any) -> None:
    """The step that is left out."""


# -- the beat ---------------------------------------------------------------------------------------------------


def armed_after_the_answer(patch: Patch) -> None:
    """The gate's timer starts when the store has answered."""

    async def beat(self: Driver, effect: fx.SendBeat, sent_at: float) -> None:
        result = await self._ask(effect.commit)
        await self._steps.gate.arm(effect.slot, effect.hold)
        self.feed(self.node.beat_done, effect.request, result, sent_at)

    patch.setattr(Driver, "_beat", beat)


def confirmed_before_the_answer(patch: Patch) -> None:
    """The gate opens before the store has accepted the beat."""
    original = GateControl.arm

    async def arm(self: GateControl, slot: int, hold: float) -> None:
        await original(self, slot, hold)
        armed = self._armed.get(slot)
        if armed is not None and self._work is not None:
            await self._calls.on_gate("opening the gate", self._work.confirm, armed)

    patch.setattr(GateControl, "arm", arm)


def time_taken_after_arming(patch: Patch) -> None:
    """A beat's time is read when its slot is armed and the beat is on its way, not before."""
    original = Driver._ask

    async def beat(self: Driver, effect: fx.SendBeat, _sent_at: float) -> None:
        await self._steps.gate.arm(effect.slot, effect.hold)
        result = await original(self, effect.commit)
        self.feed(self.node.beat_done, effect.request, result, self._clock.boot())

    patch.setattr(Driver, "_beat", beat)


def hold_never_ends(patch: Patch) -> None:
    """Neither the rules nor the agent look whether the hold has ended."""
    patch.setattr(OwnHold, "valid", lambda self, _now: self.deadline > 0)
    original = Steps.take

    async def take(self: Steps, effect: fx.TakeAddress) -> Done:
        self._page = self.addresses._page = self.announcements._page = _Altered(self._page, deadline=math.inf)
        return await original(self, effect)

    patch.setattr(Steps, "take", take)


class _Altered:
    """A page with some of its attributes replaced."""

    def __init__(self, page: HoldPagePort, **replaced: Any) -> None:
        self._page = page
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._page, name)


# -- the drop ---------------------------------------------------------------------------------------------------


def drop_without_emptying(patch: Patch) -> None:
    """A dropped hold shuts the gate and leaves the set of what it lets through as it is."""

    def drop(self: GateWork) -> list[str]:
        self._gate.shut()
        return []

    patch.setattr(GateWork, "drop", drop)


def drop_without_removing(patch: Patch) -> None:
    """A dropped hold leaves the addresses configured."""
    patch.setattr(ServedAddresses, "_remove_now", lambda _self, items: [""] * len(items))


def drop_keeps_the_page(patch: Patch) -> None:
    """A dropped hold leaves what an agent after a crash would adopt."""
    original = Steps.drop

    def drop(self: Steps) -> None:
        page, self._page = self._page, _Altered(self._page, clear=lambda: None)
        original(self)
        self._page = page

    patch.setattr(Steps, "drop", drop)


# -- addresses --------------------------------------------------------------------------------------------------


def release_without_muting(patch: Patch) -> None:
    """``releaseip`` runs while the address still answers."""
    original = Steps.release

    async def release(self: Steps, effect: fx.ReleaseAddress) -> Done:
        deny, first = self.gate.mute, True

        async def later(address: str) -> bool:
            nonlocal first
            if first:
                first = False
                return True
            return await deny(address)

        self.gate.mute = later  # type: ignore[method-assign]
        try:
            return await original(self, effect)
        finally:
            self.gate.mute = deny  # type: ignore[method-assign]

    patch.setattr(Steps, "release", release)


def failed_take_stays_allowed(patch: Patch) -> None:
    """What could not be taken stays among what the gate lets through."""

    async def abandon(self: Steps, address: str) -> None:
        present = self.addresses.configured.get(address)
        if present is not None:
            self._stop_serving(address)
            await self.addresses.remove(address, *present)
        self._connections.dropped([address])

    patch.setattr(Steps, "_abandon", abandon)


def released_stays_configured(patch: Patch) -> None:
    """After ``releaseip`` nobody sees to it that the address is gone."""

    async def forget(self: Steps, address: str) -> None:
        await self.gate.mute(address)
        self._stop_serving(address)

    patch.setattr(Steps, "_forget", forget)


def take_goes_on_without_the_hold(patch: Patch) -> None:
    """A take has begun; before its scripts it does not look again whether the hold has ended."""
    patch.setattr(Steps, "_lasts", lambda *_: True)


def take_does_not_look(patch: Patch) -> None:
    """After ``takeip`` nobody sees to it that the address is configured."""
    original = Steps.take

    async def ensured(*_: Any) -> str:
        return ""

    async def take(self: Steps, effect: fx.TakeAddress) -> Done:
        ensure = self.addresses.ensure
        self.addresses.ensure = ensured  # type: ignore[assignment, method-assign]
        try:
            return await original(self, effect)
        finally:
            self.addresses.ensure = ensure  # type: ignore[method-assign]

    patch.setattr(Steps, "take", take)
    patch.setattr("locum_sim.ports.SimulatedScripts._midway", lambda *_: None)


def denials_forgotten(patch: Patch) -> None:
    """What is released stays among those that the gate lets through."""
    patch.setattr(GateWork, "_mute", lambda *_: None)


def update_keeps_the_old_interface(patch: Patch) -> None:
    """An address that changes its interface stays on the old one as well."""
    original = Steps.update

    async def update(self: Steps, effect: fx.UpdateAddress) -> Done:
        remove = self.addresses.take_off
        self.addresses.take_off = _nothing  # type: ignore[assignment, method-assign]
        try:
            return await original(self, effect)
        finally:
            self.addresses.take_off = remove  # type: ignore[method-assign]

    patch.setattr(Steps, "update", update)


def restored_in_silence(patch: Patch) -> None:
    """An address that was configured again is not announced."""
    original = Steps.restore

    async def restore(self: Steps, effect: fx.Restore) -> str:
        announce = self.announcements.begin
        self.announcements.begin = lambda *_: None  # type: ignore[method-assign]
        try:
            return await original(self, effect)
        finally:
            self.announcements.begin = announce  # type: ignore[method-assign]

    patch.setattr(Steps, "restore", restore)


# -- what an agent leaves, and what the next one finds ---------------------------------------------------------


def notes_of_any_life(patch: Patch) -> None:
    """A restarted agent takes over what an earlier membership had taken."""
    original = life.adoption_of

    def adoption_of(page: HoldPagePort, notes: Any, table: TablePort) -> Adoption | None:
        class Any_:
            def of(self, _incarnation: str) -> dict[str, str]:
                return {address: interface for address, (_, interface) in notes._notes.items()}

        return original(page, Any_(), table)  # type: ignore[arg-type]

    patch.setattr(life, "adoption_of", adoption_of)
    patch.setattr(Steps, "clean_slate", _nothing)


def notes_outlive_a_change(patch: Patch) -> None:
    """The note of an earlier take stays while the address is taken again, repaired or released."""
    patch.setattr(Steps, "_forget_note", _nothing)


def no_clean_slate(patch: Patch) -> None:
    """An agent without a hold leaves what an earlier one left when it died in the midst of a drop."""
    patch.setattr(Steps, "clean_slate", _nothing)


def missing_taken_for_present(patch: Patch) -> None:
    """An agent that adopts does not look what the kernel has lost since."""
    original = life.adoption_of

    def adoption_of(page: HoldPagePort, notes: NotesPort, table: TablePort) -> Adoption | None:
        found = original(page, notes, table)
        if found is None:
            return None
        return Adoption(found.incarnation, found.deadline, found.slot, found.revision, found.quiet, found.held)

    patch.setattr(life, "adoption_of", adoption_of)


def remains_overlooked(patch: Patch) -> None:
    """An agent takes only noted addresses for those of its predecessor. A note is removed before a release begins."""
    patch.setattr(life, "remains_of", lambda *_: [])


def lifetime_rounded_up(patch: Patch) -> None:
    """The lifetimes of addresses are rounded up, to a minute."""
    patch.setattr("locum.node.guard.enforcement.lifetime_for", lambda hold: 60 * math.ceil(hold / 60))


# -- news and answers -------------------------------------------------------------------------------------------


def removals_unheard(patch: Patch) -> None:
    """What another program removes from the kernel is no news."""
    patch.setattr("locum.rules.node.Node.address_removed", lambda *_: None)


def strangers_stay(patch: Patch) -> None:
    """A public address that another program has configured here stays."""
    patch.setattr(KernelNews, "_check", lambda *_: None)


def links_unheard(patch: Patch) -> None:
    """A link that fails is no news."""
    patch.setattr(KernelNews, "_read_links", _nothing)


def damage_forgets_the_beat(patch: Patch) -> None:
    """A gate that was put back, shut, waits for the next beat that carries the hold further."""

    async def restore(self: KernelNews, _problems: tuple[str, ...]) -> None:
        await self._steps.restore_gate()

    patch.setattr(KernelNews, "_restore_gate", restore)


def renewals_unheard(patch: Patch) -> None:
    """A lifetime that the kernel does not renew is only logged."""

    async def told(self: ServedAddresses, renewal: Any) -> None:
        try:
            await renewal
        finally:
            self._renewing = False

    patch.setattr(ServedAddresses, "_told_renewal", told)


def read_anew_ignored(patch: Patch) -> None:
    """What the rules doubt is not read again."""
    patch.setattr(Driver, "_read_anew", lambda *_: None)


def cancelled_goes_unanswered(patch: Patch) -> None:
    """An activity that is cancelled is waited for, for ever."""
    original = Driver._activity_ended

    def ended(self: Driver, request: int, task: Any) -> None:
        if not task.cancelled():
            original(self, request, task)

    patch.setattr(Driver, "_activity_ended", ended)


def adopts_without_the_gate(patch: Patch) -> None:
    """An agent that adopts leaves the gate as an intruder left it."""

    async def adopt(self: Steps, held: Iterable[tuple[str, int, str]], _missing: Collection[str]) -> None:
        for address, bits, interface in held:
            self.addresses.configured[address] = self.addresses.held[address] = (bits, interface)

    patch.setattr(Steps, "adopt", adopt)


# -- a reload ---------------------------------------------------------------------------------------------------


def removed_is_not_judged(patch: Patch) -> None:
    """An address that a reload removes is not judged by the gate any longer, though it is still here."""
    patch.setattr(Reconfiguration, "_present", lambda _self: set())


def guard_is_not_told(patch: Patch) -> None:
    """The guard does not learn of the addresses of a reload."""
    original = Reconfiguration.apply

    async def apply(self: Reconfiguration, *arguments: Any) -> None:
        self._tell_guard = lambda: None
        await original(self, *arguments)

    patch.setattr(Reconfiguration, "apply", apply)


def rules_before_the_gate(patch: Patch) -> None:
    """The rules may take the addresses of a reload before the gate judges them."""
    original = GateControl.judge

    async def judge(self: GateControl, public: Iterable[str], interfaces: Iterable[str]) -> None:
        self._background.start(original(self, public, interfaces))

    patch.setattr(GateControl, "judge", judge)


# -- the event engine -------------------------------------------------------------------------------------------


def failed_scripts_succeed(patch: Patch) -> None:
    """An event succeeds whatever its scripts say (others: :mod:`tests.unit.events.engine_mutations`)."""
    patch.setattr(Outcome, "ends_event", False)


def timed_out_scripts_succeed(patch: Patch) -> None:
    """An event succeeds when a script has timed out."""
    patch.setattr(Outcome, "ends_event", property(lambda outcome: outcome is Outcome.FAILED))


#: Name → defect. Each is found by the playbooks (``tests/unit/node/playbooks.txt``) or by the simulation.
AGENT_MUTATIONS: dict[str, Callable[[Patch], None]] = {
    defect.__name__: defect
    for defect in (
        armed_after_the_answer,
        confirmed_before_the_answer,
        time_taken_after_arming,
        hold_never_ends,
        drop_without_emptying,
        drop_without_removing,
        drop_keeps_the_page,
        release_without_muting,
        failed_take_stays_allowed,
        released_stays_configured,
        take_goes_on_without_the_hold,
        take_does_not_look,
        update_keeps_the_old_interface,
        restored_in_silence,
        denials_forgotten,
        notes_of_any_life,
        notes_outlive_a_change,
        no_clean_slate,
        missing_taken_for_present,
        remains_overlooked,
        lifetime_rounded_up,
        removals_unheard,
        strangers_stay,
        links_unheard,
        damage_forgets_the_beat,
        renewals_unheard,
        read_anew_ignored,
        cancelled_goes_unanswered,
        adopts_without_the_gate,
        removed_is_not_judged,
        guard_is_not_told,
        rules_before_the_gate,
        failed_scripts_succeed,
        timed_out_scripts_succeed,
        *UPKEEP_MUTATIONS,
    )
}

#: Those that the playbooks cannot see, or that must be seen in the simulation too: what must be violated, and the knobs
#: with which that happens soon.
IN_SIMULATION: dict[str, tuple[tuple[str, ...], Knobs, int]] = {
    "confirmed_before_the_answer": (("I1",), Knobs(), 60),
    "hold_never_ends": (
        ("I2", "I1"),
        Knobs(only=("store_outage", "scripts_slow", "link_down"), addresses=12, hold=0.5, nodes=3, calm=0.2),
        60,
    ),
    "release_without_muting": (("I7",), Knobs(), 20),
    "denials_forgotten": (("I7", "I1", "liveness"), Knobs(), 20),
    "notes_outlive_a_change": (("I1",), Knobs(only=("remove_by_hand", "scripts_fail", "kill_agent"), nodes=3), 60),
    "remains_overlooked": (
        ("I7", "I1"),
        Knobs(only=("reload", "kill_agent_midway"), nodes=2, addresses=8, calm=0.3),
        25,
    ),
    "lifetime_rounded_up": (("lifetime",), Knobs(only=("abandon",)), 60),
    "removed_rules_stay_away": (
        ("I7",),
        Knobs(only=("flush_rules", "admin", "link_down"), nodes=3, addresses=12, calm=0.05),
        40,
    ),
    "removals_unheard": (("served", "liveness"), Knobs(only=("remove_by_hand",), calm=0.5), 20),
    "strangers_stay": (("liveness", "I1"), Knobs(only=("add_by_hand",), calm=0.5), 20),
    "links_unheard": (("liveness", "served"), Knobs(only=("link_down",), calm=0.5), 20),
    "read_anew_ignored": (
        ("liveness", "I1", "I2"),
        Knobs(only=("store_restored", "store_wiped"), nodes=3, calm=0.5),
        40,
    ),
    "cancelled_goes_unanswered": (("liveness",), Knobs(only=("admin", "scripts_slow"), nodes=3, calm=0.3), 40),
    "failed_scripts_succeed": (("I6",), Knobs(only=("scripts_fail", "power_off", "abandon"), nodes=3, calm=0.3), 60),
    "timed_out_scripts_succeed": (("I6",), Knobs(only=("scripts_hang", "power_off", "abandon"), nodes=3, calm=0.3), 60),
}
