"""What the doctor says of the order in which systemd stops units."""

from __future__ import annotations

from pathlib import Path

import pytest

from locum.doctor.systemd import (
    BOOT_TARGET,
    HANDOVER,
    LOCUM,
    SLEEP,
    SLEEP_TARGET,
    Unit,
    can_sleep,
    judge,
    judge_sleep,
    read,
    services_of,
)

RUNS = Unit(LOCUM, loaded=True, active=True)
HANDS_OVER = Unit(HANDOVER, loaded=True, active=True, after=frozenset({LOCUM, BOOT_TARGET, "vsftpd.service"}))


def test_a_machine_without_the_unit_of_locum_has_no_finding() -> None:
    assert list(judge(Unit(LOCUM), Unit(HANDOVER), [Unit("web.service", loaded=True)])) == []


@pytest.mark.parametrize(
    ("handover", "words"),
    [
        (Unit(HANDOVER), "is not installed"),
        (Unit(HANDOVER, masked=True), "is masked"),
        (Unit(HANDOVER, loaded=True), "is not active"),
    ],
)
def test_a_missing_handover_is_a_warning(handover: Unit, words: str) -> None:
    (finding,) = judge(RUNS, handover, [])
    assert finding.level == "warning"
    assert words in finding.text


def test_services_of_scripts_must_stop_after_the_handover() -> None:
    services = [
        Unit("vsftpd.service", loaded=True),
        Unit("boot.service", loaded=True, before=frozenset({BOOT_TARGET})),
        Unit("own.service", loaded=True, before=frozenset({HANDOVER})),
        Unit("interface.service"),
    ]
    assert [finding.level for finding in judge(RUNS, HANDS_OVER, services)] == ["good"]
    (finding,) = judge(RUNS, HANDS_OVER, [*services, Unit("web.service", loaded=True)])
    assert finding.level == "warning"
    assert finding.text.startswith("web.service, ")
    assert finding.advice.endswith("After=web.service")


CAN_SLEEP = Unit(SLEEP_TARGET, loaded=True)


@pytest.mark.parametrize(
    ("sleep", "words", "advice"),
    [
        (Unit(SLEEP), "is not installed", "copy "),
        (Unit(SLEEP, masked=True), "is masked", f"systemctl unmask {SLEEP}; systemctl enable {SLEEP}"),
        (Unit(SLEEP, loaded=True), "is not enabled", f"systemctl enable {SLEEP}"),
    ],
)
def test_a_machine_that_can_sleep_while_it_serves_is_a_warning(sleep: Unit, words: str, advice: str) -> None:
    (finding,) = judge_sleep(RUNS, sleep, CAN_SLEEP)
    assert finding.level == "warning"
    assert words in finding.text
    assert finding.advice.startswith(advice)


def test_a_machine_whose_addresses_move_before_it_sleeps_is_good() -> None:
    (finding,) = judge_sleep(RUNS, Unit(SLEEP, loaded=True, enabled=True), CAN_SLEEP)
    assert finding.level == "good"


def test_a_machine_that_may_not_sleep_or_has_no_unit_of_locum_needs_no_unit_for_its_sleep() -> None:
    assert list(judge_sleep(RUNS, Unit(SLEEP), Unit(SLEEP_TARGET))) == []
    assert list(judge_sleep(Unit(LOCUM), Unit(SLEEP), CAN_SLEEP)) == []


def test_a_machine_that_cannot_sleep_has_an_empty_list_of_ways(tmp_path: Path) -> None:
    states = tmp_path / "state"
    assert not can_sleep(str(states))
    states.write_text("\n")
    assert not can_sleep(str(states))
    states.write_text("freeze mem disk\n")
    assert can_sleep(str(states))


def test_the_services_of_scripts_are_those_of_their_settings_and_their_names() -> None:
    settings: dict[str, dict[str, object]] = {
        "70.service": {"service": "web", "port": 80},
        "60.nfs": {"nfs_service": "nfs-ganesha.service"},
    }
    assert services_of(["40.vsftpd", "70.service", "60.nfs"], settings) == [
        "vsftpd.service",
        "web.service",
        "service.service",
        "nfs-ganesha.service",
        "nfs.service",
    ]


def test_the_answer_of_systemctl() -> None:
    shown = (
        "LoadState=loaded\nActiveState=active\nUnitFileState=enabled\nAfter=a.target b.service\nBefore=\n\n"
        "LoadState=masked\nUnitFileState=masked\nAfter=\n"
    )
    first, second = read(["one.service", "two.service"], shown)
    assert first == Unit(
        "one.service", loaded=True, active=True, enabled=True, after=frozenset({"a.target", "b.service"})
    )
    assert second == Unit("two.service", masked=True)
    with pytest.raises(ValueError, match="1 units shown, 2 asked for"):
        read(["one.service", "two.service"], "LoadState=loaded\n")
