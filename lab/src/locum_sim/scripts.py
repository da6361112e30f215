"""Event scripts as processes: they take time, fail, hang, and are separate from the agent that started them.

A child that has begun continues without its agent until it is killed; it is frozen only with the whole machine's
processes. A script changes the kernel in the middle of its run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from locum.events.runner.protocol import Job
from locum.events.runner.results import TIMED_OUT, Outcome, ScriptResult
from locum_sim.engine import Engine


class Trouble(NamedTuple):
    """The present fault of an event's scripts: ``mode`` is "fail", "slow" or "hang"."""

    mode: str
    probability: float


class Behaviour:
    """Duration and result of the scripts of one machine. ``usual``: seconds, shortest and longest."""

    def __init__(self, random: Random, usual: tuple[float, float]) -> None:
        self._random = random
        self._usual = usual
        #: Event (or "*") → the fault of its scripts.
        self.trouble: dict[str, Trouble] = {}

    def draw(self, job: Job) -> tuple[float, ScriptResult]:
        """One run: its duration in seconds, and its result."""
        random = self._random
        low, high = self._usual
        seconds = low + (high - low) * random.random() ** 3
        trouble = self.trouble.get(job.event) or self.trouble.get("*")
        if trouble is not None and random.random() < trouble.probability:
            if trouble.mode == "fail":
                return seconds, ScriptResult(job.script, Outcome.FAILED, 1)
            if trouble.mode == "hang":
                seconds = math.inf
            else:
                seconds += job.limit * 1.2 * random.random()
        if seconds > job.limit:
            return job.limit, ScriptResult(job.script, Outcome.TIMEOUT, TIMED_OUT)
        return seconds, ScriptResult(job.script, Outcome.OK)


class Child:
    """One running event. ``middle`` is called at a random moment in it, ``ended`` at its end (not when killed)."""

    def __init__(
        self,
        engine: Engine,
        seconds: float,
        part: float,
        middle: Callable[[], None] | None,
        ended: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._steps: list[tuple[float, Callable[[], None]]] = []
        if middle is not None:
            self._steps.append((seconds * part, middle))
            seconds *= 1 - part
        self._steps.append((seconds, ended))
        self._serial = 0
        self._began = 0.0
        #: When it was started, true time.
        self.since = engine.now
        self._frozen = False
        self.alive = True
        self._next()

    def _next(self) -> None:
        self._began = self._engine.now
        self._serial += 1
        self._engine.after(self._steps[0][0], self._step, self._serial)

    def _step(self, serial: int) -> None:
        if serial != self._serial or not self.alive:
            return
        _, act = self._steps.pop(0)
        if self._steps:
            act()
            if self.alive:
                self._next()
        else:
            self.alive = False
            act()

    def freeze(self) -> None:
        """SIGSTOP."""
        if self.alive and not self._frozen:
            self._frozen = True
            self._serial += 1
            left, act = self._steps[0]
            self._steps[0] = (max(0.0, left - (self._engine.now - self._began)), act)

    def thaw(self) -> None:
        """SIGCONT."""
        if self.alive and self._frozen:
            self._frozen = False
            self._next()

    def kill(self) -> None:
        """SIGKILL, which also ends stopped processes."""
        self.alive = False
