"""Measures what share of double holds the observer finds, by their length: ``python -m tests.lab.lab.overlap_figures``.

Two nodes without daemons hand one address to each other again and again, and both have it for some milliseconds. The
figures are in docs/lab.md. Options: milliseconds between two questions (5), handovers for each length (40), address.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time

from locum.clock import boottime
from locum_lab import namespaces, processes
from locum_lab.judge import ECHO, Judge
from locum_lab.lab import Lab, down
from locum_lab.layout import Layout
from locum_lab.observer import Observer

#: Lengths of double holds, in milliseconds.
LENGTHS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30)

Heard = tuple[float, str, str]
Span = tuple[int, float, float]


class Listening(Observer):
    """Keeps every packet that it judges, so that other criteria can be tried on the same ones."""

    heard: list[Heard]

    def _hear(self, t: float, address: str, speaker: str) -> None:
        self.heard.append((t, address, speaker))
        super()._hear(t, address, speaker)


class Kernel:
    """Changes addresses of one node, without starting a process for each."""

    def __init__(self, lab: Lab, node: str, address: str) -> None:
        command = ["ip", "-n", lab.layout.namespace(node), "-batch", "-"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, bufsize=1)
        self._address = f"{address}/64 dev eth1" if ":" in address else f"{address}/24 dev eth1"
        self._nodad = " nodad" if ":" in address else ""

    def add(self) -> None:
        """Configure the address."""
        self._say(f"address add {self._address}{self._nodad}")

    def delete(self) -> None:
        """Remove it."""
        self._say(f"address del {self._address}")

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")


def hand_over(lab: Lab, address: str, count: int) -> list[Span]:
    """Hand the address over, ``count`` times for each length: (length, begin, end) of each double hold."""
    holder, other = Kernel(lab, "n1", address), Kernel(lab, "n2", address)
    holder.add()
    time.sleep(0.5)
    spans = []
    for length in LENGTHS:
        for _ in range(count):
            time.sleep(0.06 + random.random() * 0.02)
            begin = boottime()
            other.add()
            end = time.perf_counter() + length / 1000
            time.sleep(max(0.0, length / 1000 - 0.001))
            while time.perf_counter() < end:
                pass
            holder.delete()
            spans.append((length, begin, boottime()))
            holder, other = other, holder
    return spans


def found(heard: list[Heard], spans: list[Span], judge: Judge) -> dict[int, float]:
    """The share of the double holds of each length that the judge finds."""
    times = [violation.t for t, address, speaker in heard if (violation := judge.hear(t, address, speaker)[1])]
    hits: dict[int, list[bool]] = {}
    for length, begin, end in spans:
        hits.setdefault(length, []).append(any(begin - 0.001 <= t <= end + 0.04 for t in times))
    return {length: sum(each) / len(each) for length, each in hits.items()}


def main(interval: float, count: int, address: str) -> None:
    """Measure and print; ``interval`` in seconds."""
    name = f"overlap{os.getpid()}"
    lab = Lab.up(Layout(name=name), services=(), daemons=False, owner=processes.find(os.getpid()))
    stopping = threading.Event()
    heard: list[Heard] = []

    def observe() -> None:
        namespaces.enter(lab.layout.hub)
        observer = Listening(lab.layout, lambda _: None, interval)
        observer.heard = heard
        observer.run(stopping.is_set)

    try:
        observing = threading.Thread(target=observe)
        observing.start()
        time.sleep(0.5)
        spans = hand_over(lab, address, count)
        time.sleep(0.3)
        stopping.set()
        observing.join()
    finally:
        down(name)
    heard = [one for one in heard if one[1] == address]
    without = found(heard, spans, Judge(3 * interval, echo=0.0))
    with_echo = found(heard, spans, Judge(3 * interval))
    print(f"{address}, asked every {interval * 1000:g} ms, {count} of each length, load {os.getloadavg()[0]:.1f}")
    print("both held it for (ms)    " + "".join(f"{length:6d}" for length in LENGTHS))
    print("found by the window      " + "".join(f"{without[length]:6.0%}" for length in LENGTHS))
    print(f"found with echo of {ECHO * 1000:g} ms  " + "".join(f"{with_echo[length]:6.0%}" for length in LENGTHS))


if __name__ == "__main__":
    given = sys.argv[1:]
    main(
        float(given[0]) / 1000 if given else 0.005,
        int(given[1]) if len(given) > 1 else 40,
        given[2] if len(given) > 2 else "10.77.0.2",
    )
