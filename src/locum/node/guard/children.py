"""The guard's children: how each kind is started, and when one that died is started again.

The agent is *forked* from the guard, which has imported everything that an agent needs and never runs any of it. So a
new agent is at work some milliseconds after the old one died, also on a machine that is short of time, and the two
share their memory. Other children are programs of their own, executed by the fork: the guard does not wait until that
has happened, for it reads files.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence

from locum.errors import LocumError
from locum.lines import standard_error, take_standard_error
from locum.node.guard.ports import ProcessPort
from locum.node.guard.system_calls import die_with_parent, name_process
from locum.node.guard.wakeups import HANDLED

#: Exit status of an agent that can never do its work; it is not started again. (sysexits.h: EX_CONFIG)
EXIT_HOPELESS = 78
#: What the agent is called in ``ps -o comm``.
AGENT_NAME = "locum-agent"
#: A child that dies within this many seconds of its start has failed to start.
QUICK_DEATH = 5.0
#: After this many quick deaths in a row, each new start waits, one second more each time up to the longest.
FREE_STARTS, LONGEST_PAUSE = 3, 10.0


class _Forked:
    """A child made by fork."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)


def forked(name: str, work: Callable[[], int]) -> Callable[[], ProcessPort]:
    """A starter of children that run ``work`` in a fork of this process; its result is the exit status."""

    def start() -> ProcessPort:
        # Collections in the child would write to, and so copy, pages that it shares with the guard.
        gc.freeze()
        pid = os.fork()
        if pid:
            return _Forked(pid)
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in HANDLED:
                signal.signal(number, signal.SIG_DFL)
            name_process(name)
            take_standard_error()
            status = work()
        except LocumError as error:
            print(f"locum: {error}", file=sys.stderr)
        except BaseException:  # the child must never return into the guard's code
            traceback.print_exc()
        finally:
            standard_error.drain()
            os._exit(status)

    return start


def program(module: str, arguments: Sequence[str]) -> Callable[[], ProcessPort]:
    """A starter of children that run ``python -m MODULE ARGUMENTS``, and are asked to end when this process dies."""
    guard = os.getpid()

    def execute() -> int:
        # One that is left over would keep its socket, and its file, from the next guard's.
        die_with_parent(signal.SIGTERM, guard)
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.execv(sys.executable, [sys.executable, "-m", module, *arguments])

    return forked(module.rpartition(".")[2], execute)


class Child:
    """One supervised child, started by ``starter``."""

    def __init__(self, name: str, starter: Callable[[], ProcessPort]) -> None:
        self.name = name
        self._starter = starter
        self._process: ProcessPort | None = None
        self._started = 0.0
        self._deaths = 0
        #: When to start it (again), CLOCK_BOOTTIME seconds; only meaningful while it does not run.
        self.start_at = 0.0

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process is not None else None

    def start(self, now: float) -> None:
        """Start it."""
        self._process = self._starter()
        self._started = now

    def ended(self, now: float) -> int | None:
        """Its exit status (negative: minus the signal) when it has ended since the last look; sets ``start_at``."""
        status = self._process.poll() if self._process is not None else None
        if status is None:
            return None
        self._process = None
        self._deaths = self._deaths + 1 if now - self._started < QUICK_DEATH else 0
        self.start_at = now + min(max(self._deaths - FREE_STARTS, 0), LONGEST_PAUSE)
        return status

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it runs (it is not reaped before :meth:`ended` sees its end, so the id is its own)."""
        if self._process is not None:
            self._process.signal(number)
