"""The observer and the probe on addresses that the test moves by hand: they see what happens, and can fail."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from locum_lab import gaps, observer, probe
from locum_lab.lab import Lab
from locum_lab.probe import Attempt
from tests.lab.lab.test_lab import COMMAND, BareLab, configure

pytestmark = pytest.mark.lab

ADDRESSES = ("10.77.0.2", "fd77::2")


class Watching:
    """A running ``locum lab observe`` or ``probe`` that writes into a file."""

    def __init__(self, lab: Lab, path: Path, *command: str) -> None:
        self._path = path
        self.process = subprocess.Popen(
            [*COMMAND, command[0], "--name", lab.layout.name, "--output", str(path), *command[1:]],
            stderr=subprocess.PIPE,
        )

    def lines(self) -> list[str]:
        """The complete lines so far."""
        text = self._path.read_text() if self._path.exists() else ""
        return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def records(self) -> list[observer.Record]:
        """The observer's records so far."""
        return [observer.read(line) for line in self.lines()]

    def attempts(self) -> list[Attempt]:
        """The probe's attempts so far."""
        return [probe.read(line) for line in self.lines()]

    def end(self) -> int:
        """Ask it to end; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=60)
        return self.process.returncode


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Callable[..., Watching]]:
    """Starts commands that are ended with the test."""
    with contextlib.ExitStack() as stack:

        def start(lab: Lab, *command: str) -> Watching:
            watching = Watching(lab, tmp_path / command[0], *command)
            stack.callback(watching.process.wait)
            stack.callback(watching.process.kill)
            return watching

        yield start


def speakers(watching: Watching, address: str) -> list[str]:
    """Who was heard for the address, in order."""
    return [record.node for record in watching.records() if record.event == "speaks" and record.address == address]


@pytest.mark.parametrize("address", ADDRESSES)
def test_i1_two_holders_are_a_violation(bare_lab: BareLab, watch: Callable[..., Watching], address: str) -> None:
    lab = bare_lab()
    configure(lab, "n1", address)
    watching = watch(lab, "observe")
    lab.wait_for("n1 to be heard", lambda: speakers(watching, address) == ["n1"])
    configure(lab, "n3", address)
    found = lab.wait_for(
        "the violation", lambda: [record for record in watching.records() if record.event == "violation"]
    )
    assert {found[0].node, found[0].other} == {"n1", "n3"}
    assert found[0].address == address
    assert watching.end() == 1
    assert watching.records()[-1].violations >= 1


@pytest.mark.parametrize("fault", ["cut", "cut-private"])
def test_i1_a_holder_that_is_cut_off_is_still_watched(
    bare_lab: BareLab, watch: Callable[..., Watching], fault: str
) -> None:
    lab = bare_lab()
    configure(lab, "n1", "10.77.0.2")
    lab.fault("n1", fault)
    configure(lab, "n2", "10.77.0.2")
    watching = watch(lab, "observe")
    lab.wait_for("the violation", lambda: any(record.event == "violation" for record in watching.records()))
    assert watching.end() == 1


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_move_is_seen_and_is_no_violation(bare_lab: BareLab, watch: Callable[..., Watching], address: str) -> None:
    lab = bare_lab()
    configure(lab, "n1", address)
    watching = watch(lab, "observe")
    lab.wait_for("n1 to be heard", lambda: speakers(watching, address) == ["n1"])
    configure(lab, "n1", address, "del")
    configure(lab, "n2", address)
    lab.wait_for("n2 to be heard", lambda: speakers(watching, address) == ["n1", "n2"])
    configure(lab, "n2", address, "del")
    lab.wait_for("silence", lambda: any(record.event == "silent" for record in watching.records()))
    assert watching.end() == 0
    end = watching.records()[-1]
    assert end.event == "end"
    assert (end.violations, end.lost) == (0, 0)
    assert end.asked > 0


@pytest.mark.parametrize(("mode", "interval"), [("http", "10"), ("udp", "5")])
def test_the_probe_measures_a_gap(bare_lab: BareLab, watch: Callable[..., Watching], mode: str, interval: str) -> None:
    lab = bare_lab(services=["web", "echo"])
    for address in ADDRESSES:
        configure(lab, "n1", address)
    options = [item for address in ADDRESSES for item in ("--address", address)]
    watching = watch(lab, "probe", "--mode", mode, "--interval", interval, *options)

    def answered(by: str, count: int) -> bool:
        attempts = watching.attempts()
        return all(
            len([1 for attempt in attempts if attempt.address == address and attempt.node == by]) >= count
            for address in ADDRESSES
        )

    lab.wait_for("answers of n1", lambda: answered("n1", 20))
    lab.fault("n1", "cut")
    before = len(watching.lines())
    lab.wait_for("failures", lambda: len(watching.lines()) > before + 40)
    for address in ADDRESSES:
        configure(lab, "n2", address)
    # A real take-over announces itself; here the client's kernel is made to forget where the addresses were.
    lab.run("client", ["ip", "neighbour", "flush", "dev", "eth0"])
    lab.wait_for("answers of n2", lambda: answered("n2", 20))
    assert watching.end() == 0
    attempts = watching.attempts()
    start, end = attempts[0].t, max(attempt.t for attempt in attempts if attempt.ok)
    for address, gap in gaps.longest(attempts, start, end).items():
        assert address in ADDRESSES
        assert (gap.before, gap.after, gap.open) == ("n1", "n2", False)
        assert gap.failed >= 10
        assert gap.seconds >= 10 * float(interval) / 1000
    assert {attempt.error for attempt in attempts if not attempt.ok} <= {"timeout", "EHOSTUNREACH"}
