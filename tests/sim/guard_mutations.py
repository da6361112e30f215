"""Deliberate defects in the guard's procedures (``src/locum/guard``), in the manner of :mod:`tests.sim.mutations`.

They patch the product's modules: what the simulation runs is what a node runs.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from locum.node.guard import life, watch
from locum.node.guard.children import Child
from locum.node.guard.configuration import Configuration
from locum.node.guard.enforcement import GuardGate
from locum.node.guard.ports import WakeupsPort
from locum.node.guard.silence import Silencer
from locum.node.guard.watch import Watch
from locum_sim.run import Knobs

Patch = pytest.MonkeyPatch


# -- the deadline -----------------------------------------------------------------------------------------------


def deadline_judged_late(patch: Patch) -> None:
    """The hold counts as over a second after its deadline."""
    original = Watch._keep_deadline
    patch.setattr(Watch, "_keep_deadline", lambda self, now: original(self, now - 1.0))


def deadline_slept_through(patch: Patch) -> None:
    """The guard wakes at its own pace, not at the deadline."""
    patch.setattr(Watch, "_next", lambda _self, now: now + watch.LONGEST_SLEEP)


def dropped_hold_is_none(patch: Patch) -> None:
    """A page without a hold asks for no silence, whatever the agent left when it dropped the hold."""
    original = Watch._keep_deadline

    def keep(self: Watch, now: float) -> None:
        if self._page.deadline:
            original(self, now)

    patch.setattr(Watch, "_keep_deadline", keep)


def enforced_once(patch: Patch) -> None:
    """After one silencing the guard takes no notice of later holds."""
    original = Watch._keep_deadline

    def keep(self: Watch, now: float) -> None:
        if not self._enforced:
            original(self, now)

    patch.setattr(Watch, "_keep_deadline", keep)


# -- the silencing ----------------------------------------------------------------------------------------------


def silence_without_the_gate(patch: Patch) -> None:
    """The addresses are removed, and the gate is not shut."""
    patch.setattr(GuardGate, "shut", lambda _self: ())


def silence_without_removal(patch: Patch) -> None:
    """The gate is shut, and the addresses stay."""
    patch.setattr(Silencer, "begin", lambda self: self._submit(self._parts[0]))


def failure_is_final(patch: Patch) -> None:
    """A silencing that failed is not repeated."""
    patch.setattr(Silencer, "again", lambda _self: None)


def problems_pass_for_success(patch: Patch) -> None:
    """An address that the kernel did not remove counts as removed."""
    original = life.clear_addresses

    def clear(*arguments: Any) -> list[str]:
        original(*arguments)
        return []

    patch.setattr(life, "clear_addresses", clear)


def new_hold_is_cut_short(patch: Patch) -> None:
    """What the threads were told to silence is silenced, also when another hold has begun meanwhile."""
    patch.setattr(Silencer, "_if_due", Silencer._carry_out)


def loop_waits_for_silence(patch: Patch) -> None:
    """The guard's loop waits until the node is silent."""
    original = Watch._keep_deadline

    def keep(self: Watch, now: float) -> None:
        begin = self._silencer.begin
        self._silencer.begin = lambda: self._silencer.finish(self._wakeups)  # type: ignore[method-assign, attr-defined]
        original(self, now)
        self._silencer.begin = begin  # type: ignore[method-assign]

    patch.setattr(Watch, "_keep_deadline", keep)


# -- the agent --------------------------------------------------------------------------------------------------


def restarted_before_its_end(patch: Patch) -> None:
    """An agent that is killed counts as ended at once, and another one is started."""
    original = Child.signal

    def send(self: Child, number: signal.Signals) -> None:
        original(self, number)
        if number is signal.SIGKILL:
            self._process = None

    patch.setattr(Child, "signal", send)


def dead_stays_dead(patch: Patch) -> None:
    """An agent that has died is not started again."""
    original = Child.start

    def start(self: Child, now: float) -> None:
        if not self._started:
            original(self, now)

    patch.setattr(Child, "start", start)


def hung_is_alive(patch: Patch) -> None:
    """An agent that does not run is left alone."""
    patch.setattr(watch, "HUNG_AFTER", math.inf)


def sleep_counts_as_hung(patch: Patch) -> None:
    """Time in which the guard itself did not run counts against the agent."""
    original = Watch._check_pulse

    def check(self: Watch, now: float) -> None:
        self._awake += max(now - self._last - 2 * watch.LONGEST_SLEEP, 0.0)
        original(self, now)

    patch.setattr(Watch, "_check_pulse", check)


def no_pause_between_deaths(patch: Patch) -> None:
    """An agent that keeps dying is started again at once, for ever."""
    patch.setattr("locum.node.guard.children.LONGEST_PAUSE", 0.0)


def one_refused_fork_is_the_end(patch: Patch) -> None:
    """A system without a process to spare ends the guard."""
    original = Child.start

    def start(self: Child, now: float) -> None:
        try:
            original(self, now)
        except OSError as error:
            raise RuntimeError(str(error)) from error

    patch.setattr(Child, "start", start)


def leaving_forgotten(patch: Patch) -> None:
    """An agent that is started while its node leaves is not told."""
    original = Watch._check_pulse

    def check(self: Watch, now: float) -> None:
        self._leaving = False
        original(self, now)

    patch.setattr(Watch, "_check_pulse", check)


def first_signal_kills(patch: Patch) -> None:
    """A node that is told to leave loses its agent at once."""
    original = Watch._handle

    def handle(self: Watch, received: Sequence[int]) -> None:
        if signal.SIGTERM in received:
            self._terminations = 1
        original(self, received)

    patch.setattr(Watch, "_handle", handle)


