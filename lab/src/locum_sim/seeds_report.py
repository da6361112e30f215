"""The summary of many runs, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from locum_sim.faults.draw import WEIGHTS
from locum_sim.run import Outcome


class Total:
    """The sum of outcomes."""

    def __init__(self) -> None:
        self.runs = 0
        self.seconds = 0.0
        self.node_seconds = 0.0
        self.steps = 0
        self.faults: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.figures: Counter[str] = Counter()
        self.nodes: Counter[int] = Counter()
        self.longest_healing = (0.0, 0)
        self.violations: list[tuple[int, str]] = []

    def add(self, outcome: Outcome) -> None:
        """Count one run."""
        self.runs += 1
        self.seconds += outcome.seconds
        self.node_seconds += outcome.seconds * outcome.scenario.nodes
        self.steps += outcome.steps
        self.faults.update(outcome.faults)
        self.notes.update(outcome.notes)
        self.events.update(outcome.events)
        self.figures.update(outcome.figures)
        self.nodes[outcome.scenario.nodes] += 1
        self.longest_healing = max(self.longest_healing, (outcome.healed, outcome.scenario.seed))
        if outcome.violation is not None:
            self.violations.append((outcome.scenario.seed, str(outcome.violation)))

    def lines(self, cpu: float, jobs: int) -> Iterable[str]:
        """The summary. ``cpu``: seconds of processor time spent by ``jobs`` processes together."""
        figures = self.figures
        speed = self.seconds / cpu if cpu else 0.0
        nodes = self.node_seconds / self.seconds if self.seconds else 0.0
        yield f"{self.runs} runs, {self.seconds:,.0f} s simulated, {self.steps:,} steps"
        yield (
            f"{cpu:,.1f} s of processor time in {jobs} process{'es' if jobs > 1 else ''}: "
            f"{speed:,.0f} times real time per core, {nodes:.1f} nodes on average"
        )
        yield "clusters: " + ", ".join(f"{count} of {size} nodes" for size, count in sorted(self.nodes.items()))
        yield (
            f"{sum(self.faults.values()):,} faults, {figures['commands']:,} admin commands confirmed, "
            f"{figures['plans']:,} plans, {figures['expiries']:,} expiries, "
            f"{figures['looks']:,} times a machine began to speak"
        )
        missing = [kind for kind in WEIGHTS if kind not in self.faults and kind != "admin"]
        yield "faults by kind: " + ", ".join(f"{kind} {count}" for kind, count in sorted(self.faults.items()))
        if missing:
            yield "kinds that did not occur: " + ", ".join(missing)
        yield "events: " + ", ".join(f"{name} {count}" for name, count in sorted(self.events.items()))
        seconds, seed = self.longest_healing
        yield f"longest way back to rest after a healing: {seconds:.1f} s (seed {seed})"
        if self.violations:
            yield f"{len(self.violations)} VIOLATIONS:"
            yield from (f"  seed {seed}: {text}" for seed, text in self.violations)
        else:
            yield "no violation"
