"""Waiting for the end of a child process."""

from __future__ import annotations

import time

from locum.node.guard.children import Child


def wait_for_end(child: Child, now: float) -> int:
    """The status with which ``child`` ends."""
    end = time.monotonic() + 30
    while (status := child.ended(now)) is None:
        assert time.monotonic() < end, "the child does not end"
        time.sleep(0.005)
    return status
