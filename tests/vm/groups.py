"""Groups of tests that share a lab of guests: each is carried out by one worker, so that the lab boots once."""

from __future__ import annotations

from pathlib import Path

#: Modules whose tests use the shared cluster: one group. Every other module is one of its own.
OF_THE_CLUSTER = frozenset(
    {"test_duplicate_detection", "test_failover", "test_lab", "test_poor_network", "test_stopped_clocks"}
)
CLUSTER = "cluster"

#: Groups that take more than three minutes, in the order in which they begin.
_LONGEST_FIRST = (
    "test_systemd",
    "test_kernel_nfs",
    CLUSTER,
    "test_samba_member",
    "test_networks",
    "test_store_in_guests",
)


def of(module: Path) -> str:
    """The group of a module's tests."""
    return CLUSTER if module.stem in OF_THE_CLUSTER else module.stem


def rank(module: Path) -> int:
    """The place of a module's group in a run; groups that are short, or new, come last."""
    group = of(module)
    return _LONGEST_FIRST.index(group) if group in _LONGEST_FIRST else len(_LONGEST_FIRST)
