"""Reading the configuration again, without interrupting anything that stays the same."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable

import msgspec

from locum.addresses.gate import Gate
from locum.agent.driver import Driver
from locum.config.environment import check_environment
from locum.config.load import load
from locum.config.model import Settings
from locum.errors import ConfigError, LocumError
from locum.events.engine import EventEngine
from locum.guard.gatekeeper import public_interfaces


class ReloadResult(msgspec.Struct, frozen=True):
    """What a reload did: ``changes`` in force now, ``ignored`` settings that differ and need a restart."""

    changes: tuple[str, ...]
    ignored: tuple[str, ...]


class Reloader:
    """Applies what may change while a node runs: addresses, settings of scripts and of connections.

    ``present`` returns the addresses that are on this machine. One that the configuration has no more is ``leaving``:
    the gate's business until it has been released (:meth:`gone`), because until then it is held like the others.
    """

    def __init__(
        self,
        settings: Settings,
        driver: Driver,
        engine: EventEngine,
        gate: Gate | None,
        present: Callable[[], Iterable[str]],
        leaving: Iterable[str],
        log: Callable[[str, str], None],
    ) -> None:
        self.settings = settings
        self._present = present
        self._leaving = set(leaving)
        self._interfaces = public_interfaces(settings)
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

    def reload(self) -> ReloadResult:
        """Apply the configuration file as it is now. Raises ConfigError, and then nothing has changed."""
        from locum.api.serve import identity_of, script_environment  # noqa: PLC0415  (serve imports this module)

        new, old = load(self.settings.source), self.settings
        problems = list(check_environment(new))
        if problems:
            raise ConfigError(new.source, problems)
        ignored = [name for name, before, after in _fixed(old, new) if before != after]
        # What needs a restart stays as it was in everything that follows.
        new = msgspec.structs.replace(new, node=old.node, cluster=old.cluster, paths=old.paths)
        self._leaving = {*self._leaving, *self._present()} - {a.address for a in new.addresses}
        self._judge(new)
        self.settings = new
        self._engine.configure(new.scripts, script_environment(new))
        node = self._driver.node
        self._driver.feed(node.configure, identity_of(new, node.identity.margin, node.identity.warning))
        # The guard removes public addresses when the agent cannot: it must know the new ones as well.
        os.kill(os.getppid(), signal.SIGUSR1)
        changes = _changes(old, new)
        self._log("reloaded: " + ("; ".join(changes) or "nothing has changed"), "info")
        # Whoever sent SIGHUP has no other answer than the log.
        for setting in ignored:
            self._log(f"reload: {setting} has changed: restart the daemon for that", "warning")
        return ReloadResult(tuple(changes), tuple(ignored))

    def gone(self, address: str) -> None:
        """``address`` has left this machine."""
        if address in self._leaving:
            self._leaving.discard(address)
            try:
                self._judge(self.settings)
            except LocumError as error:
                self._log(str(error), "error")

    def _judge(self, settings: Settings) -> None:
        """Have the gate judge the addresses of ``settings``, and those that are still here. Raises NetlinkError."""
        interfaces = public_interfaces(settings)
        self._interfaces = sorted({*interfaces, *self._interfaces}) if self._leaving else interfaces
        if self._gate is not None:
            public = [*(a.address for a in settings.addresses), *sorted(self._leaving)]
            self._gate.configure(public, self._interfaces)


def _fixed(old: Settings, new: Settings) -> list[tuple[str, object, object]]:
    """What cannot change while the daemon runs: name, before, after."""
    return [
        ("node.name", old.node.name, new.node.name),
        ("node.number", old.node.number, new.node.number),
        ("node.private_address", old.node.private_address, new.node.private_address),
        ("cluster.name", old.cluster.name, new.cluster.name),
        ("cluster.store", old.cluster.store, new.cluster.store),
        ("cluster.hold", old.cluster.hold, new.cluster.hold),
        ("cluster.etcd", old.cluster.etcd, new.cluster.etcd),
        ("paths", old.paths, new.paths),
        ("log", old.log, new.log),
    ]


def _changes(old: Settings, new: Settings) -> list[str]:
    """What the reload changed, in words."""
    before, after = {a.address: a for a in old.addresses}, {a.address: a for a in new.addresses}
    changes = [f"address {a} added" for a in after if a not in before]
    changes += [f"address {a} removed" for a in before if a not in after]
    changes += [f"address {a} changed" for a in after if a in before and before[a] != after[a]]
    names = sorted({*old.scripts, *new.scripts})
    changes += [f"settings of {n} changed" for n in names if old.scripts.get(n) != new.scripts.get(n)]
    if old.connections != new.connections:
        changes.append("settings of connections changed")
    if old.tunables != new.tunables:
        # The cluster's are in the store: neither a reload nor a restart takes one away that somebody has set.
        changes.append("initial values of tunables changed: 'locum tunable set' changes those in force")
    return changes
