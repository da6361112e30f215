"""Examine this machine's network settings: which interface answers for public addresses, and the source of the node's
own connections.

This file runs the daemon's audit (:mod:`locum.machine.audit`) on the addresses that are configured now, and includes
hints that are too minor for ``locum status``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from locum.config.model import Settings
from locum.doctor import Finding
from locum.errors import LocumError
from locum.machine import snapshot
from locum.machine.audit import Claim, Snapshot, findings
from locum.rules.schema import HostedAddress


def examine(settings: Settings) -> Iterator[Finding]:
    """Findings about the kernel's settings and routes."""
    hosted = [HostedAddress(a.address, a.bits, a.interfaces) for a in settings.addresses]
    try:
        # Only the kernel is asked which addresses are here: the daemon manages the gate.
        present = {(p.address, p.interface) for p in snapshot.take((), hosted).addresses}
        claims = [Claim(h.address, h.bits, n) for h in hosted for n in h.interfaces if (h.address, n) in present]
        seen = snapshot.take(claims, hosted)
    except LocumError as error:
        yield Finding("addresses", "problem", f"the kernel's state cannot be read: {error}")
        return
    yield from judge(claims, hosted, seen)


def judge(claims: Collection[Claim], hosted: Collection[HostedAddress], seen: Snapshot) -> Iterator[Finding]:
    """Findings for the audit of ``seen``."""
    found = findings(claims, hosted, seen)
    for finding in found:
        repaired = finding.action not in ("warn", "hint")
        advice = finding.advice or ("the daemon repairs it" if repaired else "")
        yield Finding("addresses", "warning", finding.text, advice)
    if not found:
        yield Finding("addresses", "good", "the kernel answers for public addresses correctly")
