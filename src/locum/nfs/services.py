"""The daemons of an NFS server, each started and stopped according to its settings.

This file knows how to start and stop them, but not when. A daemon ``statd`` has the settings ``statd_service`` (a
systemd unit), or ``statd_command`` (itself, in the foreground), or ``statd_start`` and ``statd_stop`` (commands), and
then optionally ``statd_status`` (a command that succeeds while it runs).
"""

from __future__ import annotations

from locum.script import (
    kill_service,
    service_is_changing,
    service_is_running,
    settings,
    start_service,
    stop_service,
)


class Daemon:
    """One daemon; ``kind`` is the prefix of its settings, ``unit`` its systemd unit unless the settings name one.

    Without a unit and without settings, it is not managed.
    """

    def __init__(self, kind: str, unit: str = "") -> None:
        self._prefix = f"{kind}_"
        self.name = str(settings().get(f"{self._prefix}service") or unit or kind)
        self._by_commands = bool(settings().get(f"{self._prefix}start"))
        #: Whether :meth:`running` is reliable.
        self.tells = not self._by_commands or bool(settings().get(f"{self._prefix}status"))
        self.managed = bool(unit) or any(settings().get(self._prefix + key) for key in ("service", "command", "start"))

    def start(self) -> None:
        """Start it unless it runs. Raises Fail."""
        if self.managed:
            start_service(self.name, prefix=self._prefix)

    def stop(self) -> None:
        """Stop it if it runs. Raises Fail."""
        if self.managed:
            stop_service(self.name, prefix=self._prefix)

    def kill(self) -> None:
        """End it at once. A daemon with commands is stopped, which may take longer. Raises Fail."""
        if self._by_commands:
            self.stop()
        elif self.managed:
            kill_service(self.name, prefix=self._prefix)

    def running(self) -> bool:
        """Whether it runs, as far as its manager knows."""
        return not self.managed or service_is_running(self.name, prefix=self._prefix)

    def changing(self) -> bool:
        """Whether its manager is starting, stopping or restarting it at this moment."""
        return self.managed and service_is_changing(self.name, prefix=self._prefix)
