"""Many seeds, in one process or several; outcomes come in the order of the seeds."""

from __future__ import annotations

import itertools
import multiprocessing
import time
from collections.abc import Iterable, Iterator

from locum_sim.run import Knobs, Outcome, run_seed


def outcomes(seeds: Iterable[int], knobs: Knobs, jobs: int) -> Iterator[tuple[Outcome, float]]:
    """The outcome of each seed, and its processor time in seconds."""
    tasks = ((seed, knobs) for seed in seeds)
    if jobs <= 1:
        yield from map(_run, tasks)
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        # Small portions: an endless sequence of tasks must not be read ahead for ever.
        while portion := list(itertools.islice(tasks, jobs * 8)):
            yield from pool.imap(_run, portion)


def _run(task: tuple[int, Knobs]) -> tuple[Outcome, float]:
    began = time.process_time()
    outcome = run_seed(*task)
    return outcome, time.process_time() - began
