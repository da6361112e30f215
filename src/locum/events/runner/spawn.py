"""Starts executable scripts.

Rules of this file: posix_spawn(3), because it does not copy our memory first: half the cost of fork and exec.
The runner has set for itself what posix_spawn cannot set for the script (working directory, umask).
"""

from __future__ import annotations

import os
import signal

from locum.events.runner.descriptors import Descriptors
from locum.events.runner.protocol import Job
from locum.events.runner.results import CANNOT_EXECUTE, NOT_FOUND

#: Signals that Python or the runner ignores and that scripts have at their default.
IGNORED_BY_RUNNER = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ)
#: In the environment of all processes of one run; names that run while its process number is not on file.
TOKEN = "LOCUM_RUN"


class CannotStart(Exception):
    """A script could not be executed. ``status`` is that of a shell in this case."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


class Spawned:
    """A running executable script.

    ``pid`` leads a session of its own; ``handle`` is a pidfd; ``output`` the reading end of its standard output and
    error. The owner of the object calls :meth:`close`.
    """

    def __init__(self, job: Job, token: str) -> None:
        """Start it. Raises :class:`CannotStart`, and OSError when a resource is exhausted."""
        self._descriptors = Descriptors()
        try:
            self.output, output = self._descriptors.pipe()
            os.set_blocking(self.output, False)
            null = self._descriptors.keep(os.open("/dev/null", os.O_RDONLY))
            self.pid = self._spawn(job, token, null, output)
            self._descriptors.shut(output)
            self.handle = self._descriptors.keep(os.pidfd_open(self.pid))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close every descriptor."""
        self._descriptors.close()

    @staticmethod
    def _spawn(job: Job, token: str, null: int, output: int) -> int:
        try:
            return os.posix_spawn(
                job.path,
                job.command,
                {**job.environment, TOKEN: token},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, null, 0),
                    (os.POSIX_SPAWN_DUP2, output, 1),
                    (os.POSIX_SPAWN_DUP2, output, 2),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=IGNORED_BY_RUNNER,
            )
        except FileNotFoundError:
            reason = "its interpreter does not exist" if os.path.exists(job.path) else "it no longer exists"
            raise CannotStart(f"cannot start {job.path}: {reason}", NOT_FOUND) from None
        except OSError as error:
            raise CannotStart(f"cannot start {job.path}: {error.strerror}", CANNOT_EXECUTE) from None
