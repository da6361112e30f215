"""Which processes are part of the script that runs: those for which nothing may wait for its event."""

from __future__ import annotations

import asyncio
import contextlib
import os

from locum.events.inside import Inside
from locum.events.model import Event
from tests.unit.bench import Bench, eventually, kill_service, run_async

KINDS = ("script", "child", "grandchild", "in-session-of-its-own", "orphan", "without-environment", "service")


def test_a_script_and_everything_that_it_started_is_inside_but_a_service_is_not(bench: Bench) -> None:
    note = bench.file("note")
    note.write_text('#!/bin/sh\necho $$ >"$1.new"\nmv "$1.new" "$1"\nexec sleep 1000\n')
    note.chmod(0o755)
    at = {kind: bench.file(kind) for kind in KINDS}
    lines = [
        f"echo $$ >{at['script']}",
        f"{note} {at['child']} &",
        f"sh -c '{note} {at['grandchild']} & wait' &",
        f"setsid {note} {at['in-session-of-its-own']} &",
        f"({note} {at['orphan']} &)",
        f"env -i PATH=$PATH {note} {at['without-environment']} &",
        f"(setsid {note} {at['service']} >/dev/null 2>&1 &)",
        "wait",
    ]
    bench.shell("25.selftest", "\n".join(lines) + "\n")

    async def go() -> dict[str, bool]:
        async with bench.running() as engine:
            assert await engine.inside(os.getpid()) is None
            event = asyncio.ensure_future(engine.run(Event.RECOVERED))
            await eventually(lambda: all(path.exists() and path.read_text() for path in at.values()))
            pids = {kind: int(path.read_text()) for kind, path in at.items()}
            assert await engine.inside(pids["script"]) == Inside("25.selftest", "recovered")
            found = {kind: (await engine.inside(pid)) is not None for kind, pid in pids.items()}
            assert await engine.inside(os.getpid()) is None
            assert await engine.inside(0) is None
            event.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await event
            kill_service(pids["in-session-of-its-own"])
            assert await engine.inside(pids["service"]) is None
            kill_service(pids["service"])
            return found

    assert run_async(go()) == {kind: kind != "service" for kind in KINDS}


def test_the_function_of_a_python_script_and_its_child_are_inside(bench: Bench) -> None:
    pids = bench.file("pids")
    bench.python(
        "25.selftest",
        "import os, subprocess, time\n"
        "def recovered():\n"
        "    child = subprocess.Popen(['sleep', '1000'])\n"
        f"    open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}\\n')\n"
        "    child.wait()\n",
    )

    async def go() -> None:
        async with bench.running() as engine:
            event = asyncio.ensure_future(engine.run(Event.RECOVERED))
            await eventually(lambda: pids.exists() and pids.read_text().endswith("\n"))
            for pid in pids.read_text().split():
                assert await engine.inside(int(pid)) == Inside("25.selftest", "recovered")
            event.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await event

    run_async(go())
