"""Reading the configuration again, without interrupting anything that stays the same."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from locum.addresses.gate import Gate
from locum.agent.driver import Driver
from locum.config.environment import check_environment
from locum.config.load import load
from locum.config.model import Settings
from locum.errors import ConfigError, LocumError, UsageError
from locum.events.engine import EventEngine


class Reloader:
    """Applies what may change while a node runs: addresses, script settings, the node's private address."""

    def __init__(
        self,
        settings: Settings,
        driver: Driver,
        engine: EventEngine,
        gate: Gate | None,
        log: Callable[[str, str], None],
    ) -> None:
        self.settings = settings
        self._driver = driver
        self._engine = engine
        self._gate = gate
        self._log = log

    def request(self) -> None:
        """SIGHUP: reload, and log what is wrong."""
        try:
            self.reload()
        except LocumError as error:
            self._log(f"reload: {error}; the configuration stays as it was", "error")

    def reload(self) -> str:
        """Apply the configuration file as it is now; returns what was done. Raises ConfigError or UsageError."""
        from locum.api.serve import identity_of, script_environment  # noqa: PLC0415  (serve imports this module)

        new = load(self.settings.source)
        problems = list(check_environment(new))
        if problems:
            raise ConfigError(new.source, problems)
        old = self.settings
        fixed = {
            "node.name": (old.node.name, new.node.name),
            "cluster.name": (old.cluster.name, new.cluster.name),
            "cluster.store": (old.cluster.store, new.cluster.store),
            "cluster.hold": (old.cluster.hold, new.cluster.hold),
            "paths": (old.paths, new.paths),
        }
        changed = [name for name, (before, after) in fixed.items() if before != after]
        if changed:
            raise UsageError(f"{', '.join(changed)} changed: restart the daemon for that")
        node = self._driver.node
        if self._gate is not None:
            self._gate.configure([a.address for a in new.addresses], _interfaces(new))
        self.settings = new
        self._engine.configure(new.scripts, script_environment(new))
        identity = identity_of(new, node.identity.margin, node.identity.warning)
        self._driver.feed(node.configure, identity)
        # The guard removes public addresses when the agent cannot: it must know the new ones as well.
        os.kill(os.getppid(), signal.SIGUSR1)
        before, after = {a.address for a in old.addresses}, {a.address for a in new.addresses}
        text = f"reloaded: {len(after)} addresses ({len(after - before)} new, {len(before - after)} removed)"
        self._log(text, "info")
        return text


def _interfaces(settings: Settings) -> list[str]:
    return sorted({name for a in settings.addresses for name in a.interfaces})
