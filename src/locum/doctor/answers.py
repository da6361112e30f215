"""What the doctor says of this machine's network settings: who answers for public addresses, and from where it speaks.

The same audit as the daemon's (:mod:`locum.addresses.audit`), of what is configured here just now, with the hints that
are too slight for ``locum status``. Warnings of the other nodes, and of the daemon, are shown beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from locum.addresses import snapshot
from locum.addresses.audit import Claim, Hosted, Snapshot, findings
from locum.config.model import Settings
from locum.doctor import Finding
from locum.errors import LocumError


def examine(settings: Settings) -> Iterator[Finding]:
    """Findings about the kernel's settings and routes."""
    hosted = [Hosted(a.address, a.bits, a.interfaces) for a in settings.addresses]
    try:
        # Which addresses are here is known from the kernel alone: the gate is the daemon's business.
        present = {(p.address, p.interface) for p in snapshot.take((), hosted).addresses}
        claims = [Claim(h.address, h.bits, n) for h in hosted for n in h.interfaces if (h.address, n) in present]
        seen = snapshot.take(claims, hosted)
    except LocumError as error:
        yield Finding("addresses", "problem", f"the kernel cannot be looked at: {error}")
        return
    yield from judge(claims, hosted, seen)


def judge(claims: Collection[Claim], hosted: Collection[Hosted], seen: Snapshot) -> Iterator[Finding]:
    """What the audit of ``seen`` means here."""
    found = findings(claims, hosted, seen)
    for finding in found:
        mended = finding.action not in ("warn", "hint")
        advice = finding.advice or ("the daemon mends it" if mended else "")
        yield Finding("addresses", "warning", finding.text, advice)
    if not found:
        yield Finding("addresses", "good", "the kernel answers for public addresses as it should")
