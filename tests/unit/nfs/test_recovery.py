"""Whom to notify, and what is said of those that could not be."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from locum.errors import LocumError
from locum.nfs import nsm, recovery

RECORDS = [
    {"address": "10.0.0.1", "client": "10.9.9.9", "revision": 1},
    {"address": "10.0.0.1", "client": "known.example", "revision": 2},
    {"address": "fd77::1", "client": "known.example", "revision": 3},
    {"address": "10.0.0.1", "client": "unknown.example", "revision": 4},
    {"address": "fd77::1", "client": "fd77::9", "revision": 5},
]


class World:
    """``sent``: what went out. ``deaf``: clients that do not acknowledge. ``forgotten``: taken off the list.
    ``failures``: the number of questions that the daemon cannot answer."""

    def __init__(self) -> None:
        self.sent: list[nsm.Notification] = []
        self.deaf: set[str] = set()
        self.forgotten: list[tuple[str, str, int]] = []
        self.failures = 0

    def ask(self, request: Mapping[str, Any], **_: object) -> object:
        if self.failures:
            self.failures -= 1
            raise LocumError("the store does not answer")
        self.forgotten += request.get("forget", [])
        return {"state": 7}

    def notify(self, notifications: Iterable[nsm.Notification], _timeout: float) -> list[nsm.Outcome]:
        self.sent = list(notifications)
        return [nsm.Outcome(one, "deaf" if one.client in self.deaf else "") for one in self.sent]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()

    def getaddrinfo(name: str, _port: None, family: int, _kind: int) -> list[tuple[Any, ...]]:
        if name == "known.example" and family == socket.AF_INET:
            return [(family, 0, 0, "", ("10.9.9.8", 0))]
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(recovery, "ask", made.ask)
    monkeypatch.setattr(nsm, "notify", made.notify)
    monkeypatch.setattr(recovery, "_is_here", lambda _: True)
    return made


def test_every_client_by_both_names_of_the_server(world: World) -> None:
    said = recovery.notify(RECORDS, "nfs.example", 60, 7)
    assert sorted((one.source, one.client, one.name, one.state) for one in world.sent) == [
        ("10.0.0.1", "10.9.9.8", "10.0.0.1", 7),
        ("10.0.0.1", "10.9.9.8", "nfs.example", 7),
        ("10.0.0.1", "10.9.9.9", "10.0.0.1", 7),
        ("10.0.0.1", "10.9.9.9", "nfs.example", 7),
        ("fd77::1", "fd77::9", "fd77::1", 7),
        ("fd77::1", "fd77::9", "nfs.example", 7),
    ]
    assert said.startswith("state 7: 3 clients notified")


def test_a_client_whose_name_nobody_knows_is_named_and_stays_on_record(world: World) -> None:
    """Not so one that has an address of one family only."""
    said = recovery.notify(RECORDS, "", 60, 7)
    assert said == "state 7: 3 clients notified, 1 did not answer: unknown.example: its name cannot be looked up"
    assert world.forgotten == []


def test_one_that_did_not_answer_is_forgotten(world: World) -> None:
    world.deaf = {"10.9.9.8"}
    said = recovery.notify(RECORDS, "", 60, 7)
    assert "10.9.9.8 from 10.0.0.1: deaf" in said
    assert world.forgotten == [("10.0.0.1", "known.example", 2)]


def test_clients_are_notified_when_the_store_answers_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "_READY_AGAIN", 0.0)
    world.failures = 3
    assert recovery.notify_when(lambda: True, RECORDS[:1], "", 60) == "state 7: 1 clients notified"
    monkeypatch.setattr(recovery, "READY_WITHIN", 0.0)
    world.failures = 3
    said = recovery.notify_when(lambda: True, RECORDS[:1], "", 60)
    assert said == "1 clients were not notified: the store does not answer"
