"""The loop: a storm, a check of what must still be served, healing, a check of everything; again until time is over.

Three things are judged. The observer on the public network must never hear two nodes for one address (I1). Whenever the
faults have stopped, every address must be served within a bound (:mod:`.bounds`): by a spared node while the others
stay broken, and by the whole cluster after healing. And what admin commands confirmed must be present, before and after
healing, on every node (I9).
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Sequence

import msgspec
from rich.console import Console

from locum import escape
from locum.clock import boottime
from locum.errors import LocumError
from locum_lab import etcd_store
from locum_lab.lab import Lab
from locum_lab.observer import Record
from locum_lab.torture import bounds, round_report, schedule, verdict
from locum_lab.torture.actions import Hand
from locum_lab.torture.bounds import Bound
from locum_lab.torture.commands import Commands
from locum_lab.torture.kinds import TUNABLES
from locum_lab.torture.machine import Lateness
from locum_lab.torture.round_report import Line
from locum_lab.torture.schedule import Act, Round, Shape
from locum_lab.torture.verdict import Phase, Stretch
from locum_lab.watching import Watching

#: Within this time after it is OK, every node must show what admin commands confirmed, in seconds.
_KNOWN_WITHIN = 10.0
#: Time between two orders to a node that is not OK after healing, as an admin would give them (seconds).
_NUDGE = 2.0
#: How long attempts are undecided (seconds); a phase is judged this much later.
_PROBE_TIMEOUT = 0.5
_PROBE_INTERVAL = 0.02
_ASK_INTERVAL = 0.005
#: How long heard packets and attempts are remembered, in seconds, so that a run may last for hours.
_REMEMBERED = 120.0
#: Limit for a check of the cluster, in seconds, however late the machine is.
_PATIENCE = 180.0
#: How many rounds lie between two copies of the store, to be restored later.
_COPY_EVERY = 5


class Outcome(msgspec.Struct, frozen=True):
    """The result of a run; ``problems`` is empty on success.

    ``faults``: how often each kind was applied. ``longest``: phase → the longest stretch without service in seconds.
    The observer asked ``questions``, heard ``packets``, missed ``lost`` frames and found ``violations`` of I1;
    ``closest``: the shortest time between two nodes heard for one address, in seconds. The clients made ``attempts``.
    ``confirmed`` values of admin commands were checked. ``waited``: seconds in which a task waited for the machine,
    None when the kernel does not count that.
    """

    rounds: int
    seconds: float
    faults: dict[str, int]
    longest: dict[str, float]
    attempts: int
    questions: int
    packets: int
    lost: int
    violations: int
    closest: float
    confirmed: int
    waited: float | None
    problems: tuple[str, ...]


class Torture:
    """A run on a lab that is up. ``slack`` in seconds, see :mod:`.bounds`."""

    def __init__(self, lab: Lab, seed: int, slack: float, console: Console) -> None:
        self._lab = lab
        self._seed = seed
        self._slack = slack
        self._console = console
        self._began = boottime()
        self._log: list[Line] = []
        self._commands = Commands(lab, self._say)
        self._hand = Hand(lab, self._commands)
        self._late = Lateness()
        layout = lab.layout
        self._addresses = tuple(public.address for public in layout.public_addresses)
        self._shape = Shape(layout.node_names, self._addresses, lab.state.store, lab.store.hosts, layout.hold)
        self._election = etcd_store.pace(layout.hold)[1] / 1000 if lab.state.store == "etcd" else 0.0
        self._faults: Counter[str] = Counter()
        self._longest: dict[str, float] = {}
        self._problems: list[str] = []
        self._attempts = 0
        self._confirmed = 0

    def run(self, seconds: float, first_round: int) -> Outcome:
        """Begin rounds for this many seconds, or until one fails."""
        self._prepare()
        end = time.monotonic() + seconds
        number = first_round
        watching = Watching(
            self._lab, probe_interval=_PROBE_INTERVAL, probe_timeout=_PROBE_TIMEOUT, ask_interval=_ASK_INTERVAL
        )
        with self._late, watching, contextlib.closing(self._commands):
            self._lab.wait_served()
            while time.monotonic() < end and not self._problems:
                self._round(schedule.draw(self._seed, number, self._shape), watching)
                number += 1
            last = self._end(watching)
        return Outcome(
            rounds=number - first_round,
            seconds=boottime() - self._began,
            faults=dict(sorted(self._faults.items())),
            longest=self._longest,
            attempts=self._attempts + len(watching.attempts),
            questions=last.asked,
            packets=last.packets,
            lost=last.lost,
            violations=last.violations,
            closest=last.closest,
            confirmed=self._confirmed,
            waited=self._late.between(self._began, boottime()) if self._late.known else None,
            problems=tuple(self._problems),
        )

    def _prepare(self) -> None:
        """Prepare the lab, and set tunables that keep rounds short: the first confirmed writes (I9)."""
        self._hand.prepare()
        self._lab.wait_served()
        now = time.time()
        first = self._lab.layout.node_names[0]
        self._commands.confirmed.take(self._commands.seen_by(first), now)
        self._set_tunables()
        self._hand.copy_store()

    def _set_tunables(self) -> None:
        """Set the tunables to the initial values of a run. Failed commands are logged, and repeated later."""
        asked, seen = self._lab.layout.node_names[0], {}
        for node in self._lab.layout.node_names:
            # The first node that is up to date; after the store went back, some nodes join anew.
            with contextlib.suppress(LocumError):
                asked, seen = node, self._commands.seen_by(node)
                break
        for name, values in TUNABLES.items():
            if seen.get(f"tunable {name}") != values[0]:
                self._commands.ask(asked, "tunable", "set", name, f"{values[0]:g}")
        self._commands.collect(wait=20.0)

    # -- one round -------------------------------------------------------------------------------------------------

    def _round(self, storm: Round, watching: Watching) -> None:
        self._say(f"round {storm.number}: {len(storm.acts)} acts, fit afterwards: {', '.join(storm.fit) or 'no node'}")
        standing = self._storm(storm)
        phases = []
        pause = bounds.pause(storm, self._shape, slack=self._slack)
        if storm.fit and standing:
            phases.append(self._stand(storm, pause, watching))
            self._check_confirmed(storm.fit, watching)
        start = boottime()
        for problem in self._hand.undo_all(standing):
            self._say(f"while healing: {problem}")
        self._lab.heal()
        bound = bounds.healed(storm, self._shape, slack=self._slack, election=self._election)
        self._say(f"all healed; every address within {bound.words()}")
        settled = self._settle(start, bound, watching, storm)
        phases.append(Phase("healed", start, boottime(), bound.seconds, pause.seconds))
        if settled:
            self._check_confirmed(self._lab.layout.node_names, watching)
            if storm.went_back:
                self._set_tunables()
            if storm.number % _COPY_EVERY == 0:
                self._hand.copy_store()
        time.sleep(_PROBE_TIMEOUT + 0.2)  # undecided attempts belong to the phases, too
        watching.read()
        self._judge(phases, watching)
        if not settled and not self._problems:
            for line in round_report.views(self._lab):
                self._say(line)
            self._fail(
                f"round {storm.number}: not settled {bounds.settled(storm):g} s after healing", start, "", watching
            )

    def _storm(self, storm: Round) -> list[Act]:
        """Apply and undo the storm's acts; return those that stand at its end."""
        began = time.monotonic()
        agenda = sorted(
            [(act.at, False, act) for act in storm.acts] + [(act.until, True, act) for act in storm.acts if act.lasts],
            key=lambda item: item[:2],
        )
        for at, undo, act in agenda:
            time.sleep(max(0.0, began + at - time.monotonic()))
            problem = self._hand.undo(act) if undo else self._hand.do(act)
            words = f"{act.node}: {act.kind} undone" if undo else act.words()
            self._say(f"{words} ({problem})" if problem else words)
            if not undo:
                self._faults[act.kind] += 1
        return [act for act in storm.acts if act.lasts is None]

    def _stand(self, storm: Round, pause: Bound, watching: Watching) -> Phase:
        """Wait until the fit nodes serve everything, or the bound is over."""
        start = boottime()
        bound = bounds.standing(storm, self._shape, slack=self._slack, election=self._election)
        self._say(f"faults stand, {', '.join(storm.fit)} fit; every address within {bound.words()}")
        least = start + self._lab.layout.hold + bounds.MARGIN + 1.0
        self._watch_until(start, least, bound.seconds, watching)
        return Phase("standing", start, boottime(), bound.seconds, pause.seconds)

    def _watch_until(self, start: float, least: float, bound: float, watching: Watching) -> bool:
        """Wait until ``least`` (boot time), and then until every address is answered; at most ``bound`` seconds, plus
        the machine's lateness, after ``start``."""
        while True:
            now = boottime()
            if now - start >= min(bound + self._late.between(start, now), _PATIENCE):
                return False
            self._commands.collect()
            watching.read()
            if _broken(watching):
                return False
            if now >= least and not verdict.silent(self._addresses, watching.attempts[-4000:], now - 0.4):
                return True
            time.sleep(0.1)

    def _settle(self, start: float, bound: Bound, watching: Watching, storm: Round) -> bool:
        """Wait until every address is answered, and every node OK; give an admin's orders."""
        self._watch_until(start, start, bound.seconds, watching)
        if storm.went_back and not _broken(watching):
            # The defaults, of damping for example, would make the round long.
            self._set_tunables()
        while boottime() - start < min(bounds.settled(storm) + self._late.between(start, boottime()), 2 * _PATIENCE):
            watching.read()
            if _broken(watching):
                return False
            try:
                self._lab.wait_served(_NUDGE)
            except LocumError:
                self._commands.collect()
                self._nudge()
            else:
                self._commands.collect(wait=20.0)
                return True
        return False

    def _nudge(self) -> None:
        try:
            nodes = self._lab.status().nodes
        except LocumError:
            return
        orders = {"DISABLED": ("node", "enable"), "STOPPED": ("node", "continue"), "BANNED": ("node", "unban")}
        for node in nodes:
            if node.state in orders:
                self._say(f"{node.name} is {node.state}")
                self._commands.ask(node.name, *orders[node.state], node.name)
            elif node.state == "UNHEALTHY":
                # A repaired service: the periodic monitor would notice later.
                self._commands.ask(node.name, "event", "run", "monitor")

    # -- verdicts --------------------------------------------------------------------------------------------------

    def _check_confirmed(self, nodes: Sequence[str], watching: Watching) -> None:
        """I9: every healthy node shows what was confirmed, shortly after its watch reports it."""
        start = boottime()
        missing: dict[str, Sequence[str]] = dict.fromkeys(nodes, ("no answer",))
        while missing:
            for node in tuple(missing):
                try:
                    seen = self._commands.seen_by(node)
                except LocumError as error:
                    missing[node] = (f"no answer: {error}",)
                    continue
                missing[node] = self._commands.confirmed.lost(seen, time.time())
                if not missing[node]:
                    del missing[node]
                    self._confirmed += len(seen)
                    self._commands.confirmed.take(seen, time.time())
            if missing and boottime() - start > _KNOWN_WITHIN + self._late.between(start, boottime()):
                for node, words in missing.items():
                    self._fail(f"I9: as {node} sees it, {'; '.join(words)}", start, "", watching)
                return
            if missing:
                time.sleep(0.1)

    def _judge(self, phases: Sequence[Phase], watching: Watching) -> None:
        for phase in phases:
            found = verdict.stretches(phase, self._addresses, watching.attempts, self._late.between)
            worst = max(found, key=lambda stretch: stretch.seconds, default=None)
            if worst is not None:
                self._say(f"{phase.what}: longest without service {worst.seconds:.2f} s ({worst.address})")
            for stretch in found:
                first = "until served" if stretch.start == phase.start else "pause afterwards"
                words = f"{phase.what}, {first}"
                self._longest[words] = max(self._longest.get(words, 0.0), stretch.seconds)
                if stretch.too_long:
                    self._fail(_unserved(stretch), stretch.start, stretch.address, watching, stretch.end)
        for record in watching.records:
            if record.event == "violation":
                words = f"I1: {record.address} was answered by {record.node} and {record.other}"
                self._fail(words, record.t, record.address, watching)
        self._forget(watching)

    def _end(self, watching: Watching) -> Record:
        before = len(self._problems)
        last = watching.end()
        if not before:
            self._judge((), watching)
        if last.violations and not self._problems:
            self._problems.append(f"I1: two nodes for one address, {last.violations} times")
        if last.lost:
            self._problems.append(f"the observer missed {last.lost} frames: the machine is too slow for the verdict")
        return last

    def _forget(self, watching: Watching) -> None:
        oldest = boottime() - _REMEMBERED
        kept = [attempt for attempt in watching.attempts if attempt.t >= oldest]
        self._attempts += len(watching.attempts) - len(kept)
        watching.attempts[:] = kept
        watching.records[:] = [record for record in watching.records if record.t >= oldest]
        self._log = [line for line in self._log if line.t >= oldest]

    def _fail(self, words: str, at: float, address: str, watching: Watching, until: float | None = None) -> None:
        self._problems.append(words)
        if len(self._problems) > 1:
            return  # the report of the first one suffices
        start, end = at - round_report.BEFORE, (at if until is None else until) + round_report.AFTER
        self._print(f"VIOLATION: {words}")
        self._print(round_report.timeline(self._lab, self._log, watching.records, start, end, address))

    def _say(self, text: str) -> None:
        t = boottime()
        self._log.append(Line(t, f"== {text}"))
        self._print(f"{t - self._began:8.2f}  {text}")

    def _print(self, text: str) -> None:
        self._console.print(escape.paragraph(text), highlight=False, markup=False, soft_wrap=True)


