"""Carry out admin commands: commit the plan of :mod:`locum.rules.admin`, then wait for its effect.

A command is confirmed only after the store accepted its commit (I9). It says so when the effect is not complete within
the time that it may wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from locum.api.model import AdminResult
from locum.clock import boottime
from locum.config.model import Settings
from locum.errors import StoreUnavailable, UsageError
from locum.events.inside import Inside
from locum.node.driver import Driver
from locum.rules.admin import TRIES, AdminChange, WaitFor, default_tunables, parse_request, plan_command
from locum.rules.occurrences import Occurrence, key_of
from locum.store.base import carry_out

#: Limit for one commit, and then for the view to show it, in seconds.
COMMIT_LIMIT = 5.0


class AdminOperations:
    """Admin commands of one agent. ``settings`` returns the configuration in force; ``tell`` receives each command that
    took effect, for the history."""

    def __init__(
        self, driver: Driver, settings: Callable[[], Settings], tell: Callable[[Occurrence], None] = lambda _: None
    ) -> None:
        self._driver = driver
        self._settings = settings
        self._tell = tell

    async def run(self, message: Mapping[str, object], inside: Inside | None = None, by: str = "") -> AdminResult:
        """One command, given ``by`` someone. Raises UsageError (with the reason) or StoreUnavailable.

        ``inside``: the script that gives the command. Its effect may need the end of that script's event, so the
        command does not wait for it.
        """
        request = parse_request(message)
        view, local = self._driver.node.view, self._driver.node.status().name
        for _ in range(TRIES):
            change = plan_command(view, request, local=local, wall=time.time())
            changed = bool(change.operations)
            if not changed or await self._commit(change, inside.script if inside is not None else by):
                if inside is not None and change.wait is not None:
                    note = f"addresses move when {inside} has ended, so this is not waited for"
                    return AdminResult(change.message, (*change.warnings, note), changed)
                # An earlier change may still be in progress.
                pending = await self._wait(change.wait) if change.wait is not None else ""
                return AdminResult(change.message, change.warnings, changed, complete=not pending, pending=pending)
        raise UsageError("the cluster kept changing while the command was tried: try again")

    async def tunable_defaults(self, message: Mapping[str, object]) -> AdminResult:
        """Set the tunables of the configuration that have never been set (``00.locum`` requests it)."""
        values = self._settings().tunables
        await self._until(lambda: self._driver.node.view.loaded, COMMIT_LIMIT)
        for _ in range(TRIES):
            change = default_tunables(self._driver.node.view, values)
            if change is None:
                return AdminResult("every tunable of the configuration is set", changed=False)
            if await self._commit(change, "the configuration"):
                return AdminResult(change.message, change.warnings)
        raise UsageError("the tunables kept changing: try again")

    async def _commit(self, change: AdminChange, by: str) -> bool:
        """Whether the change took effect; False when another change came first, which the view now shows."""
        view = self._driver.node.view
        try:
            async with asyncio.timeout(COMMIT_LIMIT):
                result = await carry_out(self._driver.store, change.commit)
        except TimeoutError:
            raise StoreUnavailable(
                f"the store has not answered within {COMMIT_LIMIT:g} s: the change may or may not be made; "
                "look at 'locum status'"
            ) from None
        if result.accepted:
            local = self._driver.node.status().name
            key = key_of(result.revision, "command", local)
            self._tell(Occurrence(key, "command", time.time(), local, command=change.message, by=by))
        # Our own watch shows the commit, or its obstacle; revisions of other prefixes never come, hence the limit.
        await self._until(lambda: view.revision >= result.revision, 0.5)
        return result.accepted

    async def _wait(self, wait: WaitFor) -> str:
        """Wait for the effect; return what is missing after the time limit, or ""."""
        view = self._driver.node.view
        done = await self._until(lambda: not wait.missing(view) or wait.hopeless(view) is not None, wait.seconds)
        if done and not wait.missing(view):
            return ""
        return wait.hopeless(view) or wait.pending(view, time.time())

    async def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Whether ``condition`` came true within ``seconds``; tested after every change of the view."""
        end = boottime() + seconds
        while not condition():
            left = end - boottime()
            if left <= 0 or not await self._driver.wait_for_change(left):
                return condition()
        return True
