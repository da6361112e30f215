"""Compare, every few seconds, the addresses that this node serves with its kernel; repair, or report.

This file decides nothing about addresses. :mod:`locum.machine.audit` finds the faults. When repairs of an address have
failed several times in a row, the rules receive this as an input and give the address up. A separate thread reads the
kernel, so that a kernel that does not answer blocks nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable

from locum import tasks
from locum.clock import boottime
from locum.errors import LocumError
from locum.machine import snapshot
from locum.machine.audit import Claim, Finding, Snapshot, findings
from locum.machine.gate.gate import Gate
from locum.node.driver import Driver
from locum.node.steps import Steps
from locum.rules.schema import HostedAddress
from locum.threads import NoAnswer, Worker

#: Seconds between two audits; at least this multiple of the last one's duration.
INTERVAL, SHARE = 5.0, 50.0
#: Delay of an audit after its trigger, in seconds, so that related changes are examined together.
TRIGGERED = 0.3
#: Limit for the kernel to answer all questions of an audit, in seconds.
PATIENCE = 20.0
#: An address that was repaired in this many audits in a row, and needs it again, is given up.
REPAIRS = 3
#: Kinds of findings that are normal for a moment after an address was configured: they count when seen twice in a row.
PASSING = frozenset({"tentative", "undelivered"})
#: Kinds of findings with which an address does not work.
FATAL = frozenset({"missing", "duplicate", "tentative", "undelivered", "gate"})


class Auditor:
    """The audit of one node. ``gated``: the kernel's gate is in use. ``others`` returns current problems found
    elsewhere, without a consequence, that administrators should know. ``compare`` looks for public addresses that are
    not served here, and removes them: once more after a removal that the kernel refused."""

    def __init__(
        self,
        driver: Driver,
        steps: Steps,
        gated: bool,
        log: Callable[[str, str], None],
        others: Callable[[], Iterable[str]] = tuple,
        compare: Callable[[], None] = lambda: None,
    ) -> None:
        self._driver = driver
        self._steps = steps
        self._gated = gated
        self._others = others
        self._compare = compare
        self._log = log
        self._worker = Worker("audit")
        self._task: asyncio.Task[None] | None = None
        self._trigger = asyncio.Event()
        #: Duration of the last look at the kernel, in seconds.
        self.cost = 0.0
        # (kind, address) -> audits in a row in which it was repaired.
        self._repaired: dict[tuple[str, str], int] = {}
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
        """Audit now rather than later: a relevant change may have happened."""
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
                # A defect in this code must not end the auditing.
                self._tell((f"the audit has failed: unexpected {type(error).__name__}: {error}",))

    async def audit(self) -> None:
        """One audit."""
        self._compare()
        # Events for the last audit's removals have long arrived; missing ones must not hide a removal by others.
        self._steps.addresses.expected_removals.clear()
        began = boottime()
        try:
            if self._gated:
                await self._steps.gate.done(PATIENCE)
                began = boottime()
            claims, configured = self._claims(), frozenset(self._steps.addresses.configured)
            hosted = list(self._driver.node.hosted.values())
            seen = await self._worker.run("auditing the kernel", PATIENCE, _look, claims, hosted, self._gated)
        except (NoAnswer, LocumError) as error:
            self._tell((f"the kernel could not be compared with the addresses served here: {error}",))
            return
        self.cost = boottime() - began
        present = {claim.address: claim for claim in self._claims()}
        steady = [claim for claim in claims if present.get(claim.address) == claim]
        if len(steady) < len(claims):
            # Addresses that moved meanwhile are examined next time.
            self._trigger.set()
        found = findings(steady, hosted, seen)
        # This also mutes addresses that were released or dropped since the audit began.
        await self._follow(f for f in found if f.action != "deny" or configured.isdisjoint(f.addresses))

    def _claims(self) -> list[Claim]:
        moving = self._driver.node.moving
        held = self._steps.addresses.held.items()
        return [Claim(address, bits, name) for address, (bits, name) in held if address != moving]

    # -- consequences ----------------------------------------------------------------------------------------

    async def _follow(self, found: Iterable[Finding]) -> None:
        repaired: dict[tuple[str, str], int] = {}
        texts = []
        for finding in found:
            if finding.action == "warn":
                texts.append(f"{finding.text} ({finding.advice})" if finding.advice else finding.text)
            elif finding.action == "order":
                await self._order(finding, repaired, texts)
            elif finding.action != "hint":
                for address in finding.addresses:
                    await self._repair(finding, address, repaired, texts)
        for address, problem in self._steps.announcements.unannounced.items():
            if address in self._steps.addresses.held:
                texts.append(f"{address} could not be announced ({problem}): neighbours may still send elsewhere")
                self._steps.announcements.once(self._steps.addresses.held[address][1], address)
        self._repaired = repaired
        self._tell((*texts, *self._others()))

    async def _order(self, finding: Finding, repaired: dict[tuple[str, str], int], texts: list[str]) -> None:
        key = (finding.kind, finding.interface)
        repaired[key] = self._repaired.get(key, 0) + 1
        held = self._steps.addresses.held
        addresses = [address for address in finding.addresses if address in held]
        if repaired[key] > REPAIRS:
            texts.append(finding.text)
            return
        self._log(f"{finding.text}: putting the public ones behind it", "warning")
        problem = await self._steps.addresses.put_last(addresses)
        if problem:
            texts.append(f"{finding.text}: {problem}")
        # Routes that name them as their source are gone.
        self._driver.feed(self._driver.node.scripts_forget, addresses)

    async def _repair(
        self, finding: Finding, address: str, repaired: dict[tuple[str, str], int], texts: list[str]
    ) -> None:
        node, steps = self._driver.node, self._steps
        if finding.action == "deny":
            if address not in steps.addresses.configured:
                self._log(f"{finding.text}: muting it", "warning")
                await steps.gate.mute(address)
            return
        if address not in steps.addresses.held or address == node.moving:
            return
        times = repaired[finding.kind, address] = self._repaired.get((finding.kind, address), 0) + 1
        if finding.kind in PASSING and times == 1:
            self._trigger.set()
            return
        if times > REPAIRS:
            if finding.kind in FATAL:
                self._driver.feed(node.address_unfit, address, finding.interface, finding.text)
            else:
                texts.append(finding.text)
            return
        if finding.action == "restore":
            self._driver.feed(node.address_removed, address, finding.interface)
            return
        self._log(f"{finding.text}: repairing it", "warning")
        if finding.action == "allow":
            await steps.gate.let_through(address)
        elif finding.action == "renew":
            await steps.addresses.renew(address)
        elif finding.action == "replace":
            if await steps.addresses.replace(address):
                self._driver.feed(node.address_removed, address, finding.interface)
            self._driver.feed(node.scripts_forget, [address])

    def _tell(self, texts: tuple[str, ...]) -> None:
        for text in texts:
            if text not in self._said:
                self._log(text, "warning")
        self._said = frozenset(texts)
        self._driver.feed(self._driver.node.warnings_changed, "audit", texts)


def _look(claims: list[Claim], hosted: list[HostedAddress], gated: bool) -> Snapshot:
    """On the thread."""
    if not gated:
        return snapshot.take(claims, hosted)
    gate = Gate()
    try:
        return snapshot.take(claims, hosted, gate)
    finally:
        gate.close()
