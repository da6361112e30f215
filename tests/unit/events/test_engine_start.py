"""An engine that is stopped before its runner is ready: no process is left, as a service manager expects."""

from __future__ import annotations

import asyncio
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from locum.events import runner_client
from tests.unit.bench import Bench, alive, eventually, run_async

#: A runner that never says that it is ready; it ends when its socket is closed.
SLOW = """
import os, socket, sys
mark = os.path.join(sys.argv[2], "slow")
open(mark + ".new", "w").write(str(os.getpid()))
os.rename(mark + ".new", mark)
socket.socket(fileno=int(sys.argv[1])).recv(1)
"""


def test_a_runner_that_is_not_ready_yet_is_gone_when_the_engine_has_stopped(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.shell("10.a", "exit 0\n")
    program, mark = bench.file("slow.py"), Path(bench.runtime) / "slow"
    program.write_text(SLOW)
    monkeypatch.setattr(runner_client, "_MAIN", program)

    async def go() -> None:
        engine = bench.engine()
        starting = asyncio.ensure_future(engine.start())
        await eventually(lambda: mark.exists() or starting.done())
        starting.cancel()
        await asyncio.wait([starting])
        await engine.stop()
        assert not alive(int(mark.read_text()))

    run_async(go())


def test_a_runner_whose_program_is_being_executed_is_gone_when_the_engine_has_stopped(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.shell("10.a", "exit 0\n")
    begun, goes_on = threading.Event(), threading.Event()
    started: list[subprocess.Popen[bytes]] = []

    execute = subprocess.Popen

    def slow(argv: list[str], **named: Any) -> subprocess.Popen[bytes]:
        if str(runner_client._MAIN) not in argv:  # a script's shell checks it first
            return execute(argv, **named)
        begun.set()
        assert goes_on.wait(60.0)
        started.append(execute(argv, **named))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", slow)

    async def go() -> None:
        engine = bench.engine()
        starting = asyncio.ensure_future(engine.start())
        await eventually(lambda: begun.is_set() or starting.done())
        starting.cancel()
        await asyncio.wait([starting])
        stopping = asyncio.ensure_future(engine.stop())
        await asyncio.sleep(0.05)
        goes_on.set()
        await stopping
        (process,) = started
        assert not alive(process.pid)

    run_async(go())
