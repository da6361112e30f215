"""No task of the daemon fails in silence: background tasks report to the event loop's exception handler."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

import locum
from locum import tasks
from locum.daemon import _Complaints
from locum.errors import LocumError
from locum.rules.activity import Activity
from locum.rules.context import Context
from locum.rules.view import View

ROOT = Path(locum.__file__).parent

#: Parts of the package that no daemon runs.
ELSEWHERE = ("lab/", "sim/", "doctor/", "cli/")

#: Module: function that starts a task with asyncio's own means → what reports its failure.
AWAITED = {
    "tasks.py:start": "the module itself",
    "node/driver.py:_spawn": "Driver._finished ends the agent",
    "node/driver.py:_act": "Driver._activity_ended ends the agent",
    "connections/tracker.py:_spawn": "ConnectionTracker._finished logs it; an address must move all the same",
    "events/engine.py:_look": "awaited, and its result used, by the look itself",
    "events/runner_client.py:start": "awaited by start, or by end when start was cancelled",
    "store/client.py:_connected": "awaited by every caller",
    "store/etcd/watch.py:_until_suspicious": "cancelled when the wait has ended",
    "store/etcd/watch.py:_start_stream": "Watch._why_not, or Watch._until_suspicious, uses its result",
    "store/etcd/gateway.py:_try": "awaited",
    "store/etcd/store.py:_hedged": "awaited",
}


def starts(source: str) -> Iterator[tuple[str, int]]:
    """(function, line) of every call that starts a task with asyncio's own means."""

    def walk(node: ast.AST, function: str) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            inside = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
            if (
                isinstance(child, ast.Call)
                and isinstance(child.func, ast.Attribute)
                and child.func.attr in ("create_task", "ensure_future")
            ):
                yield inside, child.lineno
            yield from walk(child, inside)

    yield from walk(ast.parse(source), "")


def test_every_task_of_the_daemon_is_awaited_or_started_as_a_background_task() -> None:
    found, used = [], set()
    for path in sorted(ROOT.rglob("*.py")):
        module = str(path.relative_to(ROOT))
        if module.startswith(ELSEWHERE):
            continue
        for function, line in starts(path.read_text(encoding="utf-8")):
            key = f"{module}:{function}"
            used.add(key)
            if key not in AWAITED:
                found.append(f"{module}:{line}: {function} starts a task whose failure nothing reports")
    assert found == []
    assert used == AWAITED.keys(), "and the table names no other places"


def test_a_task_that_nothing_reports_is_found() -> None:
    source = "def f():\n    self._task = asyncio.get_running_loop().create_task(work())"
    assert list(starts(source)) == [("f", 2)]


class Loop:
    """What reaches an event loop's exception handler."""

    def __init__(self) -> None:
        self.contexts: list[Mapping[str, object]] = []
        self.lines: list[str] = []
        self.defects: list[BaseException] = []
        self.complaints = _Complaints(lambda text, _: self.lines.append(text))
        self.complaints.on_defect = self.defects.append

    def handle(self, loop: asyncio.AbstractEventLoop, context: Mapping[str, object]) -> None:
        self.contexts.append(context)
        self.complaints(loop, context)


async def fail(error: BaseException) -> None:
    """A task that ends with ``error``."""
    raise error


@pytest.mark.parametrize("error", [RuntimeError("a defect"), LocumError("no thread"), OSError(11, "no process")])
def test_a_background_task_that_fails_is_told_and_ends_the_agent(error: Exception) -> None:
    async def scene() -> Loop:
        loop = Loop()
        asyncio.get_running_loop().set_exception_handler(loop.handle)
        # Kept, so that asyncio itself never sees it collected.
        kept = tasks.start(fail(error), "looking at scripts")
        await asyncio.wait([kept])
        await asyncio.sleep(0)
        return loop

    loop = asyncio.run(scene())
    assert loop.defects == [error]
    assert loop.lines == [f"looking at scripts has ended unexpectedly: {error}"]


def test_a_background_task_that_ends_or_is_cancelled_is_no_failure() -> None:
    async def scene() -> Loop:
        loop = Loop()
        asyncio.get_running_loop().set_exception_handler(loop.handle)
        endless = tasks.start(asyncio.sleep(3600), "sleeping")
        await asyncio.wait([tasks.start(asyncio.sleep(0), "working")])
        endless.cancel()
        await asyncio.wait([endless])
        await asyncio.sleep(0)
        return loop

    assert asyncio.run(scene()).contexts == []


def test_a_defect_of_this_package_in_a_callback_ends_the_agent_and_nothing_else_does() -> None:
    """As in a timer of the driver, without which the node would not beat again."""

    async def scene(callback: Callable[[], None]) -> Loop:
        loop = Loop()
        asyncio.get_running_loop().set_exception_handler(loop.handle)
        asyncio.get_running_loop().call_soon(callback)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return loop

    def defect() -> None:
        activity = Activity(Context("n1", View()))
        activity.begin("monitor", lambda *_: None)
        activity.begin("takeip", lambda *_: None)

    def lacking() -> None:
        raise OSError(24, "too many open files")

    def elsewhere() -> None:
        raise ValueError("a library's")

    (found,) = asyncio.run(scene(defect)).defects
    assert isinstance(found, AssertionError)
    for other in (lacking, elsewhere):
        loop = asyncio.run(scene(other))
        assert loop.defects == []
        assert len(loop.lines) == 1