def first_configuration_for_ever(patch: Patch) -> None:
    """What was reloaded is in force until the agent dies."""
    original = life.Charge.__init__

    def init(self: life.Charge[Any], **fields: Any) -> None:
        first, start = fields["settings"], fields["start_agent"]
        original(self, **{**fields, "start_agent": lambda _settings: start(first)})

    patch.setattr(life.Charge, "__init__", init)


def reload_forgets_addresses(patch: Patch) -> None:
    """What a reload has no longer is not removed, though the agent may still have it."""
    original = Configuration._read

    def read(self: Configuration[Any]) -> None:
        original(self)
        self.addresses = list(self._addresses_of(self.settings))

    patch.setattr(Configuration, "_read", read)


# -- the begin --------------------------------------------------------------------------------------------------


def no_clean_slate(patch: Patch) -> None:
    """A guard starts its agent on top of what an earlier life left."""
    patch.setattr(life, "clean_slate", lambda *_: None)


def slate_keeps_the_page(patch: Patch) -> None:
    """A new guard's agent may adopt what the agent of an earlier guard held."""
    original = life.clean_slate

    def clean(configured: Sequence[str], machine: life.Machine) -> None:
        page = machine.page
        cleared = page.clear
        page.clear = lambda: None  # type: ignore[method-assign]
        original(configured, machine)
        page.clear = cleared  # type: ignore[method-assign]

    patch.setattr(life, "clean_slate", clean)


def slate_keeps_former_addresses(patch: Patch) -> None:
    """What the configuration has no longer is left where an earlier life had it."""
    patch.setattr(life, "left_behind", lambda *_: [])


# -- the end ----------------------------------------------------------------------------------------------------


def end_without_silence(patch: Patch) -> None:
    """A guard whose agent has ended ends without removing anything."""
    patch.setattr(Silencer, "finish", lambda *_: True)


def gate_removed_first(patch: Patch) -> None:
    """At the end the gate goes before the addresses."""
    original = Silencer.finish

    def finish(self: Silencer, wakeups: WakeupsPort, limit: float = 20.0) -> bool:
        gate: Any = self._parts[0].work.__self__  # type: ignore[attr-defined]
        gate.remove()
        return original(self, wakeups, limit)

    patch.setattr(Silencer, "finish", finish)


def gate_removed_in_any_case(patch: Patch) -> None:
    """At the end the gate goes although the kernel has not removed the addresses."""
    original = Silencer.finish

    def finish(self: Silencer, wakeups: WakeupsPort, limit: float = 20.0) -> bool:
        original(self, wakeups, limit)
        return True

    patch.setattr(Silencer, "finish", finish)


def store_outlives_the_guard(patch: Patch) -> None:
    """Children besides the agent are left when the guard ends."""
    patch.setattr(Watch, "close", lambda self: self._wakeups.close())


#: Name → defect. Each is found by the playbooks (``tests/unit/node/guard/playbooks.txt``).
GUARD_MUTATIONS: dict[str, Callable[[Patch], None]] = {
    defect.__name__: defect
    for defect in (
        deadline_judged_late,
        deadline_slept_through,
        dropped_hold_is_none,
        enforced_once,
        silence_without_the_gate,
        silence_without_removal,
        failure_is_final,
        problems_pass_for_success,
        new_hold_is_cut_short,
        loop_waits_for_silence,
        restarted_before_its_end,
        dead_stays_dead,
        hung_is_alive,
        sleep_counts_as_hung,
        no_pause_between_deaths,
        one_refused_fork_is_the_end,
        leaving_forgotten,
        first_signal_kills,
        first_configuration_for_ever,
        reload_forgets_addresses,
        no_clean_slate,
        slate_keeps_the_page,
        slate_keeps_former_addresses,
        end_without_silence,
        gate_removed_first,
        gate_removed_in_any_case,
        store_outlives_the_guard,
    )
}

_FROZEN = Knobs(only=("freeze_agent",), calm=0.5, hold=0.5, rounds=1)
_REFUSED = Knobs(
    only=("refuse_removal", "freeze_agent"), calm=1.5, nodes=1, hold=1.0, addresses=3, trouble=60.0, rounds=1
)
_HUNG = Knobs(only=("freeze_agent",), calm=5.0, nodes=2, hold=2.0, addresses=2, trouble=60.0, rounds=1)
_KILLED = Knobs(only=("kill_all",), calm=0.5, rounds=1)

#: Those that must be found by the simulation as well: what must be violated, the knobs with which that happens soon,
#: and the bound on seeds.
IN_SIMULATION: dict[str, tuple[tuple[str, ...], Knobs, int]] = {
    "deadline_judged_late": (("silence",), _FROZEN, 10),
    "deadline_slept_through": (("silence",), _FROZEN, 10),
    "silence_without_removal": (("silence",), _FROZEN, 10),
    "failure_is_final": (("silence",), _REFUSED, 40),
    "problems_pass_for_success": (("silence",), _REFUSED, 40),
    "dead_stays_dead": (("liveness",), Knobs(only=("kill_agent",), calm=0.5, rounds=1), 10),
    "hung_is_alive": (("hung",), _HUNG, 30),
    "one_refused_fork_is_the_end": (("defect",), Knobs(only=("refuse_fork", "kill_agent"), calm=0.3, rounds=1), 20),
    "no_clean_slate": (("I6", "I1"), _KILLED, 10),
    "slate_keeps_the_page": (("I6", "I1"), _KILLED, 10),
    "slate_keeps_former_addresses": (("I1",), Knobs(only=("kill_all", "reload"), calm=0.3, rounds=1), 40),
    "end_without_silence": (("I1", "I7"), Knobs(only=("leave",), calm=0.5, rounds=1), 20),
}
