"""A service managed by a shipped script, with common settings (``docs/services.md``).

The common needs of services: start and wait, check and restart, stop, note that addresses moved and act on it once. A
service's special needs stay in its script.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Sequence

from locum.script.commands import as_words, run
from locum.script.context import log, public_addresses, setting_list, settings, state_dir
from locum.script.counters import Counters
from locum.script.daemon import monitor_again
from locum.script.failure import Fail
from locum.script.ports import check_port, expect_listen, expect_no_listen, wait_for_port
from locum.script.services import (
    kill_service,
    reload_service,
    run_for_service,
    service_is_running,
    start_service,
    stop_service,
)
from locum.script.waiting import check_directories, wait_for, wait_for_directory

#: Values of the setting ``move`` other than a command.
MOVES = ("nothing", "reset", "reload", "restart")


class ManagedService:
    """The service that a script manages.

    ``unit``: its systemd unit unless the setting ``service`` names another. ``ports``: TCP ports, or a function that
    finds them, unless set. ``needs``: finds directories in addition to those of the setting. ``answers``: called with
    a number of seconds, raises Fail when the service does not answer in time. ``move``: the action when addresses have
    moved, unless set. ``prefix``: see ``script/services.py``.
    """

    def __init__(
        self,
        unit: str | None = None,
        *,
        ports: Sequence[int] | Callable[[], Sequence[int]] = (),
        needs: Callable[[], Sequence[str]] | None = None,
        answers: Callable[[float], None] | None = None,
        move: str = "nothing",
        prefix: str = "",
    ) -> None:
        self._prefix = prefix
        name = self._setting("service", unit)
        self.name = None if name is None else str(name)
        self._ports = ports
        self._needs = needs
        self.managed = self._flag("manage", True)
        self.patience = self._seconds("timeout", 20.0)
        self._answers = answers
        self._move = self._setting("move", move)

    # -- events ----------------------------------------------------------------------------------------------------

    def startup(self) -> None:
        """Wait for the directories, start the service, wait until it is ready, declare its ports. Raises Fail."""
        if self.managed and self._prefix + "start" not in settings() and not self.name and not self._command():
            raise Fail("the service to start is unknown: set 'service', 'command', or 'start' and 'stop'")
        deadline = time.monotonic() + self.patience
        for directory in self.directories():
            if "%" not in directory:  # a template, as in smb.conf(5)
                wait_for_directory(directory, max(deadline - time.monotonic(), 0.0))
        self.start()
        self._forget("failures")
        self._forget("moves")

    def monitor(self) -> None:
        """Raise Fail when the service is unhealthy; restart one that has ended, for the next run."""
        try:
            self.check()
        except Fail as problem:
            self._failed(problem)
            return
        self._forget("failures")
        expect_listen(*self.ports)

    def shutdown(self) -> None:
        """Stop it."""
        expect_no_listen(*self.ports)
        if self.managed:
            stop_service(self.name, timeout=self._seconds("stop-timeout", 10.0), prefix=self._prefix)

    def took(self, address: str) -> None:
        """Note that this node serves the address now; :meth:`recovered` acts on it."""
        self._note("took", address)

    def released(self, address: str) -> None:
        """Note that this node no longer serves the address."""
        self._note("released", address)

    def recovered(self) -> None:
        """Act on moves, once for any number of them. A failure leaves the note: the next run retries."""
        moves = self._moves()
        if not moves:
            return
        self.act_on(moves)
        self._forget("moves")

    # -- parts, for scripts with other procedures --------------------------------------------------------------------

    @property
    def ports(self) -> tuple[int, ...]:
        """The TCP ports on which it must listen."""
        if self._setting("ports") is None:
            return tuple(self._ports() if callable(self._ports) else self._ports)
        try:
            return tuple(int(word) for word in setting_list(self._prefix + "ports"))
        except ValueError:
            raise Fail(f"setting {self._prefix}ports: {self._setting('ports')!r} are not port numbers") from None

    def directories(self) -> list[str]:
        """The directories that must exist."""
        return [*setting_list(self._prefix + "directories"), *(self._needs() if self._needs else ())]

    def command_words(self) -> list[str]:
        """The setting ``command``: the service and its arguments; empty when it is started otherwise."""
        return as_words(self._command() or [])

    def start(self) -> None:
        """Start it, and wait until its ports are open and it answers. Raises Fail."""
        if self.managed:
            start_service(self.name, prefix=self._prefix)
        for port in self.ports:
            wait_for_port(port, timeout=self.patience)
        self._wait_for_answer()
        expect_listen(*self.ports)

    def restart(self) -> None:
        """Stop it and start it. Raises Fail, also when the script does not manage it."""
        if not self.managed:
            raise Fail("it cannot be restarted: 'manage' is false, so the script does not start or stop it")
        expect_no_listen(*self.ports)  # a port that closes on purpose must not trigger monitor
        stop_service(self.name, timeout=self._seconds("stop-timeout", 10.0), prefix=self._prefix)
        self.start()

    def check(self) -> None:
        """Raise Fail with the problem; the cheapest check comes first."""
        for port in self.ports:
            check_port(port)
        # Workers may still have the port when the main process is gone; a service without ports has no other sign.
        if self.managed and self._state_is_known() and (self._command() or not self.ports) and not self._is_running():
            raise Fail(f"{self.name or 'the service'} is not running")
        self._check_answer(self._seconds("check-timeout", 5.0))
        check_directories(*self.directories())

    def act_on(self, moves: Sequence[tuple[str, str]]) -> None:
        """Do what ``move`` says; ``moves`` are pairs of "took" or "released", and an address."""
        if self._move not in MOVES:
            run_for_service(as_words(self._move), self.name, prefix=self._prefix)
        elif self._move == "reset":
            reset_connections(address for what, address in moves if what == "released")
        elif self._move == "reload":
            reload_service(self.name, prefix=self._prefix)
        elif self._move == "restart":
            log("restarting it: addresses have moved")
            self.restart()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _failed(self, problem: Fail) -> None:
        """Count a failure: restart the service if it has ended, and raise ``problem`` unless more are tolerated."""
        failures = Counters(state_dir()).failed(self._prefix + "failures")
        hung_for_too_long = 0 < self._number("restart-after", 0) <= failures
        if self.managed and self._flag("restart", True) and (self._has_ended() or hung_for_too_long):
            problem = _and(problem, "starting it again")
            with contextlib.suppress(Fail):  # the reason of monitor's failure matters more
                expect_no_listen(*self.ports)
                if hung_for_too_long:
                    kill_service(self.name, prefix=self._prefix)
                start_service(self.name, prefix=self._prefix)
        allowed = self._number("failures", 1) - 1
        if failures > allowed:
            raise problem
        log(f"{problem} ({failures} of {allowed} failures in a row that are tolerated)")
        monitor_again()

    def _has_ended(self) -> bool:
        if self._state_is_known():
            return not self._is_running()
        try:
            for port in self.ports:
                check_port(port)
        except Fail:
            return True
        return False

    def _is_running(self) -> bool:
        return service_is_running(self.name, prefix=self._prefix)

    def _state_is_known(self) -> bool:
        """Whether its way of starting shows if it is running: commands ``start`` and ``stop`` alone do not."""
        return bool(self._command() or self._setting("status") or not self._setting("start"))

    def _command(self) -> object:
        return self._setting("command")

    def _wait_for_answer(self) -> None:
        problem = Fail()

        def answered() -> bool:
            nonlocal problem
            try:
                self._check_answer(min(self.patience, self._seconds("check-timeout", 5.0)))
            except Fail as said:
                problem = said
                return False
            return True

        try:
            wait_for("its answer", answered, self.patience)
        except Fail:
            raise problem from None

    def _check_answer(self, timeout: float) -> None:
        if self._answers is not None:
            self._answers(timeout)
        check = self._setting("check")
        if check:
            run(as_words(check), timeout=timeout)

    def _note(self, what: str, address: str) -> None:
        with open(self._path("moves"), "a", encoding="ascii") as file:
            file.write(f"{what} {address}\n")

    def _moves(self) -> list[tuple[str, str]]:
        try:
            with open(self._path("moves"), encoding="ascii") as file:
                return [(what, address.strip()) for what, _, address in (line.partition(" ") for line in file)]
        except FileNotFoundError:
            return []

    def _forget(self, what: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(what))

    def _path(self, what: str) -> str:
        return os.path.join(state_dir(), self._prefix + what)

    def _setting(self, key: str, default: object = None) -> object:
        return settings().get(self._prefix + key, default)

    def _flag(self, key: str, default: bool) -> bool:
        value = self._setting(key, default)
        return value.lower() in ("true", "yes", "on", "1") if isinstance(value, str) else bool(value)

    def _seconds(self, key: str, default: float) -> float:
        value = self._setting(key, default)
        try:
            return float(str(value))
        except ValueError:
            raise Fail(f"setting {self._prefix}{key}: {value!r} is not a number of seconds") from None

    def _number(self, key: str, default: int) -> int:
        return int(self._seconds(key, default))


def _and(problem: Fail, what: str) -> Fail:
    """``problem`` with a remark in its first line, which reports show."""
    first, end, rest = str(problem).partition("\n")
    return Fail(f"{first}; {what}{end}{rest}", problem.status)


def reset_connections(addresses: str | Iterable[str]) -> int:
    """End every TCP connection to those of ``addresses`` that this node no longer serves; return their number.

    The daemon does so when it releases an address; this ends leftovers. Raises Fail when the kernel refuses.
    """
    from locum.connections.destroy import destroy  # noqa: PLC0415
    from locum.errors import LocumError  # noqa: PLC0415

    here = {public.address for public in public_addresses()}
    gone = sorted(({addresses} if isinstance(addresses, str) else set(addresses)) - here)
    if not gone:
        return 0
    try:
        progress = destroy(gone)
    except LocumError as error:
        raise Fail(str(error)) from None
    if progress.destroyed:
        log(f"{progress.destroyed} connections to {', '.join(gone)} ended")
    return progress.destroyed
