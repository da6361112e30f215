"""Every deliberate defect in the engine, and in the runner's process, is found by the test that is named for it."""

from __future__ import annotations

import inspect
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from locum.events import runner_client
from locum.processes import kill, processes
from tests.unit.bench import Bench
from tests.unit.events import runner_mutations
from tests.unit.events.engine_mutations import ENGINE_MUTATIONS, RUNNER_CHECKS, Check
from tests.unit.events.runner.test_run_lock import SCRIPT

#: A test that has not ended after this many seconds hangs because of the defect: it would fail.
LIMIT = 120


@contextmanager
def limited() -> Iterator[None]:
    """A hang is a failure."""

    def stop(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def is_found(check: Check, bench: Bench, patch: pytest.MonkeyPatch) -> str:
    """What ``check`` says of the defect; "" when it passes."""
    given = {"bench": bench, "monkeypatch": patch, "hanging": bench, "tmp_path": bench.place}
    wanted = inspect.signature(check).parameters
    if "hanging" in wanted:
        bench.script("10.a", SCRIPT.format(place=bench.place))
    try:
        with limited():
            check(**{name: given[name] for name in wanted})
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.fixture(autouse=True)
def nothing_stays(tmp_path: Path) -> Iterator[None]:
    """What a defect left running ends with the test."""
    yield
    place = os.fsencode(tmp_path)
    for one in processes():
        try:
            ours = place in Path(f"/proc/{one.pid}/environ").read_bytes()
        except OSError:
            continue
        if ours and one.pid != os.getpid():
            kill(one.pid, one.start)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("defect", ENGINE_MUTATIONS, ids=lambda defect: defect.__name__)
def test_a_defect_of_the_engine_is_found(
    defect: Callable[[pytest.MonkeyPatch], None], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    defect(monkeypatch)
    found = is_found(ENGINE_MUTATIONS[defect], bench, monkeypatch)
    print(found)
    assert found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("defect", RUNNER_CHECKS, ids=lambda defect: defect.__name__)
def test_a_defect_of_the_runner_is_found(
    defect: Callable[[runner_mutations.Patch], None], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_client, "_MAIN", runner_mutations.entry(defect.__name__, bench.place))
    found = is_found(RUNNER_CHECKS[defect], bench, monkeypatch)
    print(found)
    assert found
    # Not because the mutated runner cannot run at all.
    assert "exited with status" not in found
