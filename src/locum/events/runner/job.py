"""One script to run for one event, and the exit statuses that Locum assigns."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence

#: Exit statuses of a script that could not be started, as in the shell.
CANNOT_EXECUTE = 126
NOT_FOUND = 127
#: Exit status of one that the time-out ended, as timeout(1) has it.
TIMED_OUT = 124

#: Signals that Python or the runner ignores and that scripts have at their default.
IGNORED_BY_RUNNER = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ)


class Job:
    """Everything that is needed to start a script."""

    __slots__ = ("arguments", "environment", "event", "name", "path", "python")

    def __init__(
        self,
        *,
        name: str,
        path: str,
        python: bool,
        event: str,
        arguments: Sequence[str],
        environment: dict[str, str],
    ) -> None:
        self.name = name
        self.path = path
        self.python = python
        self.event = event
        self.arguments = list(arguments)
        self.environment = environment

    @property
    def command(self) -> list[str]:
        """The end of its command line, after an interpreter."""
        return [self.path, self.event, *self.arguments]

    def encode(self) -> bytes:
        """As one line."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__}).encode() + b"\n"
