"""A script directory, an engine on it, and ways to look at what its scripts did."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from locum.config.tunables import Tunables
from locum.events.engine import EventEngine
from locum.events.model import Event, EventResult
from locum.processes import kill_session, process, processes

T = TypeVar("T")

PYTHON = "#!/usr/bin/env locum-script\n"
SHELL = "#!/bin/sh\n"


def until(condition: Callable[[], T], limit: float = 60.0) -> T:
    """Wait for ``condition`` to become true and return what it says; generous, for slow machines."""
    deadline = time.monotonic() + limit
    while not (value := condition()):
        assert time.monotonic() < deadline, "this never became true"
        time.sleep(0.01)
    return value


async def eventually(condition: Callable[[], T], limit: float = 60.0) -> T:
    """As :func:`until`, and the event loop goes on turning."""
    deadline = time.monotonic() + limit
    while not (value := condition()):
        assert time.monotonic() < deadline, "this never became true"
        await asyncio.sleep(0.01)
    return value


class Bench:
    """A node's directories, below one place."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.scripts = place / "events"
        self.runtime = place / "runtime"
        self.state = place / "state"
        self.scripts.mkdir()
        self.scripts.chmod(0o755)
        #: The engines' time limits.
        self.tunables = Tunables(monitor_timeout=600, event_timeout=600)
        #: What the engines logged: level and text.
        self.said: list[tuple[str, str]] = []

    def script(self, name: str, text: str, mode: int = 0o755) -> Path:
        """Write a script, as an admin should: in one step."""
        path = self.scripts / name
        new = self.place / "new"
        new.write_text(text)
        new.chmod(mode)
        new.rename(path)
        return path

    def python(self, name: str, text: str) -> Path:
        """Write an enabled Python script."""
        return self.script(name, PYTHON + text)

    def shell(self, name: str, text: str) -> Path:
        """Write an enabled shell script."""
        return self.script(name, SHELL + text)

    def engine(self, settings: Mapping[str, Mapping[str, object]] | None = None) -> EventEngine:
        """An engine on the directory, not started."""
        return EventEngine(
            self.scripts,
            runtime=self.runtime,
            state=self.state,
            settings=settings or {},
            environment={"LOCUM_NODE": "n1"},
            tunables=lambda: self.tunables,
            log=lambda text, level: self.said.append((level, text)),
        )

    @asynccontextmanager
    async def running(self, settings: Mapping[str, Mapping[str, object]] | None = None) -> AsyncIterator[EventEngine]:
        """An engine that runs."""
        engine = self.engine(settings)
        await engine.start()
        try:
            yield engine
        finally:
            await engine.stop()

    def run(
        self,
        event: Event,
        *arguments: str,
        timeout: float = 600.0,
        settings: Mapping[str, Mapping[str, object]] | None = None,
    ) -> EventResult:
        """Start an engine, run one event, stop it. ``timeout``: for each script, seconds."""
        self.tunables = Tunables(monitor_timeout=timeout, event_timeout=timeout)

        async def go() -> EventResult:
            async with self.running(settings) as engine:
                return await engine.run(event, arguments)

        return asyncio.run(go())

    def file(self, name: str) -> Path:
        """A file that a test's scripts write to."""
        return self.place / name

    def lines(self, name: str) -> list[str]:
        """What they wrote."""
        path = self.file(name)
        return path.read_text().splitlines() if path.exists() else []


def run_async(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end."""
    return asyncio.run(coroutine)


def alive(pid: int) -> bool:
    """Whether a process runs."""
    found = process(pid)
    return found is not None and not found.dead


def kill_service(pid: int) -> None:
    """End a process that a test left behind on purpose, with its session."""
    found = process(pid)
    if found is not None:
        kill_session(found.session)


def carrying(text: str) -> list[int]:
    """Processes that have ``text`` in their command line."""
    found = []
    for one in processes():
        try:
            command = Path(f"/proc/{one.pid}/cmdline").read_bytes()
        except OSError:
            continue
        if not one.dead and text.encode() in command:
            found.append(one.pid)
    return found
