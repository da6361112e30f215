"""The call-out of rpc.statd: recorded, kept in the journal, delivered, and deaf to ``del-client`` when it must be."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import locum
from locum.control_socket import NoDaemon, Refused, ask
from locum.nfs import callout


class Daemon:
    """Answers on a control socket; ``requests`` are those that it got."""

    def __init__(self, path: Path, answer: dict[str, object]) -> None:
        self.path = str(path)
        self.requests: list[dict[str, Any]] = []
        self._answer = answer
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(self.path)
        self._server.listen()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                data = b""
                while not data.endswith(b"\n"):
                    piece = connection.recv(65536)
                    if not piece:
                        break
                    data += piece
                if data:
                    self.requests.append(json.loads(data))
                    connection.sendall(json.dumps(self._answer).encode() + b"\n")

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    @property
    def changes(self) -> list[tuple[str, str]]:
        return [(one["do"], one["client"]) for request in self.requests for one in request["changes"]]


@contextmanager
def daemon(path: Path, **answer: object) -> Iterator[Daemon]:
    found = Daemon(path, answer or {"ok": True, "result": {}})
    thread = threading.Thread(target=found.serve)
    thread.start()
    try:
        yield found
    finally:
        found.close()
        thread.join()
        path.unlink()


@pytest.fixture
def place(tmp_path: Path) -> tuple[str, str]:
    """State directory and control socket."""
    return str(tmp_path), str(tmp_path / "s")


def journal(state: str) -> list[tuple[str, str]]:
    lines = (Path(state) / "statd" / "journal").read_text().splitlines()
    return [(one["do"], one["client"]) for one in map(json.loads, lines)]


def test_recorded_by_the_daemon(place: tuple[str, str]) -> None:
    state, path = place
    with daemon(Path(path)) as found:
        assert callout.record(["add-client", "10.0.0.9", "10.0.0.1", "3"], state=state, path=path) == "recorded"
    assert found.requests[0]["op"] == "statd-record"
    assert found.requests[0]["changes"][0]["server"] == "10.0.0.1"
    assert not (Path(state) / "statd" / "journal").exists()


def test_without_a_daemon_it_is_kept_and_delivered_in_order(place: tuple[str, str]) -> None:
    state, path = place
    for arguments in (["add-client", "a"], ["add-client", "b", "me"]):
        assert callout.record(arguments, state=state, path=path) == "journal"
    with daemon(Path(path)) as found:
        # What comes now must not overtake what waits.
        assert callout.record(["add-client", "c"], state=state, path=path) == "journal"
        assert callout.deliver(state=state, path=path) == 3
        assert callout.record(["add-client", "d"], state=state, path=path) == "recorded"
    assert found.changes == [("add", "a"), ("add", "b"), ("add", "c"), ("add", "d")]


def test_the_end_of_monitoring_is_delivered_some_time_later(
    place: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state, path = place
    times = iter((100.0, 100.0, 200.0, 200.0))
    monkeypatch.setattr("time.time", lambda: next(times))
    for client in ("a", "b"):
        assert callout.record(["del-client", client], state=state, path=path) == "noted"
    monkeypatch.setattr("time.time", lambda: 300.0)
    with pytest.raises(NoDaemon):
        callout.deliver_ends(150, state=state, path=path)
    with daemon(Path(path)) as found:
        assert callout.deliver_ends(150, state=state, path=path) == 1
        assert callout.deliver_ends(150, state=state, path=path) == 0
        assert callout.deliver_ends(250, state=state, path=path) == 1
        assert callout.deliver_ends(250, state=state, path=path) == 0
    assert found.changes == [("del", "a"), ("del", "b")]
    assert [request["changes"][0]["at"] for request in found.requests] == [100, 200]


def test_the_end_of_monitoring_by_a_server_that_was_restarted_is_forgotten(place: tuple[str, str]) -> None:
    state, path = place
    callout.forget_ends(state=state)
    callout.record(["del-client", "a"], state=state, path=path)
    callout.forget_ends(state=state)
    with daemon(Path(path)) as found:
        assert callout.deliver_ends(1e12, state=state, path=path) == 0
    assert found.changes == []


def test_a_store_that_is_away_is_waited_for(place: tuple[str, str]) -> None:
    state, path = place
    with daemon(Path(path), ok=False, error="no answer", kind="unavailable"):
        assert callout.record(["add-client", "a"], state=state, path=path) == "journal"
        with pytest.raises(Refused):
            callout.deliver(state=state, path=path)
    assert journal(state) == [("add", "a")]
    with pytest.raises(NoDaemon):
        callout.deliver(state=state, path=path)
    assert journal(state) == [("add", "a")]


@pytest.mark.parametrize("kind", ["store", "error", "permission"])
def test_whatever_else_a_daemon_cannot_do_is_tried_later(place: tuple[str, str], kind: str) -> None:
    """Only what it does not understand is lost: a full store or a defect must not cost a client its locks."""
    state, path = place
    with daemon(Path(path), ok=False, error="no space", kind=kind):
        assert callout.record(["add-client", "a"], state=state, path=path) == "journal"
    (Path(state) / "statd" / "journal").unlink()
    with daemon(Path(path), ok=False, error="what is this", kind="usage"), pytest.raises(callout.Wrong, match="what"):
        callout.record(["add-client", "a"], state=state, path=path)


def test_a_change_that_the_daemon_refuses_does_not_keep_back_others(
    place: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state, path = place
    for client in ("a", "odd", "b"):
        callout.record(["add-client", client], state=state, path=path)
    accepted: list[str] = []

    def choosy(request: Any, **_: Any) -> None:
        clients = [one["client"] for one in request["changes"]]
        if "odd" in clients:
            raise Refused("invalid change of a statd client", "usage")
        accepted.extend(clients)

    monkeypatch.setattr(callout, "ask", choosy)
    assert callout.deliver(state=state, path=path) == 2
    assert accepted == ["a", "b"]
    assert journal(state) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_journal_stays_with_the_owner_of_its_directory(place: tuple[str, str]) -> None:
    """rpc.statd adds to it without being root; root hands it over."""
    state, path = place
    directory = Path(state) / "statd"
    directory.mkdir()
    os.chown(directory, 64123, 64124)

    def owner() -> tuple[int, int, int]:
        status = (directory / "journal").stat()
        return status.st_uid, status.st_gid, status.st_mode & 0o777

    callout.record(["add-client", "a"], state=state, path=path)
    assert owner() == (64123, 64124, 0o600)
    with daemon(Path(path)):
        callout.deliver(state=state, path=path)
    assert owner() == (64123, 64124, 0o600)


def test_what_arrives_during_a_delivery_stays(place: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    state, path = place
    callout.record(["add-client", "a"], state=state, path=path)
    real = ask
    asked: list[object] = []

    def slow(request: Any, **options: Any) -> Any:
        if not asked:
            asked.append(request)
            callout.record(["add-client", "late"], state=state, path=path)
        return real(request, **options)

    monkeypatch.setattr(callout, "ask", slow)
    with daemon(Path(path)) as found:
        assert callout.deliver(state=state, path=path) == 2
    assert found.changes == [("add", "a"), ("add", "late")]


def test_half_a_line_is_passed_over(place: tuple[str, str]) -> None:
    state, path = place
    callout.record(["add-client", "a"], state=state, path=path)
    with (Path(state) / "statd" / "journal").open("a") as file:
        file.write('{"do": "ad')
    with daemon(Path(path)) as found:
        callout.deliver(state=state, path=path)
    assert found.changes == [("add", "a")]


def test_while_the_lock_manager_restarts_no_client_is_forgotten(place: tuple[str, str]) -> None:
    state, path = place
    callout.keep(60, state=state)
    assert callout.record(["del-client", "a"], state=state, path=path) == "kept"
    assert callout.record(["add-client", "a"], state=state, path=path) == "journal"
    callout.keep(0, state=state)
    assert callout.record(["del-client", "a"], state=state, path=path) == "noted"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["add-client"],
        ["sm-notify", "a"],
        ["-h", "x"],
        ["add-client", ""],
        ["add-client", "a" * 256],
        ["add-client", "a\udc80"],
    ],
)
def test_wrong_arguments(place: tuple[str, str], arguments: list[str]) -> None:
    state, path = place
    with pytest.raises(callout.Wrong, match=r"usage|invalid client name"):
        callout.record(arguments, state=state, path=path)


def test_as_a_program_without_site_packages(place: tuple[str, str]) -> None:
    """rpc.statd waits for it, so it needs nothing that is slow to import."""
    state, path = place
    root = str(Path(locum.__file__).parents[1])
    environment = {"PYTHONPATH": root, "LOCUM_STATE": state, "LOCUM_SOCKET": path, "PATH": os.environ["PATH"]}
    command = [sys.executable, "-S", "-m", "locum.nfs.callout"]
    done = subprocess.run([*command, "add-client", "a", "me"], env=environment, check=False, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert journal(state) == [("add", "a")]
    done = subprocess.run([*command, "nonsense"], env=environment, check=False, capture_output=True)
    assert done.returncode == 2
