"""Beats go on while what the agent uses hangs: its files and directories in turn, and its log.

While something hangs, the agent is made to use it: a public address is removed behind its back, a script changes,
``monitor`` is asked for, and the configuration is reloaded.

Not here: rtnetlink's lock. The kernel has one for all network namespaces, so a test that held it would stop every
network of the machine. nftables' lock is in ``test_loops.py``.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import msgspec
import pytest

from locum.rules.schema import BeatRecord
from locum_lab.lab import Lab
from tests.lab.clusters import addresses_of, check_kernels
from tests.lab.guard.hanging import fill, is_full, log_that_is_not_read, path_that_hangs
from tests.lab.hostile import Stranger, lab_for_module, report_with

pytestmark = pytest.mark.lab

NODE = "n1"
HOLD = 2.0
#: What hangs, in the node's directory → what status names among the calls that hang, once the agent uses it.
PATHS = {
    "events": "reading the script directory",
    "config.toml": "reading the configuration",
    "public_addresses": "reading the configuration",
    "runtime/held": "removing the note of",
    "runtime/listen": "reading declared ports",
    "runtime/events": "writing to the runtime directory",
    "state": "reading the script directory",
}


@pytest.fixture(scope="module", name="shared_lab")
def shared_lab_fixture() -> Iterator[Lab]:
    with lab_for_module("hanging", hold=HOLD) as lab:
        yield lab


@pytest.fixture(name="lab")
def lab_fixture(shared_lab: Lab, request: pytest.FixtureRequest) -> Lab:
    report_with(request, shared_lab)
    shared_lab.wait_served()
    return shared_lab


def beat(lab: Lab) -> BeatRecord:
    """The node's last beat in the store."""
    return msgspec.json.decode(Stranger(lab).read()[f"beat/{NODE}"].value, type=BeatRecord)


@contextlib.contextmanager
def in_use(lab: Lab) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Have the node use what it has; gives the commands under way, which have ended after the block."""
    address = addresses_of(lab, NODE)[0]
    lab.write_script(NODE, "90.changes", f"#!/bin/sh\n# {time.time()}\nexit 0\n")
    lab.run(NODE, ["ip", "address", "flush", "to", address])
    commands = [
        subprocess.Popen(
            lab.command(NODE, [sys.executable, "-m", "locum.cli.main", *arguments]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **lab.command_environment(NODE)},
        )
        for arguments in (("reload",), ("event", "run", "monitor"))
    ]
    try:
        yield commands
    finally:
        for command in commands:
            command.wait(120)


def watch_beats(lab: Lab, named: str) -> None:
    """For two holds, and until status names a call that hangs ("": none need): the node keeps its hold, by beats."""
    first = last = beat(lab)
    begun = time.monotonic()
    hanging: set[str] = set()
    while time.monotonic() < begun + 2 * HOLD or (named and not any(named in c for c in hanging)):
        assert time.monotonic() < begun + 60, f"{named!r} did not hang, but {hanging}"
        report = lab.status(NODE, timeout=30.0)
        assert report.daemon is not None
        assert report.daemon.loop is not None
        assert report.daemon.hold_left > 0, "the hold has ended"
        hanging.update(report.daemon.loop.hanging)
        time.sleep(0.2)
        last = beat(lab)
        assert last.incarnation == first.incarnation, "the node fell silent and joined anew"
    assert last.sequence - first.sequence >= 4, f"{last.sequence - first.sequence} beats in two holds"


@contextlib.contextmanager
def nothing_moves(lab: Lab) -> Iterator[None]:
    """The block leaves the node's membership, its agent, and every address where they were; all is normal after it."""
    lab.wait_served()
    first, agent, served = beat(lab), lab.agent(NODE), lab.served()
    yield
    lab.wait_served()
    assert lab.served() == served
    assert (beat(lab).incarnation, lab.agent(NODE)) == (first.incarnation, agent)
    lab.wait_for("no call that hangs", lambda: not hanging_calls(lab), 60.0)
    lab.wait_for("every address in its kernel", lambda: set(lab.configured(NODE)) == set(addresses_of(lab, NODE)), 60.0)
    check_kernels(lab)


def hanging_calls(lab: Lab) -> tuple[str, ...]:
    """What status names."""
    report = lab.status(NODE, timeout=30.0)
    assert report.daemon is not None
    assert report.daemon.loop is not None
    return report.daemon.loop.hanging


@pytest.mark.parametrize("path", PATHS)
def test_beats_go_on_while_a_path_hangs(lab: Lab, path: str) -> None:
    hung = lab.node_directory(NODE) / path
    with nothing_moves(lab), contextlib.ExitStack() as commands, path_that_hangs(lab, NODE, hung) as hang:
        commands.enter_context(in_use(lab))
        watch_beats(lab, PATHS[path])
        assert hang.poll() is None, "it did not hang all the time"


def test_beats_go_on_while_the_log_is_not_read(lab: Lab) -> None:
    with log_that_is_not_read(lab, NODE) as pipe:
        lab.wait_served()
        # The daemon is a new one; it gets its share when it may take over addresses.
        lab.wait_for("the node to serve", lambda: bool(addresses_of(lab, NODE)))
        lab.wait_served()
        fill(pipe)
        with nothing_moves(lab):
            with in_use(lab):
                watch_beats(lab, "")
            assert is_full(pipe)
        # The reader is back.
        told = b""

        def read() -> bool:
            nonlocal told
            with contextlib.suppress(BlockingIOError):
                told += os.read(pipe, 4096)
            return b"reloaded: " in told

        lab.wait_for("the lines that waited", read, 60.0)
        assert lab.status(NODE).daemon is not None
        lab.stop_daemon(NODE)
