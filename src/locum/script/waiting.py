"""Wait for a condition, for a limited time; a failure names the condition."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from locum.script.commands import as_words, run
from locum.script.failure import Fail

#: Default limit of every wait, seconds.
DEFAULT_TIMEOUT = 30.0


def wait_for(what: str, condition: Callable[[], bool], timeout: float = DEFAULT_TIMEOUT) -> None:
    """Test ``condition`` until it holds, at first often, then twice a second. Raises Fail after ``timeout`` seconds:
    ``what`` names the missing condition."""
    deadline = time.monotonic() + timeout
    pause = 0.005
    while not condition():
        left = deadline - time.monotonic()
        if left <= 0:
            raise Fail(f"{what} did not come within {timeout:g} s")
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, 0.5)


def wait_for_directory(path: str, timeout: float = DEFAULT_TIMEOUT) -> None:
    """Wait until ``path`` is a directory, for example because its file system is mounted."""
    wait_for(f"directory {path}", lambda: os.path.isdir(path), timeout)


def check_directories(*paths: str) -> None:
    """Raise Fail with every one of ``paths`` that is not a directory. Paths with ``%`` are skipped: they are
    templates, as in smb.conf(5)."""
    missing = [path for path in paths if "%" not in path and not os.path.isdir(path)]
    if missing:
        raise Fail(f"not available: {', '.join(missing)}")


def wait_for_command(command: str | Sequence[str], timeout: float = DEFAULT_TIMEOUT) -> None:
    """Repeat ``command`` until it succeeds. Raises Fail after ``timeout`` seconds, with its last output."""
    deadline = time.monotonic() + timeout
    while True:
        left = deadline - time.monotonic()
        result = run(command, check=False, timeout=max(left, 0.1))
        if result.status == 0:
            return
        left = deadline - time.monotonic()
        if left <= 0:
            said = result.output.strip().splitlines()
            because = f": {said[-1]}" if said else f" (status {result.status})"
            raise Fail(f"{' '.join(as_words(command))} did not succeed within {timeout:g} s{because}")
        time.sleep(min(0.25, left))
