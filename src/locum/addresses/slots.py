"""Which of the gate's slots a beat takes. Pure bookkeeping: no I/O, no clock of its own.

A beat is armed in a slot before it is sent and confirmed when the store has accepted it. Arming a slot wipes what it
was, so the one that carries the present hold must not be taken while another is free, and the answer to a beat
whose slot has been taken over since must not confirm the newer beat.
"""

from __future__ import annotations

from locum.addresses.gate_rules import SLOTS


class Slots:
    """The slots of one gate, as its user knows them. Deadlines are on the caller's clock, in seconds."""

    def __init__(self, count: int = SLOTS) -> None:
        if count < 2:
            raise ValueError("with fewer than two slots every beat would interrupt the hold")
        self._deadline = [float("-inf")] * count
        self._confirmed = [False] * count

    def take(self, deadline: float) -> int:
        """The slot for a beat whose hold ends at ``deadline``: any but the one that carries the present hold, of
        those the one whose own deadline is the earliest. An unanswered beat that loses its slot so is lost."""
        carrier = self._carrier()
        slot = min((n for n in range(len(self._deadline)) if n != carrier), key=lambda n: self._deadline[n])
        self._deadline[slot] = deadline
        self._confirmed[slot] = False
        return slot

    def confirmed(self, slot: int) -> None:
        """The gate has confirmed the beat that took ``slot`` last."""
        self._confirmed[slot] = True

    def clear(self) -> None:
        """The gate was shut or loaded anew."""
        self._deadline = [float("-inf")] * len(self._deadline)
        self._confirmed = [False] * len(self._confirmed)

    @property
    def open_until(self) -> float:
        """When the gate closes unless another beat is confirmed; minus infinity when it is closed."""
        carrier = self._carrier()
        return float("-inf") if carrier is None else self._deadline[carrier]

    def _carrier(self) -> int | None:
        confirmed = [n for n, done in enumerate(self._confirmed) if done]
        return max(confirmed, key=lambda n: self._deadline[n], default=None)