def _broken(watching: Watching) -> bool:
    """Whether I1 was broken: then waiting is pointless."""
    return any(record.event == "violation" for record in watching.records)


def _unserved(stretch: Stretch) -> str:
    return (
        f"{stretch.address} was not served for {stretch.seconds:.2f} s ({stretch.phase}); "
        f"{stretch.allowed:.2f} s are allowed, {stretch.late:.2f} of them because the machine was late"
    )


def summary(outcome: Outcome) -> list[str]:
    """The last lines of a run."""
    faults = ", ".join(f"{kind} {count}" for kind, count in outcome.faults.items()) or "none"
    stretches = "; ".join(f"{what} {seconds:.2f} s" for what, seconds in sorted(outcome.longest.items()))
    waited = "not known" if outcome.waited is None else f"{outcome.waited:.0f} s"
    return [
        f"{outcome.rounds} rounds in {outcome.seconds:.0f} s; faults: {faults} ({sum(outcome.faults.values())} in all)",
        f"{outcome.questions} questions by ARP and neighbour discovery, {outcome.packets} packets heard, "
        f"{outcome.lost} missed; {outcome.attempts} requests; some task waited for the machine: {waited}",
        f"longest without service: {stretches or 'nothing measured'}",
        f"violations of I1: {outcome.violations}, two nodes were never heard closer than "
        f"{outcome.closest * 1000:.1f} ms; {outcome.confirmed} values looked for (I9); "
        f"problems: {len(outcome.problems)}",
        *(f"PROBLEM: {problem}" for problem in outcome.problems),
    ]


def run(lab: Lab, *, seed: int, seconds: float, slack: float, console: Console, first_round: int = 0) -> Outcome:
    """Torture a lab that is up, and print acts and results."""
    torture = Torture(lab, seed, slack, console)
    outcome = torture.run(seconds, first_round)
    for line in summary(outcome):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return outcome
