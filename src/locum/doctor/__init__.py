"""``locum doctor``: looks at a node and its store before somebody relies on them, and says what to change.

:mod:`locum.doctor.machine` looks at clock, kernel and scripts, :mod:`locum.doctor.answers` at the network's settings,
:mod:`locum.doctor.daemon` asks the daemon that runs,
:mod:`locum.doctor.store` measures the store against the hold, :mod:`locum.doctor.etcd` looks at what an etcd keeps.
Nothing that they do touches a running cluster: kernel features are tried in a network namespace of its own, the store
under a key of its own.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Level = Literal["good", "warning", "problem"]


class Finding(msgspec.Struct, frozen=True):
    """One result. ``text`` says what was found, ``advice`` what to change ("" when nothing)."""

    check: str
    level: Level
    text: str
    advice: str = ""
