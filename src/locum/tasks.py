"""Background tasks: no caller waits for them, so a failure must reach the process in another way.

Rules of this file: it knows the event loop and no use of it. An unreported failure of a task is the worst kind of
defect: its work silently stops. asyncio reports it only when the task is collected, which never happens to a task that
is kept in a list. So everything in the daemon that starts a task either awaits it or starts it here;
``tests/unit/test_tasks.py`` checks that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

#: The key by which the event loop's exception handler recognises the failure of a background task.
BACKGROUND = "locum background task"


def start(work: Coroutine[Any, Any, T], what: str) -> asyncio.Task[T]:
    """Run ``work`` in the running event loop. ``what`` describes it in messages: "looking at scripts".

    When it raises, the event loop's exception handler is called with the exception (:func:`failed_task`), whatever the
    caller does with the task. The task lives until it ends, whether the caller keeps it or not.
    """
    task = asyncio.get_running_loop().create_task(work, name=what)
    _under_way.add(task)
    task.add_done_callback(_ended)
    return task


class Group:
    """Background tasks of one owner, which ends them with itself. ``what``: as for :func:`start`."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._tasks: set[asyncio.Task[object]] = set()

    def start(self, work: Coroutine[Any, Any, object]) -> None:
        """Run ``work`` until it ends or the group is closed."""
        task = start(work, self._what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Cancel what is under way."""
        for task in list(self._tasks):
            task.cancel()


def failed_task(context: Mapping[str, object]) -> BaseException | None:
    """The exception that ended a background task, if an exception handler's ``context`` is about one."""
    error = context.get("exception")
    return error if BACKGROUND in context and isinstance(error, BaseException) else None


def _ended(task: asyncio.Task[Any]) -> None:
    _under_way.discard(task)
    if task.cancelled():
        return
    error = task.exception()
    if error is not None:
        what = task.get_name()
        message = f"{what} has ended unexpectedly"
        task.get_loop().call_exception_handler({"message": message, "exception": error, "task": task, BACKGROUND: what})


# The event loop keeps only weak references.
_under_way: set[asyncio.Task[Any]] = set()
