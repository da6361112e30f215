"""Compares every few seconds what this node serves with what its kernel has, mends what can be mended, tells the rest.

Rules of this file: it decides nothing about addresses. What is wrong is found by :mod:`locum.machine.audit`; what was
mended in vain some times in a row is an input of the rules, which give the address up. The kernel is looked at on a
thread of its own, so that one that does not answer holds nothing up.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable

from locum import tasks
from locum.clock import boottime
from locum.errors import LocumError
from locum.machine import snapshot
from locum.machine.audit import Claim, Finding, Hosted, Snapshot, findings
from locum.machine.gate.gate import Gate
from locum.node.driver import Driver
from locum.node.steps import Steps
from locum.threads import NoAnswer, Worker

#: Seconds between two audits; not less than this multiple of what the last one took.
INTERVAL, SHARE = 5.0, 50.0
#: An audit that something triggered comes so many seconds later, so that what belongs together is looked at once.
TRIGGERED = 0.3
#: How long the kernel may take to answer all questions of an audit, in seconds.
PATIENCE = 20.0
#: An address that was mended in so many audits in a row, and needs it again, is given up.
MENDS = 3
#: Kinds of findings that are normal for a moment after an address was configured: they count when seen twice in a row.
PASSING = frozenset({"tentative", "undelivered"})
#: Kinds of findings with which an address does not work at all.
FATAL = frozenset({"missing", "duplicate", "tentative", "undelivered", "gate"})


class Auditor:
    """The audit of one node. ``gated``: the kernel's gate is in use. ``others`` tells what goes wrong elsewhere at
    present and has no consequence but that admins should know."""

    def __init__(
        self,
        driver: Driver,
        steps: Steps,
        gated: bool,
        log: Callable[[str, str], None],
        others: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self._driver = driver
        self._steps = steps
        self._gated = gated
        self._others = others
        self._log = log
        self._worker = Worker("audit")
        self._task: asyncio.Task[None] | None = None
        self._trigger = asyncio.Event()
        #: Seconds that the last look at the kernel took.
        self.cost = 0.0
        # (kind, address) -> audits in a row in which it was mended.
        self._mended: dict[tuple[str, str], int] = {}
        self._said: frozenset[str] = frozenset()

    def start(self) -> None:
        """Begin."""
        self._task = tasks.start(self._run(), "auditing the kernel")

    def close(self) -> None:
        """Stop. Idempotent."""
        if self._task is not None:
            self._task.cancel()
        self._worker.close()

    def soon(self) -> None:
        """Something has changed that may matter: audit now rather than later."""
        self._trigger.set()

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(INTERVAL, SHARE * self.cost)):
                    await self._trigger.wait()
            await asyncio.sleep(TRIGGERED)
            self._trigger.clear()
            try:
                await self.audit()
            except Exception as error:
                # A defect of ours must not end the auditing.
                self._tell((f"the audit has failed: unexpected {type(error).__name__}: {error}",))

    async def audit(self) -> None:
        """One audit."""
        # News of what the last one removed has long come; what did not come must not hide a removal by others.
        self._steps.expected_removals.clear()
        began = boottime()
        try:
            if self._gated:
                await self._steps.gate_done(PATIENCE)
                began = boottime()
            claims, configured = self._claims(), frozenset(self._steps.configured)
            hosted = [Hosted(h.address, h.bits, h.interfaces) for h in self._driver.node.status().hosted.values()]
            seen = await self._worker.run("auditing the kernel", PATIENCE, _look, claims, hosted, self._gated)
        except (NoAnswer, LocumError) as error:
            self._tell((f"the kernel could not be compared with what is served here: {error}",))
            return
        self.cost = boottime() - began
        present = {claim.address: claim for claim in self._claims()}
        steady = [claim for claim in claims if present.get(claim.address) == claim]
        if len(steady) < len(claims):
            # What has moved meanwhile is looked at next time.
            self._trigger.set()
        found = findings(steady, hosted, seen)
        # What has been released, or dropped, since the audit began is muted by that.
        await self._follow(f for f in found if f.action != "deny" or configured.isdisjoint(f.addresses))

    def _claims(self) -> list[Claim]:
        moving = self._driver.node.status().moving
        held = self._steps.held().items()
        return [Claim(address, bits, name) for address, (bits, name) in held if address != moving]

    # -- what follows ----------------------------------------------------------------------------------------

    async def _follow(self, found: Iterable[Finding]) -> None:
        mended: dict[tuple[str, str], int] = {}
        texts = []
        for finding in found:
            if finding.action == "warn":
                texts.append(f"{finding.text} ({finding.advice})" if finding.advice else finding.text)
            elif finding.action == "order":
                await self._order(finding, mended, texts)
            elif finding.action != "hint":
                for address in finding.addresses:
                    await self._mend(finding, address, mended, texts)
        for address, problem in self._steps.unannounced.items():
            if address in self._steps.held():
                texts.append(f"{address} could not be announced ({problem}): neighbours may go on sending elsewhere")
                self._steps.announce_again(address)
        self._mended = mended
        self._tell((*texts, *self._others()))

    async def _order(self, finding: Finding, mended: dict[tuple[str, str], int], texts: list[str]) -> None:
        key = (finding.kind, finding.interface)
        mended[key] = self._mended.get(key, 0) + 1
        held = self._steps.held()
        addresses = [address for address in finding.addresses if address in held]
        if mended[key] > MENDS:
            texts.append(finding.text)
            return
        self._log(f"{finding.text}: putting the public ones behind it", "warning")
        problem = await self._steps.put_last(addresses)
        if problem:
            texts.append(f"{finding.text}: {problem}")
        # Routes that name them as their source are gone.
        self._driver.feed(self._driver.node.scripts_forget, addresses)

    async def _mend(self, finding: Finding, address: str, mended: dict[tuple[str, str], int], texts: list[str]) -> None:
        node, steps = self._driver.node, self._steps
        if finding.action == "deny":
            if address not in steps.configured:
                self._log(f"{finding.text}: muting it", "warning")
                await steps.mute(address)
            return
        if address not in steps.held() or address == node.status().moving:
            return
        times = mended[finding.kind, address] = self._mended.get((finding.kind, address), 0) + 1
        if finding.kind in PASSING and times == 1:
            self._trigger.set()
            return
        if times > MENDS:
            if finding.kind in FATAL:
                self._driver.feed(node.address_unfit, address, finding.interface, finding.text)
            else:
                texts.append(finding.text)
            return
        if finding.action == "restore":
            self._driver.feed(node.address_removed, address, finding.interface)
            return
        self._log(f"{finding.text}: mending that", "warning")
        if finding.action == "allow":
            await steps.allow(address)
        elif finding.action == "renew":
            await steps.renew(address)
        elif finding.action == "replace":
            if await steps.replace(address):
                self._driver.feed(node.address_removed, address, finding.interface)
            self._driver.feed(node.scripts_forget, [address])

    def _tell(self, texts: tuple[str, ...]) -> None:
        for text in texts:
            if text not in self._said:
                self._log(text, "warning")
        self._said = frozenset(texts)
        self._driver.feed(self._driver.node.warnings_changed, "audit", texts)


def _look(claims: list[Claim], hosted: list[Hosted], gated: bool) -> Snapshot:
    """On the thread."""
    if not gated:
        return snapshot.take(claims, hosted)
    gate = Gate()
    try:
        return snapshot.take(claims, hosted, gate)
    finally:
        gate.close()
