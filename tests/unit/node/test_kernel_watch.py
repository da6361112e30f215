"""A script that wants ``monitor`` to run again soon (``monitor_again``)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from locum.events.model import Event, EventResult
from locum.node import kernel_watch
from locum.node.kernel_watch import KernelWatch
from tests.unit.bench import eventually


class Files:
    """The thread for files, whose calls are carried out at once."""

    async def run(self, _what: str, _limit: float, function: Callable[..., object], *arguments: object) -> object:
        return function(*arguments)


async def monitors_after(event: Event, runtime: Path, *, asked: bool) -> int:
    """How often ``monitor`` is triggered after ``event`` has ended, in which a script ``asked`` for it or not."""
    triggered: list[object] = []
    node = SimpleNamespace(trigger_monitor=None, status=lambda: SimpleNamespace(leaving=False))
    driver, steps = SimpleNamespace(node=node, feed=triggered.append), SimpleNamespace()
    engine = SimpleNamespace(in_use=SimpleNamespace(scripts=()), running=None)
    calls = cast(Any, SimpleNamespace(files=Files()))
    watch = KernelWatch(
        cast(Any, driver), cast(Any, steps), cast(Any, engine), None, calls, str(runtime), lambda *_: None
    )
    if asked:
        (runtime / "again").touch()
    steps.on_event(EventResult(event, (), 0.0, 0.0, ()))
    if asked and event is Event.MONITOR:
        await eventually(lambda: triggered)
    await asyncio.sleep(0.1)
    watch.close()
    return len(triggered)


def test_a_monitor_in_which_a_script_asks_for_it_is_followed_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_watch, "REPEAT_PAUSE", 0.001)
    assert asyncio.run(monitors_after(Event.MONITOR, tmp_path, asked=True)) == 1
    assert not (tmp_path / "again").exists()
    assert asyncio.run(monitors_after(Event.MONITOR, tmp_path, asked=False)) == 0
    assert asyncio.run(monitors_after(Event.RECOVERED, tmp_path, asked=True)) == 0
    assert (tmp_path / "again").exists(), "the next monitor looks at it"
