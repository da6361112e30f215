"""Examine what systemd does with this machine's units: addresses move before services stop, and before it sleeps.

:func:`judge` is pure; :func:`examine` asks systemctl.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from locum.config.model import Settings
from locum.doctor import Finding

LOCUM, HANDOVER, SLEEP = "locum.service", "locum-handover.service", "locum-sleep.service"
#: What systemd starts before the machine sleeps. An administrator whose machine must not sleep masks it.
SLEEP_TARGET = "sleep.target"
#: Ordered after the services that systemd starts at boot, and before the handover.
BOOT_TARGET = "multi-user.target"

_PROPERTIES = ("LoadState", "ActiveState", "UnitFileState", "After", "Before")
#: Limit for systemctl, in seconds.
_ANSWERS_WITHIN = 10.0


class Unit(msgspec.Struct, frozen=True):
    """A unit as systemd shows it.

    ``loaded``: it exists, and is not ``masked`` (by an administrator, so that nothing starts it). ``enabled``: systemd
    starts it with its target. ``after`` and ``before``: names of units.
    """

    name: str
    loaded: bool = False
    masked: bool = False
    active: bool = False
    enabled: bool = False
    after: frozenset[str] = frozenset()
    before: frozenset[str] = frozenset()


def examine(settings: Settings) -> Iterator[Finding]:
    """Findings about the units; none on a machine without systemd, or whose daemon is not a unit."""
    if not os.path.isdir("/run/systemd/system"):
        return
    from locum.events.directory import ScriptDirectory  # noqa: PLC0415

    scripts = [script.name for script in ScriptDirectory(settings.paths.events).scan().scripts if script.enabled]
    services = services_of(scripts, settings.scripts)
    try:
        locum, handover, sleep, target, *found = _shown([LOCUM, HANDOVER, SLEEP, SLEEP_TARGET, *services])
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        yield Finding("systemd", "warning", f"systemctl cannot show units: {error}")
        return
    yield from judge(locum, handover, found)
    if can_sleep():
        yield from judge_sleep(locum, sleep, target)


def services_of(scripts: Sequence[str], settings: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Names of units that these event scripts may start: those of their settings, and the scripts' own names."""
    found: dict[str, None] = {}
    for script in scripts:
        for key, value in settings.get(script, {}).items():
            if (key == "service" or key.endswith(("-service", "_service"))) and isinstance(value, str):
                found[unit_name(value)] = None
        found[unit_name(script.partition(".")[2])] = None
    return [name for name in found if name != LOCUM]


def unit_name(name: str) -> str:
    """The full name of a service's unit, as systemctl completes it."""
    return name if name.endswith((".service", ".target", ".socket")) else f"{name}.service"


def judge(locum: Unit, handover: Unit, services: Sequence[Unit]) -> Iterator[Finding]:
    """Findings for these units; ``services`` are those that event scripts may start."""
    if not locum.loaded:
        return
    danger = "when the machine shuts down, services stop before their addresses have moved"
    if not handover.loaded:
        missing, put = _absent(handover)
        yield Finding("systemd", "warning", f"{missing}: {danger}", f"{put}systemctl start {HANDOVER}")
        return
    if locum.active and not handover.active:
        yield Finding(
            "systemd",
            "warning",
            f"{HANDOVER} is not active: {danger}",
            f"systemctl start {HANDOVER}; {LOCUM} needs Wants={HANDOVER}, as in examples/{LOCUM}",
        )
    unordered = [unit.name for unit in services if unit.loaded and not _ordered(unit, handover)]
    for name in unordered:
        yield Finding(
            "systemd",
            "warning",
            f"{name}, which an event script starts, stops before its addresses have moved when the machine shuts down",
            f"systemctl edit {HANDOVER}: in the section [Unit], After={name}",
        )
    if handover.active and not unordered:
        yield Finding("systemd", "good", "when the machine shuts down, addresses move before services stop")


def judge_sleep(locum: Unit, sleep: Unit, target: Unit) -> Iterator[Finding]:
    """Findings about a machine that can sleep; ``target`` is :data:`SLEEP_TARGET`."""
    if not locum.loaded or not target.loaded:
        return
    if sleep.loaded and sleep.enabled:
        yield Finding("systemd", "good", "when the machine sleeps, Locum is stopped before")
        return
    missing, put = (f"{SLEEP} is not enabled", "") if sleep.loaded else _absent(sleep)
    yield Finding(
        "systemd",
        "warning",
        f"{missing}: when the machine sleeps, no node serves its addresses until its hold ends",
        f"{put}systemctl enable {SLEEP}; or forbid that it sleeps: systemctl mask {SLEEP_TARGET}",
    )


def can_sleep(file: str = "/sys/power/state") -> bool:
    """Whether the kernel can suspend or hibernate this machine: it names how in ``file``."""
    try:
        with open(file, encoding="ascii") as states:
            return bool(states.read().split())
    except OSError:
        return False


def _absent(unit: Unit) -> tuple[str, str]:
    """What is wrong with a unit that is not loaded, and the commands that mend it, with a "; " behind them."""
    if unit.masked:
        return f"{unit.name} is masked", f"systemctl unmask {unit.name}; "
    return (
        f"{unit.name} is not installed",
        f"copy examples/{unit.name} to /etc/systemd/system; systemctl daemon-reload; ",
    )


def _ordered(unit: Unit, handover: Unit) -> bool:
    """Whether the unit stops after the handover."""
    indirectly = BOOT_TARGET in handover.after and BOOT_TARGET in unit.before
    return indirectly or handover.name in unit.before or unit.name in handover.after


def _shown(names: Sequence[str]) -> list[Unit]:
    """These units, in this order. Raises OSError or SubprocessError; ValueError for an answer of another form."""
    wanted = [f"--property={name}" for name in _PROPERTIES]
    done = subprocess.run(
        ["systemctl", "show", *wanted, "--", *names],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_ANSWERS_WITHIN,
        check=True,
    )
    return read(names, done.stdout)


def read(names: Sequence[str], shown: str) -> list[Unit]:
    """The units of ``systemctl show``: one block for each name, in order. Raises ValueError."""
    blocks = [block for block in shown.split("\n\n") if block.strip()]
    if len(blocks) != len(names):
        raise ValueError(f"{len(blocks)} units shown, {len(names)} asked for")
    return [_unit(name, block) for name, block in zip(names, blocks, strict=True)]


def _unit(name: str, block: str) -> Unit:
    values = dict(line.split("=", 1) for line in block.strip().splitlines() if "=" in line)
    return Unit(
        name=name,
        loaded=values.get("LoadState") == "loaded",
        masked=values.get("LoadState") == "masked",
        active=values.get("ActiveState") == "active",
        enabled=values.get("UnitFileState", "").startswith("enabled"),
        after=frozenset(values.get("After", "").split()),
        before=frozenset(values.get("Before", "").split()),
    )
