"""The table of tunables, and values in and out of bounds."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest

from locum.config.tunables import TUNABLES, Tunables, format_tunable, parse_tunable, tunable
from locum.errors import UsageError

DOCUMENTATION = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_the_table_and_the_values_are_the_same_set() -> None:
    assert [row.field for row in TUNABLES.values()] == list(msgspec.structs.asdict(Tunables()))
    assert list(Tunables().values()) == list(TUNABLES)


@pytest.mark.parametrize("name", TUNABLES)
def test_defaults_and_bounds_are_good_values(name: str) -> None:
    row = TUNABLES[name]
    assert row.problem(row.default) is None
    for value in (row.minimum, row.maximum):
        assert row.problem(value) is None
        assert parse_tunable(name, format_tunable(value)) == value
    for wrong in (row.minimum - 1, row.maximum + 1, math.nan, math.inf, -math.inf, True, "1", None):
        assert row.problem(wrong) == row.expected


@pytest.mark.parametrize("name", TUNABLES)
def test_the_documentation_has_each_with_its_default(name: str) -> None:
    row = TUNABLES[name]
    rows = [line for line in DOCUMENTATION.read_text().splitlines() if line.startswith(f"| `{name}` |")]
    assert len(rows) == 1
    bounds = f"{row.minimum:g}-{row.maximum:g}"
    assert f"| {format_tunable(row.default)} | {bounds} |" in rows[0]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("MonitorInterval", "15", 15.0),
        ("MonitorInterval", "0.5", 0.5),
        ("NoIPFailback", "1", 1),
        ("BanAfterFailures", "1", 1),
    ],
)
def test_parse(name: str, text: str, value: float) -> None:
    parsed = parse_tunable(name, text)
    assert parsed == value
    assert type(parsed) is TUNABLES[name].kind


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("MonitorInterval", "soon", "MonitorInterval: 'soon' is not a number of seconds from 0.2 to 3600"),
        ("MonitorInterval", "nan", "is not a number of seconds"),
        ("MonitorInterval", "1_0", "is not a number of seconds"),
        ("MonitorInterval", "", "is not a number of seconds"),
        ("NoIPFailback", "2", "NoIPFailback: '2' is not 0 or 1"),
        ("NoIPFailback", "yes", "is not 0 or 1"),
        ("AnnounceCount", "1.5", "is not a whole number from 1 to 100"),
        ("monitorinterval", "1", r"unknown tunable 'monitorinterval' \(did you mean MonitorInterval\?\)"),
        ("MonitorIntervall", "1", r"did you mean MonitorInterval\?"),
        ("Xyz", "1", "unknown tunable 'Xyz'; 'locum tunable list' shows all"),
    ],
)
def test_parse_refuses(name: str, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_tunable(name, text)


def test_the_row_of_a_name() -> None:
    assert tunable("MonitorInterval").default == 15
    with pytest.raises(UsageError, match="did you mean EventTimeout"):
        tunable("EventTimeOut")


def test_foreign_values_do_not_stop_a_node() -> None:
    values = {"MonitorInterval": 3, "NoIPFailback": 7, "FromTomorrow": 1, "EventTimeout": -1.0, "AnnounceCount": 2.0}
    assert Tunables.from_values(values) == Tunables(monitor_interval=3.0, announce_count=2)
