"""``locum doctor``: examines a node and its store before an administrator relies on them, and recommends changes.

:mod:`locum.doctor.machine` examines clock, kernel and scripts, :mod:`locum.doctor.answers` the network settings,
:mod:`locum.doctor.daemon` asks the running daemon, :mod:`locum.doctor.systemd` examines the order in which units stop,
:mod:`locum.doctor.store` measures the store against the hold, :mod:`locum.doctor.etcd` examines the contents of etcd.
:mod:`locum.doctor.dump` collects a node's state for a bug report. The examinations do not affect a running cluster:
they try kernel features in a separate network namespace, and the store under a separate key.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Level = Literal["good", "warning", "problem"]


class Finding(msgspec.Struct, frozen=True):
    """One result. ``text``: what was found; ``advice``: what to change ("" for nothing)."""

    check: str
    level: Level
    text: str
    advice: str = ""
