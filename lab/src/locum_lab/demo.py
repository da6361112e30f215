"""The demo: a cluster with real clients, broken in six ways, watched continuously, and measured.

This file acts and waits; :mod:`locum_lab.figures` measures, :mod:`locum_lab.display` shows. Each fault is applied in
several rounds to nodes in turn, so that the leader is among them and medians are meaningful.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from rich.console import Console

from locum import escape
from locum.clock import boottime
from locum.errors import LocumError
from locum_lab import display, figures
from locum_lab.display import Display
from locum_lab.figures import Round, Row
from locum_lab.lab import Lab
from locum_lab.observer import Record
from locum_lab.watching import Watching

#: Requests are examined from this long before a fault, so that those answered before it are included (seconds).
_BEFORE = 0.1
#: Watching continues for this long after a fault is over, to see late failures (seconds).
_AFTER = 0.3
#: Limit for waiting for the cluster (seconds).
_LIMIT = 20.0


class Outcome(msgspec.Struct, frozen=True):
    """The result of the demo. ``problems`` is empty when every address was served, by one node at a time.

    The observer asked ``questions``, heard ``packets``, missed ``lost`` frames, and found ``violations`` of I1.
    """

    rows: tuple[Row, ...]
    problems: tuple[str, ...]
    seconds: float
    hold: float
    questions: int
    packets: int
    lost: int
    violations: int


class Demo:
    """One run on a lab that is up without its daemons."""

    def __init__(self, lab: Lab, rounds: int, budget: float, console: Console) -> None:
        self._lab = lab
        self._rounds = rounds
        self._end = time.monotonic() + budget
        self._console = console
        self._done: list[Round] = []
        self._problems: list[str] = []

    def run(self) -> Outcome:
        """Run everything and print the table."""
        began = time.monotonic()
        with Watching(self._lab, probe_interval=0.005, probe_timeout=0.25) as watching:
            shown = Display(self._lab.layout, watching.files, self._console)
            with shown.running():
                start, served = self._start(shown)
                nodes = self._lab.layout.node_names
                for number in range(self._rounds):
                    for index, (fault, act) in enumerate(self._faults().items()):
                        # At least once each; and no fault much more often than the others.
                        if number == 0 or time.monotonic() < self._end:
                            self._round(fault, nodes[(index + number) % len(nodes)], act, shown, watching)
                last = watching.end()
            hold = self._lab.layout.hold
            pool = [public.address for public in self._lab.layout.public_addresses]
            rows = [figures.start_row(pool, watching.attempts, watching.records, start, served, hold)]
            for fault in self._faults():
                rounds = [one for one in self._done if one.fault == fault]
                rows.append(figures.row(fault, rounds, watching.attempts, watching.records, hold))
        self._console.print(display.figures(rows))
        self._judge(rows, last)
        return Outcome(
            rows=tuple(rows),
            problems=tuple(self._problems),
            seconds=time.monotonic() - began,
            hold=hold,
            questions=last.asked,
            packets=last.packets,
            lost=last.lost,
            violations=last.violations,
        )

    def _faults(self) -> dict[str, Callable[[str], str]]:
        """The faults, in this order; each returns its description."""
        return {
            "planned move": self._disable,
            "killed service": self._fault("service"),
            "lost link": self._fault("link"),
            "cut host": self._fault("cut"),
            "killed agent": self._fault("kill-agent"),
            "killed everything": self._fault("kill-all"),
        }

    def _start(self, shown: Display) -> tuple[float, float]:
        """Start the daemons; return the times of the start and of the first full service (boot time, seconds)."""
        shown.begin(f"starting {self._lab.layout.nodes} daemons")
        start = boottime()
        self._lab.start_daemons()
        self._lab.wait_served()
        served = boottime()
        shown.say(f"all addresses served {served - start:.2f} s after the start")
        # The same nodes fail every few seconds here. Each loss counts as the first; otherwise damping would grow.
        node = self._lab.layout.node_names[0]
        self._locum(node, "tunable", "set", "DampingWindow", "1")
        return start, served

    def _round(self, fault: str, node: str, act: Callable[[str], str], shown: Display, watching: Watching) -> None:
        before = self._lab.served()
        addresses = tuple(sorted(address for address, holder in before.items() if holder == node))
        agent = self._lab.agent(node)
        start = boottime() - _BEFORE
        shown.begin(f"{fault}: {node}, which serves {', '.join(addresses) or 'nothing'}")
        recovered = True
        try:
            act(node)
            if fault == "killed agent":
                self._lab.wait_for("the agent's return", lambda: self._agent_is_back(node, agent), _LIMIT)
            else:
                self._lab.wait_for("the move", lambda: self._moved(node, addresses), _LIMIT)
            time.sleep(_AFTER)
        except LocumError as error:
            recovered = False
            self._problems.append(f"{fault} of {node}: {error}")
        self._done.append(Round(fault, node, addresses, start, boottime(), recovered))
        shown.begin(f"{node} comes back")
        self._restore(fault, node)
        # Only now: a failed attempt is known when its time limit is over.
        watching.read()
        row = figures.row(fault, self._done[-1:], watching.attempts, watching.records, self._lab.layout.hold)
        words = "no request failed" if row.longest == 0 else f"gap {row.median:.3f} s (longest {row.longest:.3f} s)"
        shown.say(f"{fault} of {node}: {words}, {row.moves} moved, holders {row.holders}", "" if recovered else "red")

    def _moved(self, node: str, addresses: tuple[str, ...]) -> bool:
        served = self._lab.served()
        return all(served.get(address) not in (None, node) for address in addresses)

    def _agent_is_back(self, node: str, old: object) -> bool:
        agent = self._lab.agent(node)
        if agent is None or agent == old:
            return False
        try:
            self._lab.status(node)
        except LocumError:
            return False
        return True

    def _fault(self, kind: str) -> Callable[[str], str]:
        def act(node: str) -> str:
            self._lab.fault(node, kind)
            return kind

        return act

    def _disable(self, node: str) -> str:
        self._locum(node, "node", "disable", node)
        return "disabled"

    def _restore(self, fault: str, node: str) -> None:
        try:
            if fault == "planned move":
                self._locum(node, "node", "enable", node)
            self._lab.heal(node)
            if fault == "killed service":
                # As an admin does after a repair; the periodic monitor would notice later.
                self._locum(node, "event", "run", "monitor")
            self._lab.wait_served(_LIMIT)
            # A node takes over nothing for the length of a hold after its start; then it gets its share again.
            self._lab.wait_for("its share of the addresses", lambda: node in self._lab.served().values(), _LIMIT)
            self._lab.wait_served(_LIMIT)
        except LocumError as error:
            self._problems.append(f"after {fault} of {node}: {error}")

    def _locum(self, node: str, *arguments: str) -> None:
        done = self._lab.run(node, [sys.executable, "-m", "locum.cli.main", *arguments])
        if done.returncode != 0:
            raise LocumError(f"locum {' '.join(arguments)}: {(done.stderr or done.stdout).strip()}")

    def _judge(self, rows: list[Row], last: Record) -> None:
        for row in rows:
            if row.unserved:
                self._problems.append(f"{row.fault}: not served at the end: {', '.join(row.unserved)}")
        if last.violations:
            self._problems.append(f"two nodes answered for one address, {last.violations} times")
        if last.lost:
            self._problems.append(f"the observer missed {last.lost} frames: the machine is too slow for the verdict")


def run(lab: Lab, *, rounds: int, budget: float, console: Console, json_file: Path | None = None) -> Outcome:
    """Run the demo on a lab without running daemons; ``budget``: begin no more rounds after this many seconds."""
    outcome = Demo(lab, rounds, budget, console).run()
    for problem in outcome.problems:
        console.print(
            f"PROBLEM: {escape.paragraph(problem)}", style="bold red", highlight=False, markup=False, soft_wrap=True
        )
    if outcome.problems:
        # The lab is about to be removed, and its logs with it.
        console.print("\n".join(escape.lines(lab.logs())), highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"{outcome.questions} questions by ARP and neighbour discovery, {outcome.packets} packets from public "
        f"addresses heard, {outcome.violations} times two nodes for one address; {outcome.seconds:.0f} s in all",
        highlight=False,
    )
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(outcome), indent=1) + b"\n")
    return outcome
