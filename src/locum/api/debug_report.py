"""The agent's state beyond ``locum status``, for ``locum debug dump``.

This file only reads memory, so it answers while the store, the kernel or a file hangs.
"""

from __future__ import annotations

import msgspec

from locum.lines import standard_error
from locum.rules.schema import Record
from locum.rules.view import View
from locum.threads import busy_calls


class SeenKey(msgspec.Struct, frozen=True):
    """A key of the store in the node's view. ``record`` is the last readable one, ``problem`` the fault of the present
    value, or ""."""

    revision: int
    record: Record | None
    problem: str = ""


class DebugReport(msgspec.Struct, frozen=True):
    """``running``: the event that runs, or None. ``calls``: current calls on threads, in words with their seconds.
    ``revision``: the watch is complete up to this one; ``known``: the highest revision seen in any way; ``reads``: how
    often the whole store was read. ``keys``: the view. ``log``: the latest lines of this agent's log.
    """

    running: str | None
    calls: tuple[str, ...]
    loaded: bool
    revision: int
    known: int
    reads: int
    keys: dict[str, SeenKey]
    log: tuple[str, ...]


def debug_report(view: View, running: str | None) -> DebugReport:
    """The report of this process; ``running`` is the event that its engine runs."""
    keys = {
        key: SeenKey(view.revision_of(key), view.record_of(key), view.corrupt.get(key, "")) for key in view.known_keys()
    }
    return DebugReport(
        running=running,
        calls=tuple(f"{call.what} for {call.seconds:.3f} s" for call in busy_calls(0.0)),
        loaded=view.loaded,
        revision=view.revision,
        known=view.known,
        reads=view.reads,
        keys=keys,
        log=tuple(standard_error.latest()),
    )
