"""The path between one node and the store: delay, loss, reordering, one-way cuts, and packets that come late.

This file carries calls, and knows neither nodes nor stores. A message that meets a cut is either lost or held until the
path is restored, as TCP does: a request may arrive many seconds after its sender has given up.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from locum_sim.engine import Engine

UP, DOWN = 0, 1


class Link:
    """Both directions between a node and the store. ``delay``: shortest and longest one-way delay in seconds."""

    def __init__(self, engine: Engine, random: Random, delay: tuple[float, float]) -> None:
        self._engine = engine
        self._random = random
        self.delay = delay
        self.cut = [False, False]
        #: The probabilities that a message is lost and that it is very late, and its longest delay then.
        self.loss = 0.0
        self.late = 0.0
        self.latest = 0.0
        #: Whether beats are lost while other commits get through; the true time at which those arrive (0: as usual).
        self.beats_lost = False
        self.commits_at = 0.0
        #: Probability that a message which meets a cut is held rather than lost.
        self.keeps = 0.5
        #: The true time by which all messages sent before the last healing have arrived.
        self.settled_at = 0.0
        self._latest_arrival = 0.0
        self._kept: list[list[tuple[Callable[..., None], tuple[object, ...]]]] = [[], []]

    def some_delay(self) -> float:
        """The delay of one message."""
        low, high = self.delay
        chance = self._random.random()
        delay = low + (high - low) * chance * chance
        if self.late and self._random.random() < self.late:
            delay += self.latest * self._random.random()
        return delay

    def send(self, way: int, arrive: Callable[..., None], *arguments: object) -> None:
        """Call ``arrive(*arguments)`` at the other end, unless the message is lost."""
        if self.loss and self._random.random() < self.loss:
            return
        self._set_out(way, arrive, arguments)

    def send_commit(self, is_beat: bool, arrive: Callable[..., None], *arguments: object) -> None:
        """Send a commit to the store; beats may be lost and other commits aimed at an instant."""
        if is_beat and self.beats_lost:
            return
        if not is_beat and self.commits_at > self._engine.now:
            self._latest_arrival = max(self._latest_arrival, self.commits_at)
            # One after the other, in the order of sending.
            self.commits_at += 1e-6
            self._engine.at(self.commits_at, self._arrive, UP, arrive, arguments)
            return
        self.send(UP, arrive, *arguments)

    def _set_out(self, way: int, arrive: Callable[..., None], arguments: tuple[object, ...]) -> None:
        when = self._engine.now + self.some_delay()
        self._latest_arrival = max(self._latest_arrival, when)
        self._engine.at(when, self._arrive, way, arrive, arguments)

    def _arrive(self, way: int, arrive: Callable[..., None], arguments: tuple[object, ...]) -> None:
        if not self.cut[way]:
            arrive(*arguments)
        elif self._random.random() < self.keeps:
            self._kept[way].append((arrive, arguments))

    def stop_aiming(self) -> None:
        """Beats and other commits take their usual path again."""
        self.beats_lost = False
        self.commits_at = 0.0

    def heal(self) -> None:
        """Restore both directions; held messages are sent now."""
        self.cut = [False, False]
        self.loss = self.late = 0.0
        self.stop_aiming()
        for way in (UP, DOWN):
            kept, self._kept[way] = self._kept[way], []
            for arrive, arguments in kept:
                self._set_out(way, arrive, arguments)
        self.settled_at = self._latest_arrival
