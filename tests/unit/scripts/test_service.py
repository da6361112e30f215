"""70.service through an engine over stand-ins: what scripts of services share, and moves."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from pathlib import Path

import pytest

import locum
from locum.events.model import Event
from locum.script import ManagedService
from tests.unit.bench import Bench, alive, until
from tests.unit.scripts.scene import SERVER, SHIPPED, Scene, free_port


def test_a_service_is_started_watched_and_stopped(generic: Scene, port: int) -> None:
    generic.ok(Event.STARTUP)
    first = generic.pid()
    assert alive(first)
    assert generic.listens() == [port]
    generic.ok(Event.MONITOR)
    generic.ok(Event.STARTUP)  # the daemon has been restarted, the service runs
    assert generic.pid() == first
    generic.ok(Event.SHUTDOWN)
    assert not alive(first)
    assert generic.listens() == []


def test_one_that_has_ended_is_started_again_and_the_node_is_unhealthy_all_the_same(generic: Scene, port: int) -> None:
    generic.ok(Event.STARTUP)
    first = generic.pid()
    os.kill(first, signal.SIGKILL)
    until(lambda: not alive(first))
    said = generic.fails(Event.MONITOR)
    assert f"nothing listens on TCP port {port}" in said
    assert "starting it again" in said
    until(lambda: generic.run(Event.MONITOR).ok)
    assert generic.listens() == [port]


def test_it_is_left_dead_when_the_admin_wants_to_see_why(generic: Scene) -> None:
    generic.settings["restart"] = False
    generic.ok(Event.STARTUP)
    first = generic.pid()
    os.kill(first, signal.SIGKILL)
    until(lambda: not alive(first))
    generic.fails(Event.MONITOR)
    assert "starting it again" not in generic.fails(Event.MONITOR)


def test_some_failures_in_a_row_may_be_tolerated(generic: Scene, bench: Bench) -> None:
    generic.ok(Event.STARTUP)
    generic.settings |= {"failures": 3, "check": "false"}
    assert "1 of 2 failures in a row" in generic.ok(Event.MONITOR)
    assert (bench.runtime / "again").exists(), "the daemon is asked to run monitor soon"
    generic.ok(Event.MONITOR)
    generic.fails(Event.MONITOR)
    generic.fails(Event.MONITOR)
    generic.settings["check"] = "true"
    generic.ok(Event.MONITOR)
    generic.settings["check"] = "false"
    generic.ok(Event.MONITOR)  # counted anew


def test_one_that_hangs_is_replaced_after_a_number_of_failures(generic: Scene) -> None:
    generic.ok(Event.STARTUP)
    first = generic.pid()
    generic.settings |= {"restart-after": 2, "check": "false"}
    generic.fails(Event.MONITOR)
    assert alive(first), "it runs: once is not enough"
    generic.fails(Event.MONITOR)
    assert not alive(first)
    assert alive(generic.pid())


def test_directories_are_waited_for_and_watched(generic: Scene, tmp_path: Path) -> None:
    place = tmp_path / "export"
    generic.settings |= {"directories": [str(place)], "timeout": 0.2}
    assert f"directory {place} did not come" in generic.fails(Event.STARTUP)
    assert not generic.record.exists(), "not started before"
    place.mkdir()
    generic.settings["timeout"] = 20
    generic.ok(Event.STARTUP)
    place.rmdir()
    assert f"not available: {place}" in generic.fails(Event.MONITOR)


def test_commands_instead(bench: Bench) -> None:
    mark = bench.file("runs")
    scene = Scene(
        bench,
        "70.service",
        start=["sh", "-c", f"echo start >>{bench.file('calls')}; touch {mark}"],
        stop=["sh", "-c", f"echo stop >>{bench.file('calls')}; rm -f {mark}"],
        status=["test", "-e", str(mark)],
    )
    scene.ok(Event.STARTUP)
    scene.ok(Event.MONITOR)
    mark.unlink()
    assert "starting it again" in scene.fails(Event.MONITOR)
    scene.ok(Event.MONITOR)
    scene.ok(Event.SHUTDOWN)
    assert bench.lines("calls") == ["start", "start", "stop"]


def test_a_command_may_leave_a_service_behind_that_keeps_its_output(bench: Bench) -> None:
    """As scripts of /etc/init.d do. A pipe for it would be waited for until the service ends."""
    pid = bench.file("pid")
    start = f"echo starting; sleep 1000 & echo $! >{pid}"
    scene = Scene(bench, "70.service", start=["sh", "-c", start], stop=["sh", "-c", f"kill -9 $(cat {pid})"])
    scene.ok(Event.STARTUP)
    first = int(pid.read_text())
    try:
        assert alive(first)
        log = bench.state / "services" / "70.service.log"
        assert log.read_text() == "starting\n"
        scene.settings |= {"move": scene.settings["start"]}
        scene.ok(Event.TAKEIP, "eth0", "10.0.0.1", "24")
        os.kill(first, signal.SIGKILL)
        scene.ok(Event.RECOVERED)
        assert alive(int(pid.read_text()))
    finally:
        os.kill(int(pid.read_text()), signal.SIGKILL)
    scene.settings["start"] = ["sh", "-c", "echo it is broken; exit 3"]
    said = scene.fails(Event.STARTUP)
    assert "failed: status 3\nit is broken" in said
    assert "starting" not in said, "that was another time"


def test_one_of_commands_that_hangs_is_stopped_before_it_is_started_again(bench: Bench) -> None:
    calls = bench.file("calls")
    scene = Scene(
        bench,
        "70.service",
        start=["sh", "-c", f"echo start >>{calls}"],
        stop=["sh", "-c", f"echo stop >>{calls}"],
        status="true",
    )
    scene.ok(Event.STARTUP)
    scene.settings |= {"check": "false", "restart-after": 1}
    assert "starting it again" in scene.fails(Event.MONITOR)
    assert bench.lines("calls") == ["start", "stop", "start"]


def test_what_to_start_must_be_said(bench: Bench) -> None:
    assert "the service to start is unknown" in Scene(bench, "70.service").fails(Event.STARTUP)


def test_one_that_somebody_else_starts_is_only_watched(bench: Bench, port: int) -> None:
    scene = Scene(bench, "70.service", manage=False, ports=port, timeout=0.2)
    scene.fails(Event.STARTUP)
    with socket.create_server(("127.0.0.1", port)):
        scene.ok(Event.STARTUP)
        scene.ok(Event.MONITOR)
        scene.ok(Event.SHUTDOWN)
    scene.fails(Event.MONITOR)


@pytest.mark.parametrize(("key", "value"), [("ports", "http"), ("timeout", "soon"), ("failures", "many")])
def test_a_wrong_setting_is_named(generic: Scene, key: str, value: str) -> None:
    generic.settings |= {"timeout": 0.2, key: value, "check": "false"}
    generic.run(Event.STARTUP)
    assert f"setting {key}: '{value}'" in generic.fails(Event.MONITOR if key == "failures" else Event.STARTUP)


def test_copies_have_settings_of_their_own(bench: Bench, port: int) -> None:
    other = free_port()
    command = [sys.executable, "-c", SERVER]
    first = Scene(bench, "70.service", command=[*command, str(port), "a"], ports=[port])
    second = Scene(bench, "70.service", name="71.queue", command=[*command, str(other), "b"], ports=[other])
    try:
        both = {second.name: second.settings}
        assert first.run(Event.STARTUP, others=both).ok
        assert first.pid() != second.pid()
        assert (first.listens(), second.listens()) == ([port], [other])
        assert first.run(Event.SHUTDOWN, others=both).ok
    finally:
        first.end()
        second.end()


def test_systemd_is_asked_by_the_name_of_the_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = tmp_path / "calls"
    program = tmp_path / "systemctl"
    program.write_text(f'#!/bin/sh\necho "$*" >>{calls}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for variable, value in {
        "LOCUM_SCRIPT": "40.vsftpd",
        "LOCUM_SCRIPT_STATE": str(tmp_path / "own"),
        "LOCUM_STATE": str(tmp_path),
        "LOCUM_RUNTIME": str(tmp_path),
        "LOCUM_SETTINGS": "{}",
        "LOCUM_ADDRESSES": "",
    }.items():
        monkeypatch.setenv(variable, value)

    def said() -> list[str]:
        lines = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return lines

    service = ManagedService("vsftpd", move="restart")
    service.startup()
    assert said() == ["start vsftpd"]
    service.monitor()
    assert said() == ["is-active --quiet vsftpd"]
    service.took("10.0.0.1")
    service.recovered()
    assert said() == ["stop vsftpd", "start vsftpd"]
    monkeypatch.setenv("LOCUM_SETTINGS", '{"service": "vsftpd@public", "move": "reload"}')
    service = ManagedService("vsftpd")
    service.released("10.0.0.1")
    service.recovered()
    assert said() == ["reload vsftpd@public"]
    service.shutdown()
    assert said() == ["stop vsftpd@public"]


def test_a_command_runs_once_after_any_number_of_moves(generic: Scene, bench: Bench) -> None:
    generic.settings["move"] = ["sh", "-c", f"echo moved >>{bench.file('calls')}"]
    generic.ok(Event.RECOVERED)
    for number in range(3):
        generic.ok(Event.TAKEIP, "eth0", f"10.0.0.{number}", "24")
    generic.ok(Event.RELEASEIP, "eth0", "10.0.0.0", "24")
    generic.ok(Event.RECOVERED)
    generic.ok(Event.RECOVERED)
    assert bench.lines("calls") == ["moved"]


def test_a_move_that_could_not_be_acted_on_is_tried_again(generic: Scene, bench: Bench) -> None:
    ready = bench.file("ready")
    generic.settings["move"] = ["test", "-e", str(ready)]
    generic.ok(Event.TAKEIP, "eth0", "10.0.0.1", "24")
    generic.fails(Event.RECOVERED)
    ready.touch()
    generic.ok(Event.RECOVERED)
    ready.unlink()
    generic.ok(Event.RECOVERED)


def test_restart_on_a_move(generic: Scene, port: int) -> None:
    generic.settings["move"] = "restart"
    generic.ok(Event.STARTUP)
    first = generic.pid()
    generic.ok(Event.TAKEIP, "eth0", "10.0.0.1", "24")
    assert alive(first), "not before recovered"
    generic.ok(Event.RECOVERED)
    assert not alive(first)
    assert alive(generic.pid())
    assert generic.listens() == [port]


def test_reload_on_a_move(generic: Scene, bench: Bench) -> None:
    generic.settings |= {"move": "reload", "reload": ["sh", "-c", f"echo reloaded >>{bench.file('calls')}"]}
    generic.ok(Event.RELEASEIP, "eth0", "10.0.0.1", "24")
    generic.ok(Event.RECOVERED)
    assert bench.lines("calls") == ["reloaded"]


def test_moves_of_an_earlier_life_are_forgotten_by_startup(generic: Scene, bench: Bench) -> None:
    generic.settings["move"] = ["sh", "-c", f"echo moved >>{bench.file('calls')}"]
    generic.ok(Event.TAKEIP, "eth0", "10.0.0.1", "24")
    generic.ok(Event.STARTUP)
    generic.ok(Event.RECOVERED)
    assert bench.lines("calls") == []


def test_every_setting_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "services.md").read_text()
    toolbox = Path(locum.__file__).parent / "script"
    used = re.compile(r'(?:_setting|_flag|_seconds|_number|_words|settings\(\)\.get)\(\s*"([a-z-]+)"')
    for source in (toolbox / "managed.py", toolbox / "samba.py", *SHIPPED.glob("[457]*")):
        for setting in used.findall(source.read_text()):
            assert f"`{setting}`" in page, f"{setting} of {source.name}"
