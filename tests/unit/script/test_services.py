"""locum.script: services that scripts start, watch and stop."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from locum import script
from locum.script import Fail
from tests.unit.bench import alive, kill_service, until
from tests.unit.script.scene import configure

pytestmark = pytest.mark.usefixtures("environment")


def pid_of(environment: Path, name: str = "50.web") -> int:
    return int((environment / "runtime" / "services" / f"{name}.pid").read_text().split()[0])


def test_a_detached_service(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "env | grep LOCUM; echo out; echo err >&2; sleep 1000 & exec sleep 1001"
    configure(monkeypatch, command=["sh", "-c", text])
    script.start_service()
    pid = pid_of(environment)
    try:
        assert script.service_is_running()
        assert os.getsid(pid) == pid
        script.start_service()
        assert pid_of(environment) == pid, "it runs already"
        log = Path(script.service_log())
        until(lambda: log.read_text() == "out\nerr\n")
        script.stop_service()
        assert not alive(pid)
        assert not script.service_is_running()
        script.stop_service()
    finally:
        kill_service(pid)


def test_a_service_that_ignores_the_request_to_stop(environment: Path) -> None:
    script.start_service("stubborn", command=["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"])
    pid = pid_of(environment, "50.web-stubborn")
    try:
        script.stop_service("stubborn", timeout=0.2)
        assert not alive(pid)
    finally:
        kill_service(pid)


def test_killing_a_service_ends_its_workers_too(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = environment / "worker"
    configure(monkeypatch, command=["sh", "-c", f"sleep 1000 & echo $! >{workers}; wait"])
    script.start_service()
    worker = int(until(lambda: workers.exists() and workers.read_text()))
    pid = pid_of(environment)
    os.kill(pid, 9)
    until(lambda: not alive(pid))
    assert not script.service_is_running()
    assert alive(worker)
    script.kill_service()
    assert not alive(worker)


def test_starting_again_ends_workers_that_outlived_the_main_process(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = environment / "worker"
    configure(monkeypatch, command=["sh", "-c", f"sleep 1000 & echo $! >>{workers}; wait"])
    script.start_service()
    first = int(until(lambda: workers.exists() and workers.read_text()))
    os.kill(pid_of(environment), 9)
    until(lambda: not alive(pid_of(environment)))
    script.start_service()
    try:
        assert not alive(first)
        assert script.service_is_running()
    finally:
        script.kill_service()


def test_stopping_twice_asks_nobody(environment: Path) -> None:
    script.start_service("x", command=["sleep", "1000"])
    for _ in range(2):
        script.stop_service("x")
        script.kill_service("x")
        assert not script.service_is_running("x")
    script.start_service("x", command=["sleep", "1000"])
    assert alive(pid_of(environment, "50.web-x"))
    script.kill_service("x")


def test_a_service_that_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, command="sh -c 'echo no such option; exit 2'")
    with pytest.raises(Fail, match="ended at once with status 2\nno such option"):
        script.start_service()
    configure(monkeypatch, command="/no/such/server")
    with pytest.raises(Fail, match="cannot start '/no/such/server': "):
        script.start_service()


def test_a_service_with_commands_of_its_own(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flag = environment / "flag"
    configure(monkeypatch, start=f"touch {flag}", stop=f"rm {flag}", status=f"test -e {flag}")
    assert not script.service_is_running()
    script.start_service()
    assert script.service_is_running()
    script.stop_service()
    assert not flag.exists()


def test_systemd_is_the_default(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = environment / "calls"
    program = environment / "systemctl"
    program.write_text(f'#!/bin/sh\necho "$*" >>{calls}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{environment}:{os.environ['PATH']}")
    script.start_service()
    script.stop_service("nginx")
    configure(monkeypatch, service="apache2")
    script.kill_service()
    assert script.service_is_running()
    assert calls.read_text().splitlines() == [
        "start web",
        "stop nginx",
        "kill --signal=SIGKILL apache2",
        "is-active --quiet apache2",
    ]


def test_systemd_tells_that_it_is_restarting_a_unit(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, job = environment / "systemctl", environment / "job"
    program.write_text(f'#!/bin/sh\n[ "$*" = "show --property=Job --value web" ] && cat {job}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{environment}:{os.environ['PATH']}")
    job.write_text("\n")
    assert not script.service_is_changing()
    job.write_text("4711\n")
    assert script.service_is_changing()
    configure(monkeypatch, start="true", stop="true")
    assert not script.service_is_changing()


def test_a_record_of_an_earlier_boot_names_no_process(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, command="sleep 1000")
    script.start_service()
    path = environment / "runtime" / "services" / "50.web.pid"
    pid = pid_of(environment)
    try:
        path.write_text(f"{path.read_text().split()[0]} 1 another-boot\n")
        assert not script.service_is_running()
        script.stop_service()
        assert alive(pid)
    finally:
        kill_service(pid)
