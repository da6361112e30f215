"""Checks the parts of an NFS server by RPC, with the tolerance that administrators configure.

This file asks and counts; it returns the consequence of a failure, but does not carry it out. The thresholds are those
of CTDB's ``nfs-checks.d``: a number of failures in a row until the node is unhealthy, and a number of failures after
which the part is restarted each time.

A part that is *gone* (not registered, connection refused) is distinguished from a slow one. It does not return by
itself, so it is restarted at once; if NFS itself is gone, the node becomes unhealthy at once.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from locum import rpc
from locum.script.counters import Counters


class Check(msgspec.Struct, frozen=True):
    """One part: RPC ``program`` in ``versions``. ``unhealthy_after`` and ``restart_every``: failures in a row, 0 for
    never. ``essential``: without it the node cannot serve."""

    name: str
    program: int
    versions: tuple[int, ...]
    unhealthy_after: int
    restart_every: int
    essential: bool = False
    tcp: bool = True


class Verdict(msgspec.Struct, frozen=True):
    """The result of a check. ``problem`` is "" without one; ``gone``: the part is not there; ``hung``: it exists
    and does not answer."""

    check: Check
    problem: str = ""
    unhealthy: bool = False
    restart: bool = False
    gone: bool = False
    hung: bool = False
    failures: int = 0


#: The values of CTDB's shipped checks; the port mapper is not restarted.
DEFAULTS = (
    Check("portmapper", rpc.PORTMAPPER, (2,), unhealthy_after=1, restart_every=0),
    Check("nfs", rpc.NFS, (3,), unhealthy_after=2, restart_every=10, essential=True),
    Check("mountd", rpc.MOUNTD, (3,), unhealthy_after=6, restart_every=2),
    Check("nlockmgr", rpc.NLM, (4,), unhealthy_after=6, restart_every=2),
    Check("status", rpc.STATD, (1,), unhealthy_after=6, restart_every=2),
)


def configured(settings: Mapping[str, object], checks: tuple[Check, ...] = DEFAULTS) -> list[Check]:
    """The checks as changed by the settings ``nfs_unhealthy_after``, ``nfs_restart_every``, ``versions`` (of NFS), and
    without those that ``skip`` names."""
    skipped = settings.get("skip") or ()
    found = []
    for check in checks:
        if isinstance(skipped, list | tuple) and check.name in skipped:
            continue
        changes: dict[str, object] = {}
        for key in ("unhealthy_after", "restart_every"):
            value = settings.get(f"{check.name}_{key}")
            if value is not None:
                changes[key] = int(str(value))
        versions = settings.get("versions")
        if check.name == "nfs" and isinstance(versions, list | tuple):
            changes["versions"] = tuple(int(str(version)) for version in versions)
        found.append(msgspec.structs.replace(check, **changes))
    return found


def ask(check: Check, timeout: float) -> None:
    """Call procedure 0 of every version. Raises :class:`locum.rpc.RpcError`."""
    for version in check.versions:
        rpc.null_call(check.program, version, tcp=check.tcp, timeout=timeout)


def look(check: Check, counters: Counters, timeout: float) -> Verdict:
    """Ask, count, judge."""
    try:
        ask(check, timeout)
    except rpc.RpcError as error:
        failures = counters.failed(check.name)
        gone = not isinstance(error, rpc.RpcTimeout)
        limit = 1 if gone and check.essential and check.unhealthy_after else check.unhealthy_after
        return Verdict(
            check,
            f"{check.name}: {error}",
            unhealthy=0 < limit <= failures,
            restart=check.restart_every > 0 and (gone or failures % check.restart_every == 0),
            gone=gone,
            hung=not gone,
            failures=failures,
        )
    counters.succeeded(check.name)
    return Verdict(check)
