"""Starts and stops the service that a script manages.

Three ways, chosen by the script's settings: ``start`` and ``stop`` are commands; ``command`` is the service itself, in
the foreground, and is started detached from the script; otherwise ``service`` is a systemd unit. A detached service has
its own session, so that it survives the script, the runner and the daemon.

A script that manages two services reads the settings of the second with a ``prefix``: ``winbind-`` makes them
``winbind-command``, ``winbind-start`` and so on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from locum.processes import boot_id, is_alive, kill, kill_session, process
from locum.script.commands import as_words, run
from locum.script.context import required, script_name, settings
from locum.script.failure import Fail
from locum.script.waiting import wait_for

#: A detached service's log is renamed at its next start when it is larger than this, bytes.
_LOG_LIMIT = 1 << 20


def start_service(name: str | None = None, *, command: object = None, prefix: str = "") -> None:
    """Start the service unless it is running. Raises Fail when it cannot be started.

    ``command`` replaces the settings: the service itself, in the foreground. ``name`` is the setting ``service`` or
    the script's own (``web`` of ``50.web``). It may not be ready yet: wait for its port.
    """
    start = _setting("start", prefix)
    direct = command or _setting("command", prefix)
    if direct:
        _start_detached(_name(name, prefix), as_words(direct))
    elif start:
        run_for_service(as_words(start), name, prefix=prefix)
    else:
        run(["systemctl", "start", _name(name, prefix)])


def stop_service(name: str | None = None, *, timeout: float = 10.0, prefix: str = "") -> None:
    """Stop the service; nothing happens when it is not running. A detached service gets SIGTERM and after
    ``timeout`` seconds SIGKILL, with everything in its session."""
    stop = _setting("stop", prefix)
    own = _name(name, prefix)
    if stop:
        run(as_words(stop))
    elif _was_detached(own):
        _stop_detached(own, timeout)
    elif not _is_direct(prefix):
        run(["systemctl", "stop", own])


def reload_service(name: str | None = None, *, prefix: str = "") -> None:
    """Make the service read its configuration again: by the command in the setting ``reload``, else by SIGHUP to one
    that was started detached, else by systemd. Raises Fail when that fails or is impossible."""
    reload = _setting("reload", prefix)
    own = _name(name, prefix)
    recorded = _recorded(own)
    if reload:
        run_for_service(as_words(reload), name, prefix=prefix)
    elif recorded is not None:
        if not is_alive(*recorded):
            raise Fail(f"{own} is not running")
        kill(*recorded, signal.SIGHUP)
    elif not _is_direct(prefix):
        run(["systemctl", "reload", own])
    else:
        raise Fail("the service cannot be reloaded: set 'reload' to a command")


def kill_service(name: str | None = None, *, prefix: str = "") -> None:
    """Kill all processes of the service at once. With ``start`` and ``stop`` commands it is only stopped."""
    own = _name(name, prefix)
    if _was_detached(own):
        _stop_detached(own, 0)
    elif stop := _setting("stop", prefix):
        run(as_words(stop))
    elif not _is_direct(prefix):
        run(["systemctl", "kill", "--signal=SIGKILL", own])


def service_is_running(name: str | None = None, *, prefix: str = "") -> bool:
    """Whether the service is running, as far as its way of starting shows. With ``start`` and ``stop`` commands, the
    setting ``status`` tells: a command that succeeds while the service is running."""
    own = _name(name, prefix)
    if _was_detached(own):
        recorded = _recorded(own)
        return recorded is not None and is_alive(*recorded)
    status = _setting("status", prefix)
    if status:
        return run(as_words(status), check=False).status == 0
    if _is_direct(prefix):
        return False
    return run(["systemctl", "is-active", "--quiet", own], check=False).status == 0


def service_is_changing(name: str | None = None, *, prefix: str = "") -> bool:
    """Whether systemd is starting, stopping or restarting the service's unit at this moment. Services that are not a
    unit are not watched by it: False."""
    own = _name(name, prefix)
    if _is_direct(prefix) or _was_detached(own):
        return False
    # "Job" is shown while a job of the unit is pending (org.freedesktop.systemd1(5)).
    return bool(run(["systemctl", "show", "--property=Job", "--value", own], check=False).output.strip())


def service_log(name: str | None = None, *, prefix: str = "") -> str:
    """The file with the output of a detached service."""
    return _file("LOCUM_STATE", _name(name, prefix), "log")


def run_for_service(command: list[str], name: str | None = None, *, prefix: str = "") -> None:
    """Run a command that may leave a service behind, such as one that starts it. Its output goes to the service's log.
    Raises Fail when the command fails."""
    run(command, log=_put_aside(service_log(name, prefix=prefix)))


def _setting(key: str, prefix: str) -> object:
    return settings().get(prefix + key)


def _is_direct(prefix: str) -> bool:
    return any(_setting(key, prefix) for key in ("command", "start"))


def _name(name: str | None, prefix: str = "") -> str:
    return str(name or _setting("service", prefix) or script_name().split(".", 1)[-1])


def _file(variable: str, wanted: str, suffix: str) -> str:
    """A file about a detached service. It is not in the script's state directory, which is emptied when the daemon
    starts, while a service may continue."""
    directory = os.path.join(required(variable), "services")
    os.makedirs(directory, exist_ok=True)
    own = script_name()
    return os.path.join(directory, f"{own}.{suffix}" if own.endswith(f".{wanted}") else f"{own}-{wanted}.{suffix}")


def _record_path(name: str) -> str:
    return _file("LOCUM_RUNTIME", name, "pid")


def _recorded(name: str) -> tuple[int, int] | None:
    """Process number and start time of a service that was started detached since the machine's boot."""
    try:
        with open(_record_path(name), encoding="ascii") as file:
            pid, start, boot = file.read().split()
        return (int(pid), int(start)) if boot == boot_id() else None
    except (OSError, ValueError):
        return None


