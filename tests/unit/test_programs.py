"""Running a program over a text: its end, its errors, and what is left when something is missing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from locum import nft
from locum.programs import run_over
from tests.unit.events.test_spare_descriptors import no_descriptors

READ = "import sys; text = sys.stdin.read(); print('shown nowhere'); sys.stderr.write(f'read {len(text)}\\n'); "


def test_the_program_reads_the_text_and_its_errors_and_status_come_back() -> None:
    started: list[int] = []
    code = READ + "sys.exit(3)"
    assert run_over(b"x" * 200_000, [sys.executable, "-c", code], 60, {}, started=started.append) == (3, "read 200000")
    assert len(started) == 1


def test_one_that_does_not_end_is_killed() -> None:
    started: list[int] = []
    with pytest.raises(TimeoutError, match="timed out"):
        run_over(b"", [sys.executable, "-c", "import time; time.sleep(600)"], 0.05, {}, started=started.append)
    assert not Path(f"/proc/{started[0]}").exists()


def test_one_that_cannot_be_started_is_an_error_of_the_system() -> None:
    with pytest.raises(FileNotFoundError):
        run_over(b"", ["/nonexistent/program"], 1, {})


@pytest.mark.parametrize("free", range(5))
def test_a_shortage_of_descriptors_costs_none(free: int) -> None:
    """nft is called again and again while the gate cannot be loaded: each call must give back all that it had."""
    kept = [os.open(os.devnull, os.O_RDONLY) for _ in range(free)]
    with no_descriptors():
        for descriptor in kept:
            os.close(descriptor)
        for _ in range(3):
            with pytest.raises(nft.CannotRun, match="Too many open files"):
                nft.load("", 10, program="/bin/false")
        again = [os.open(os.devnull, os.O_RDONLY) for _ in range(free)]
    for descriptor in again:
        os.close(descriptor)
