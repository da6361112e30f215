"""The cluster's tunables: names, defaults, bounds and meaning.

Rules of this file: it holds exactly the tunables that the product honours, under CTDB's names (ctdb-tunables(7))
where CTDB has one for the same thing. Code reads a :class:`Tunables`; the table serves display and checks.
Durations are in seconds, flags are 0 or 1.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from locum.errors import UsageError


class Tunables(msgspec.Struct, frozen=True):
    """The values in force, with the defaults. The table below gives each one's meaning and bounds."""

    monitor_interval: float = 15.0
    monitor_timeout: float = 20.0
    event_timeout: float = 30.0
    recovery_ban_period: float = 300.0
    ban_after_failures: int = 3
    no_ip_failback: int = 0
    no_ip_host_on_all_disabled: int = 0
    no_ip_takeover: int = 0
    announce_count: int = 5
    announce_interval: float = 1.0
    tickle_update_interval: float = 1.0
    tickle_count: int = 4
    tickle_interval: float = 0.4
    link_up_delay: float = 3.0
    healthy_delay: float = 30.0
    damping_longest: float = 120.0
    damping_window: float = 600.0

    @classmethod
    def from_values(cls, values: Mapping[str, int | float]) -> Tunables:
        """The tunables with ``values`` (by the tunables' names) in place of defaults.

        Unknown names and values out of bounds are left out: they can only come from another
        version's store or configuration, and one bad value must not stop a node.
        """
        known: dict[str, int | float] = {}
        for name, value in values.items():
            tunable = TUNABLES.get(name)
            if tunable is not None and tunable.problem(value) is None:
                known[tunable.field] = tunable.kind(value)
        return cls(**known)  # type: ignore[arg-type]  # every field is a number of its row's kind

    def values(self) -> dict[str, int | float]:
        """All values by the tunables' names, in the order of the table."""
        return {tunable.name: getattr(self, tunable.field) for tunable in TUNABLES.values()}


_DEFAULTS = Tunables()


class Tunable(msgspec.Struct, frozen=True):
    """One row: ``field`` is the attribute of :class:`Tunables`; both bounds are included; ``unit`` may be empty."""

    name: str
    field: str
    minimum: int | float
    maximum: int | float
    unit: str
    meaning: str

    @property
    def default(self) -> int | float:
        """The value when none was set."""
        default: int | float = getattr(_DEFAULTS, self.field)
        return default

    @property
    def kind(self) -> type[int] | type[float]:
        """``int`` for counts and flags, ``float`` for durations."""
        return float if isinstance(self.default, float) else int

    @property
    def expected(self) -> str:
        """The permitted values, in words."""
        if (self.minimum, self.maximum, self.kind) == (0, 1, int):
            return "0 or 1"
        noun = "a whole number" if self.kind is int else "a number"
        of = f" of {self.unit}" if self.unit else ""
        return f"{noun}{of} from {self.minimum:g} to {self.maximum:g}"

    def problem(self, value: object) -> str | None:
        """The permitted values when ``value`` is wrong, or None."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return self.expected
        if self.kind is int and value % 1 != 0:
            return self.expected
        # Written so that "not a number" fails as well.
        return None if self.minimum <= value <= self.maximum else self.expected


TUNABLES: Mapping[str, Tunable] = {
    row.name: row
    for row in (
        Tunable("MonitorInterval", "monitor_interval", 0.2, 3600, "seconds", "time between two monitor events"),
        Tunable("MonitorTimeout", "monitor_timeout", 0.1, 3600, "seconds", "time limit of each script of monitor"),
        Tunable("EventTimeout", "event_timeout", 0.1, 3600, "seconds", "time limit of each script of other events"),
        Tunable("RecoveryBanPeriod", "recovery_ban_period", 1, 86400, "seconds", "duration of a ban"),
        Tunable("BanAfterFailures", "ban_after_failures", 1, 1000, "", "failures in a row that ban a node"),
        Tunable("NoIPFailback", "no_ip_failback", 0, 1, "", "1: served addresses are not moved for balance"),
        Tunable(
            "NoIPHostOnAllDisabled",
            "no_ip_host_on_all_disabled",
            0,
            1,
            "",
            "1: no node serves addresses when none is healthy; 0: unhealthy nodes continue to serve then",
        ),
        Tunable("NoIPTakeover", "no_ip_takeover", 0, 1, "", "1: no node takes addresses that it does not serve yet"),
        Tunable("AnnounceCount", "announce_count", 1, 100, "", "announcements (ARP, ND) of an address after its take"),
        Tunable("AnnounceInterval", "announce_interval", 0.01, 60, "seconds", "time between two announcements"),
        Tunable(
            "TickleUpdateInterval",
            "tickle_update_interval",
            0.1,
            3600,
            "seconds",
            "time between two scans of the connections to public addresses",
        ),
        Tunable("TickleCount", "tickle_count", 0, 100, "", "tickles to each client of an address after its take"),
        Tunable("TickleInterval", "tickle_interval", 0.01, 60, "seconds", "time between two tickles to a client"),
        Tunable(
            "LinkUpDelay",
            "link_up_delay",
            0,
            3600,
            "seconds",
            "time that a returned link must last before it counts; doubled by each loss; 0: no damping",
        ),
        Tunable(
            "HealthyDelay",
            "healthy_delay",
            0,
            3600,
            "seconds",
            "time that monitor must pass before a node counts as healthy, from its second failure on; doubled by each",
        ),
        Tunable("DampingLongest", "damping_longest", 0, 86400, "seconds", "longest LinkUpDelay or HealthyDelay"),
        Tunable("DampingWindow", "damping_window", 1, 86400, "seconds", "older losses and failures are forgotten"),
    )
}


def tunable(name: str) -> Tunable:
    """The row of ``name``. Raises :class:`UsageError`, with the nearest name, when there is none."""
    row = TUNABLES.get(name)
    if row is None:
        raise UsageError(f"unknown tunable {name!r}{nearest(name)}; 'locum tunable list' shows all")
    return row


def nearest(name: str) -> str:
    """`` (did you mean X?)`` for an unknown tunable, or nothing without a near name."""
    import difflib  # noqa: PLC0415  # only after an error

    lower = {known.lower(): known for known in TUNABLES}
    found = difflib.get_close_matches(name.lower(), lower, n=1)
    return f" (did you mean {lower[found[0]]}?)" if found else ""


def parse_tunable(name: str, text: str) -> int | float:
    """Parse ``text`` as a value of tunable ``name``, as ``locum tunable set`` gets it.

    Raises :class:`UsageError` when there is no such tunable or ``text`` is not a value that it can have.
    """
    row = tunable(name)
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if "_" in text or row.problem(value) is not None:
        raise UsageError(f"{name}: {text!r} is not {row.expected}")
    return row.kind(value)


def format_tunable(value: int | float) -> str:
    """``value`` in short form: ``15`` and not ``15.0``."""
    return f"{value:g}"
