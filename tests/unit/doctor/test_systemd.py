"""What the doctor says of the order in which systemd stops units."""

from __future__ import annotations

import pytest

from locum.doctor.systemd import BOOT_TARGET, HANDOVER, LOCUM, Unit, judge, read, services_of

RUNS = Unit(LOCUM, loaded=True, active=True)
HANDS_OVER = Unit(HANDOVER, loaded=True, active=True, after=frozenset({LOCUM, BOOT_TARGET, "vsftpd.service"}))


def test_a_machine_without_the_unit_of_locum_has_no_finding() -> None:
    assert list(judge(Unit(LOCUM), Unit(HANDOVER), [Unit("web.service", loaded=True)])) == []


@pytest.mark.parametrize(
    ("handover", "words"),
    [(Unit(HANDOVER), "is not installed"), (Unit(HANDOVER, loaded=True), "is not active")],
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
    shown = "LoadState=loaded\nActiveState=active\nAfter=a.target b.service\nBefore=\n\nLoadState=not-found\nAfter=\n"
    first, second = read(["one.service", "two.service"], shown)
    assert first == Unit("one.service", loaded=True, active=True, after=frozenset({"a.target", "b.service"}))
    assert second == Unit("two.service")
    with pytest.raises(ValueError, match="1 units shown, 2 asked for"):
        read(["one.service", "two.service"], "LoadState=loaded\n")
