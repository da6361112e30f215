"""Calls that may not come back, on threads: the caller goes on."""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

import pytest

from locum.threads import STEP, NoAnswer, Worker, busy_calls, use_bounded_executor, wait_patiently

LONG = 30.0

P = ParamSpec("P")


def in_a_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test that runs in an event loop of its own."""

    @functools.wraps(test)
    def run(*arguments: P.args, **named: P.kwargs) -> None:
        asyncio.run(test(*arguments, **named))

    return run


class Hang:
    """A call that comes back when it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self._end = threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        self._end.wait(LONG)
        return "back"

    def end(self) -> None:
        self._end.set()


@in_a_loop
async def test_one_thread_keeps_the_order() -> None:
    worker, done = Worker("test"), list[int]()
    await asyncio.gather(*(worker.run("appending", None, done.append, number) for number in range(200)))
    assert done == list(range(200))


@in_a_loop
async def test_a_call_that_hangs_keeps_its_caller_no_longer_than_the_limit() -> None:
    worker, hang = Worker("test"), Hang()
    with pytest.raises(NoAnswer, match=r"reading the scripts: no answer within 0\.05 s"):
        await worker.run("reading the scripts", 0.05, hang)
    hang.end()
    assert await worker.run("asking", LONG, lambda: 7) == 7


@in_a_loop
async def test_a_stop_of_the_whole_process_does_not_count_as_time_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, worker, hang, ahead = asyncio.get_running_loop(), Worker("w"), Hang(), 0.0
    real = loop.time
    monkeypatch.setattr(loop, "time", lambda: real() + ahead)
    call = asyncio.ensure_future(worker.run("reading the scripts", LONG, hang))
    await asyncio.to_thread(hang.begun.wait)
    ahead = 100 * LONG
    # The loop runs its timers that have expired before the thread, which stood still as well, gets any further.
    for _ in range(10):
        await asyncio.sleep(0)
    assert not call.done()
    hang.end()
    assert await call == "back"
    worker.close()


@in_a_loop
async def test_what_waits_behind_a_call_that_hangs_never_begins_once_it_was_given_up() -> None:
    worker, hang, done = Worker("test"), Hang(), list[int]()
    worker.submit("hanging", hang)
    with pytest.raises(NoAnswer):
        await worker.run("appending", 0.05, done.append, 1)
    hang.end()
    await worker.run("appending", LONG, done.append, 2)
    assert done == [2]


@in_a_loop
async def test_threads_and_waiting_calls_are_bounded_and_the_refusal_names_what_hangs() -> None:
    worker, hang = Worker("test", threads=3, room=2), Hang()
    before = threading.active_count()
    hangs = [hang, Hang(), Hang()]
    for one in hangs:
        worker.submit("reading /mnt/gone", one)
        assert one.begun.wait(LONG)
    waiting = [worker.submit("waiting", lambda: 1) for _ in range(2)]
    with pytest.raises(NoAnswer, match=r"more: not begun, 2 calls wait; reading /mnt/gone has taken .* s so far"):
        worker.submit("more", lambda: 2)
    assert threading.active_count() == before + 3
    for one in hangs:
        one.end()
    assert [future.result(LONG) for future in waiting] == [1, 1]


@in_a_loop
async def test_a_cancelled_caller_leaves_nothing_behind() -> None:
    worker, hang, done = Worker("test"), Hang(), list[int]()
    worker.submit("hanging", hang)
    task = asyncio.ensure_future(worker.run("appending", None, done.append, 1))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    hang.end()
    await worker.run("appending", LONG, done.append, 2)
    assert done == [2]


@in_a_loop
async def test_errors_come_to_the_caller() -> None:
    with pytest.raises(FileNotFoundError):
        await Worker("test").run("opening", LONG, open, "/nowhere/at/all")


def test_calls_under_way_can_be_named() -> None:
    worker, hang = Worker("test"), Hang()
    worker.submit("reading /mnt/gone", hang)
    assert hang.begun.wait(LONG)
    time.sleep(0.02)
    assert "reading /mnt/gone" in [call.what for call in busy_calls(0.01)]
    hang.end()


def test_a_closed_worker_takes_nothing_and_forgets_what_waits() -> None:
    worker, hang = Worker("test"), Hang()
    worker.submit("hanging", hang)
    assert hang.begun.wait(LONG)
    waiting = worker.submit("waiting", lambda: 1)
    worker.close()
    assert waiting.cancelled()
    with pytest.raises(NoAnswer, match="the process is ending"):
        worker.submit("more", lambda: 2)
    hang.end()


def test_a_forked_child_knows_nothing_of_its_parents_calls() -> None:
    worker, hang = Worker("test"), Hang()
    worker.submit("hanging", hang)
    assert hang.begun.wait(LONG)
    child = os.fork()
    if child == 0:
        os._exit(len(busy_calls(0.0)))
    assert os.waitpid(child, 0)[1] == 0
    hang.end()


HANGING_RESOLVER = """
import asyncio, socket, time
from locum.threads import NoAnswer, use_bounded_executor

socket.getaddrinfo = lambda *_arguments, **_named: time.sleep(3600)

async def main():
    use_bounded_executor(2)
    loop = asyncio.get_running_loop()
    for _ in range(3):
        try:
            await asyncio.wait_for(loop.getaddrinfo("etcd1.example", 2379), 0.05)
        except TimeoutError:
            pass

asyncio.run(main())
print("ended")
"""


def test_a_resolver_that_does_not_answer_does_not_keep_a_process_from_ending() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGING_RESOLVER], capture_output=True, text=True, timeout=2 * LONG, check=False
    )
    assert (done.stdout, done.returncode) == ("ended\n", 0), done.stderr


@in_a_loop
async def test_names_are_resolved_by_the_bounded_executor() -> None:
    use_bounded_executor(2)
    found = await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
    assert found[0][4][0] == "127.0.0.1"


def test_a_prepared_worker_needs_no_further_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker("test", threads=2)
    worker.prepare()

    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    assert worker.submit("asking", lambda: 7).result(LONG) == 7
    with pytest.raises(NoAnswer, match="cannot start a thread for 'other': can't start new thread"):
        Worker("other").prepare()


@in_a_loop
async def test_waiting_ends_with_the_future_or_with_the_limit() -> None:
    loop = asyncio.get_running_loop()
    for limit in (None, 1.5 * STEP, LONG):
        future: asyncio.Future[str] = loop.create_future()
        loop.call_later(0.01, future.set_result, "x")
        await wait_patiently(future, limit)
        assert future.done()
    never: asyncio.Future[str] = loop.create_future()
    for limit in (0.0, -1.0, 0.01, 1.5 * STEP):
        begun = time.monotonic()
        await wait_patiently(never, limit)
        assert not never.done()
        assert time.monotonic() - begun >= limit


@in_a_loop
async def test_without_any_time_left_a_result_that_is_there_is_still_seen() -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[str] = loop.create_future()
    loop.call_soon(future.set_result, "x")
    await wait_patiently(future, 0.0)
    assert future.done()


@in_a_loop
async def test_a_cancelled_wait_leaves_nothing_behind_and_the_future_as_it_is() -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[str] = loop.create_future()
    waiting = asyncio.ensure_future(wait_patiently(future, LONG))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not future.cancelled()
    future.set_result("x")
    await asyncio.sleep(0)
    other: asyncio.Future[str] = loop.create_future()
    loop.call_soon(other.cancel)
    await wait_patiently(other, LONG)
    assert other.cancelled()
