"""Examine this machine: clock, kernel, privileges, scripts."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Callable, Iterator

from locum.config import credentials
from locum.config.environment import check_environment, environment_warnings
from locum.config.model import Settings
from locum.doctor import Finding, Level
from locum.errors import LocumError
from locum.node.guard.enforcement import public_interfaces

#: A faster correction of the clock breaks the bound that holds rely on (half of CLOCK_RATE_BOUND), ppm.
FREQUENCY_LIMIT = 500.0
_CLONE_NEWNET = 0x40000000
_STA_UNSYNC = 0x0040


def examine(settings: Settings) -> Iterator[Finding]:
    """All findings about this machine."""
    problems = check_environment(settings, with_credentials=False)
    for problem in problems:
        yield Finding("configuration", "problem", problem)
    for warning in environment_warnings(settings, with_credentials=False):
        yield Finding("configuration", "warning", warning)
    if not problems:
        yield Finding("configuration", "good", f"{settings.source}: {len(settings.addresses)} public addresses")
    yield from credential_findings(settings)
    yield from scripts(settings)
    yield clock()
    yield from kernel(settings)


def credential_findings(settings: Settings) -> Iterator[Finding]:
    """Findings about the node's credentials for etcd."""
    for kind, text in credentials.examine(settings):
        level: Level = "good" if kind == "good" else "warning" if kind == "warning" else "problem"
        yield Finding("credentials", level, text)


def scripts(settings: Settings) -> Iterator[Finding]:
    """The event script directory."""
    from locum.events.directory import ScriptDirectory  # noqa: PLC0415

    listing = ScriptDirectory(settings.paths.events).scan()
    for fault in listing.faults:
        remedy = "repair it: a daemon does not start with it; a running daemon uses the last good scripts"
        yield Finding("scripts", "problem", str(fault), remedy)
    for remark in listing.remarks:
        if not remark.ignored:
            yield Finding("scripts", "warning", str(remark))
    enabled = [script.name for script in listing.scripts if script.enabled]
    if not listing.faults:
        yield Finding("scripts", "good", f"{settings.paths.events}: {', '.join(enabled) or 'none enabled'}")
    if not any(name.startswith("10.interface") for name in enabled):
        yield Finding(
            "scripts",
            "warning",
            "10.interface is not enabled: a lost link does not make the node unhealthy",
            "locum event enable 10.interface",
        )


class _Timex(ctypes.Structure):
    """``struct timex`` (adjtimex(2)): the needed fields; the rest is padding."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


def clock() -> Finding:
    """Examine the clock's rate: safety assumes only that two machines' clocks run at nearly the same rate."""
    timex = _Timex()
    if ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex)) < 0:
        return Finding("clock", "warning", f"adjtimex: {os.strerror(ctypes.get_errno())}")
    frequency = timex.freq / 65536
    if abs(frequency) > FREQUENCY_LIMIT:
        return Finding(
            "clock",
            "problem",
            f"the clock is corrected by {frequency:.0f} ppm; holds rely on less than {FREQUENCY_LIMIT:.0f}",
            "check the time source; chrony: 'maxclockerror', 'maxslewrate'",
        )
    if timex.status & _STA_UNSYNC:
        return Finding(
            "clock",
            "warning",
            f"the clock is not synchronised (its rate is corrected by {frequency:+.1f} ppm)",
            "run chrony or systemd-timesyncd: bans end and logs are written by wall-clock time (holds do not need it)",
        )
    return Finding("clock", "good", f"synchronised, its rate is corrected by {frequency:+.1f} ppm")


def kernel(settings: Settings) -> Iterator[Finding]:
    """Try kernel features in a temporary network namespace, without effect on this one."""
    names = public_interfaces(settings)
    for check, attempt in _ATTEMPTS:
        yield _in_namespace(check, attempt)
    yield from _secondaries(names)


def _in_namespace(check: str, attempt: Callable[[], Finding]) -> Finding:
    """Run ``attempt`` in a child with its own network namespace."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) != 0:
                finding = Finding(check, "warning", f"not tried: {os.strerror(ctypes.get_errno())}", "run as root")
            else:
                try:
                    finding = attempt()
                except (LocumError, OSError) as error:
                    finding = Finding(check, "problem", str(error))
            os.write(write, json.dumps([finding.level, finding.text, finding.advice]).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    if not data:
        return Finding(check, "problem", "the attempt ended without a result", "see standard error")
    level, text, advice = json.loads(data)
    return Finding(check, level, text, advice)


def _try_gate() -> Finding:
    from locum.machine.gate.gate import Gate, GateUnavailable  # noqa: PLC0415

    try:
        gate = Gate()
        gate.install(["192.0.2.1", "2001:db8::1"], ["lo"])
    except GateUnavailable as error:
        return Finding(
            "enforcement",
            "warning",
            f"the kernel's packet filter cannot enforce holds: {error}",
            "install nftables and use a kernel with nf_tables; without it others wait some seconds longer",
        )
    gate.confirm(gate.arm(0, 5.0))
    state = gate.state()
    if state.open_for <= 0:
        return Finding(
            "enforcement", "problem", "the gate is not open after it was opened", "report this, with 'uname -a'"
        )
    if not state.egress:
        return Finding(
            "enforcement",
            "warning",
            "no egress hook (kernel before 5.16): packet sockets bypass the gate",
            "a frozen daemon could announce an address late; use a newer kernel",
        )
    return Finding("enforcement", "good", "nftables enforces holds, packet sockets included")


def _try_lifetimes() -> Finding:
    from locum.machine.addresses import AddressTable  # noqa: PLC0415

    table = AddressTable()
    table.add("192.0.2.1", 32, "lo", 5)
    found = next((a for a in table.list("lo") if a.address == "192.0.2.1"), None)
    if found is None or found.valid is None:
        return Finding("lifetimes", "problem", "the kernel does not keep lifetimes of addresses", "use another kernel")
    return Finding("lifetimes", "good", "the kernel removes addresses that are not renewed")


def _try_destroy() -> Finding:
    from locum.connections.destroy import Destroyer  # noqa: PLC0415

    if Destroyer().supported():
        return Finding("connections", "good", "the kernel ends connections of released addresses (SOCK_DESTROY)")
    return Finding(
        "connections",
        "warning",
        "the kernel cannot end connections (CONFIG_INET_DIAG_DESTROY)",
        "raw-socket resets are used instead; they are slower",
    )


_ATTEMPTS: tuple[tuple[str, Callable[[], Finding]], ...] = (
    ("enforcement", _try_gate),
    ("lifetimes", _try_lifetimes),
    ("connections", _try_destroy),
)


def _secondaries(names: list[str]) -> Iterator[Finding]:
    from locum.machine.addresses import AddressTable  # noqa: PLC0415

    table = AddressTable()
    for name in names:
        try:
            if not table.check_promote_secondaries(name):
                yield Finding(
                    "secondaries",
                    "warning",
                    f"{name}: promote_secondaries is off; the daemon enables it",
                    f"sysctl -w net.ipv4.conf.{name}.promote_secondaries=1, also at boot",
                )
        except (LocumError, OSError) as error:
            yield Finding("secondaries", "problem", f"{name}: {error}")