def _was_detached(name: str) -> bool:
    """Whether the service was started detached since the last boot. Its record is emptied at its end, not removed:
    otherwise a second stop would ask systemd for a unit that does not exist."""
    return os.path.exists(_record_path(name))


def _put_aside(log: str) -> str:
    with contextlib.suppress(FileNotFoundError):
        if os.path.getsize(log) > _LOG_LIMIT:
            os.replace(log, log + ".1")
    return log


def _start_detached(name: str, words: list[str]) -> None:
    import subprocess  # noqa: PLC0415

    recorded = _recorded(name)
    if recorded is not None:
        if is_alive(*recorded):
            return
        _stop_detached(name, 0)  # workers that outlived the main process still have the port
    log = _put_aside(service_log(name))
    with open(log, "ab") as output:
        try:
            service = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                # The service does not get the variables of the event script.
                env={key: value for key, value in os.environ.items() if not key.startswith("LOCUM_")},
            )
        except (OSError, IndexError) as error:
            raise Fail(f"cannot start {' '.join(words)!r}: {error}") from None
    found = process(service.pid)
    with open(_record_path(name), "w", encoding="ascii") as file:
        file.write(f"{service.pid} {found.start if found else 0} {boot_id()}\n")
    # A faulty service ends within moments; reporting that now is better than waiting for its port in vain.
    deadline = time.monotonic() + 0.05
    while time.monotonic() < deadline:
        if (status := service.poll()) not in (None, 0):
            with open(log, "rb") as file:
                file.seek(max(os.path.getsize(log) - 2000, 0))
                said = file.read().decode("utf-8", "backslashreplace").strip()
            raise Fail(f"{' '.join(words)} ended at once with status {status}" + (f"\n{said}" if said else ""))
        time.sleep(0.005)
    service.returncode = 0  # this process does not wait for it: avoids a warning


def _stop_detached(name: str, timeout: float) -> None:
    recorded = _recorded(name)
    if recorded is None:
        return
    pid, start = recorded
    if is_alive(pid, start) and timeout > 0:
        kill(pid, start, signal.SIGTERM)
        with contextlib.suppress(Fail):
            wait_for("its end", lambda: not is_alive(pid, start), timeout)
    leader = process(pid)
    if leader is None or leader.start == start:
        # Workers may have outlived the main process. While one lives, the session's number is not used again.
        left = kill_session(pid)
        if left:
            raise Fail(f"process {left[0].pid} of {name} cannot be killed")
    with open(_record_path(name), "w", encoding="ascii"):
        pass
