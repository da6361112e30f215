"""Read the configuration again, without interrupting anything that does not change."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from locum import tasks
from locum.config.changes import differences, needs_restart, taken_up
from locum.config.environment import check_environment
from locum.config.load import load
from locum.config.model import Settings
from locum.errors import ConfigError, LocumError
from locum.events.engine import EventEngine
from locum.node.configured import identity_of, script_environment
from locum.node.driver import Driver
from locum.node.guard.enforcement import public_interfaces
from locum.node.reconfiguration import Reconfiguration
from locum.rules.identity import Identity
from locum.threads import Worker

if TYPE_CHECKING:
    from locum.store.etcd import EtcdStore

#: Limit for reading the configuration's files, in seconds.
PATIENCE = 10.0


class ReloadResult(msgspec.Struct, frozen=True):
    """The result of a reload: ``changes`` in force now, ``ignored`` settings that differ and need a restart,
    ``warnings`` about credentials."""

    changes: tuple[str, ...]
    ignored: tuple[str, ...]
    warnings: tuple[str, ...] = ()


class Reloader:
    """Applies settings that may change while a node runs: addresses, scripts, connections, credentials.

    The order in which the parts learn of new settings is that of :class:`locum.node.reconfiguration.Reconfiguration`.
    """

    def __init__(
        self,
        settings: Settings,
        driver: Driver,
        engine: EventEngine,
        reconfiguration: Reconfiguration,
        log: Callable[[str, str], None],
        credentials: EtcdStore | None = None,
    ) -> None:
        self.settings = settings
        self._credentials = credentials
        self._worker = Worker("configuration", room=4)
        self._reconfiguration = reconfiguration
        self._driver = driver
        self._engine = engine
        self._log = log
        #: Called after a reload that has changed something, with the new settings in force.
        self.on_change: Callable[[], None] = lambda: None
        #: Called with the new settings.
        self.on_reload: Callable[[Settings], None] = lambda _: None

    def request(self) -> None:
        """SIGHUP: reload, and log problems."""
        tasks.start(self._reload_and_log(), "reloading the configuration")

    async def _reload_and_log(self) -> None:
        try:
            await self.reload()
        except LocumError as error:
            self._log(f"reload: {error}; the previous configuration stays in force", "error")

    async def reload(self) -> ReloadResult:
        """Apply the configuration file as it is now.

        Raises ConfigError, or NoAnswer when its file system does not answer. Then nothing has changed, and status warns
        until a reload succeeds.
        """
        async with self._reconfiguration.one:
            try:
                new = await self._worker.run("reading the configuration", PATIENCE, _read, self.settings)
            except LocumError as error:
                self._warn(_unusable(error))
                raise
            changes, ignored = await self._apply(new)
            self._warn("")
            warnings: tuple[str, ...] = ()
            if self._credentials is not None:
                changes += await self._credentials.reread_credentials(self.settings.cluster.etcd)
                warnings = self._credentials.credential_warnings
        nothing = "nothing has taken effect" if ignored or warnings else "nothing has changed"
        self._log("reloaded: " + ("; ".join(changes) or nothing), "info")
        # The sender of SIGHUP gets its answer only from the log.
        for setting in ignored:
            self._log(f"reload: {setting} has changed; restart the daemon to apply it", "warning")
        return ReloadResult(changes, ignored, warnings)

    async def look(self) -> None:
        """Warn when the configuration in force could not be read now: a restarted agent does not read it, and does not
        know the warnings of an earlier one."""
        async with self._reconfiguration.one:
            try:
                await self._worker.run("reading the configuration", PATIENCE, _read, self.settings)
            except LocumError as error:
                self._warn(_unusable(error))

    def _warn(self, text: str) -> None:
        self._driver.feed(self._driver.node.warnings_changed, "configuration", (text,) if text else ())

    async def _apply(self, new: Settings) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Put ``new`` in force; return the changes, and the settings that need a restart."""
        old = self.settings
        ignored = needs_restart(old, new)
        # Settings that need a restart keep their old values from here on.
        new = taken_up(old, new)

        def put_in_force() -> Identity:
            self.settings = new
            self.on_reload(new)
            self._engine.configure(new.scripts, script_environment(new))
            present = self._driver.node.status().identity
            return identity_of(new, present.margin, present.warning, present.machine)

        await self._reconfiguration.apply([a.address for a in new.addresses], public_interfaces(new), put_in_force)
        self.on_change()
        return differences(old, new), ignored


def tell_guard() -> None:
    """Make the guard read the configuration again."""
    os.kill(os.getppid(), signal.SIGUSR1)


def _read(old: Settings) -> Settings:
    """The configuration that follows ``old``; blocks, so it runs on a thread. Raises ConfigError with all problems."""
    new = load(old.source)
    # A running node continues with the last good credentials, whatever the state of their files.
    problems = check_environment(new, with_credentials=False)
    file = old.paths.public_addresses
    if file is not None and new.paths.public_addresses is None and not new.addresses:
        # The file with the default name. Its loss must not be read as the wish to serve no address.
        problems.append(
            f"{file}: it was in use and is gone; restore it, or create an empty file for no public addresses"
        )
    if problems:
        raise ConfigError(new.source, problems)
    return new


def _unusable(error: LocumError) -> str:
    """The warning while the configuration cannot be reloaded."""
    first, *others = str(error).splitlines()
    more = f" (and {len(others)} more)" if others else ""
    return f"the configuration cannot be read: {first}{more}. The previous one stays in force until a reload succeeds"
