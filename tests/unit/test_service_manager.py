"""What the service manager is told, at a real socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from locum.service_manager import ServiceManager


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "notify"))
        made.setblocking(False)
        yield made


def _told(manager: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(manager.recv(1000).decode())
        except BlockingIOError:
            return found


def test_it_is_told_at_the_start_and_twice_in_its_watchdog_time(manager: socket.socket) -> None:
    environment = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "4000000", "PATH": "/bin"}
    here = ServiceManager({**environment, "WATCHDOG_PID": str(os.getpid())})
    here.ready()
    for now in (10.0, 10.5, 11.9, 12.0, 12.5):
        here.alive(now)
    assert _told(manager) == ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]


def test_children_do_not_get_its_variables(manager: socket.socket) -> None:
    environment = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "PATH": "/bin"}
    ServiceManager(environment)
    assert environment == {"PATH": "/bin"}


@pytest.mark.parametrize("watchdog", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"}])
def test_without_a_watchdog_for_this_process_there_is_no_sign_of_life(
    manager: socket.socket, watchdog: dict[str, str]
) -> None:
    ServiceManager({"NOTIFY_SOCKET": manager.getsockname(), **watchdog}).alive(1.0)
    assert _told(manager) == []


def test_an_abstract_socket() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as abstract:
        name = f"locum-test-{os.getpid()}"
        abstract.bind("\0" + name)
        ServiceManager({"NOTIFY_SOCKET": "@" + name}).ready()
        assert abstract.recv(100) == b"READY=1"


def test_a_manager_that_is_gone_or_absent_changes_nothing(tmp_path: Path) -> None:
    for environment in ({}, {"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "2000000"}):
        here = ServiceManager(environment)
        here.ready()
        here.alive(1.0)
