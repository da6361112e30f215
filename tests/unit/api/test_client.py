"""The blocking client: answers, streams, and every way in which there is no answer."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from locum import unix_sockets
from locum.api.answers import END, failure, success
from locum.api.client import call, stream_raw
from locum.control_socket import NoAnswer, NoDaemon
from locum.errors import (
    ConfigError,
    LocumError,
    PermissionRequired,
    ProblemsError,
    ProtocolError,
    StoreUnavailable,
    UsageError,
)
from tests.unit.api.fake_daemon import fake_daemon


def stream(path: str, request: Mapping[str, object], timeout: float | None = None) -> Iterator[object]:
    for result in stream_raw(path, request, timeout):
        yield json.loads(result)


def test_call_sends_the_request_and_returns_the_result(tmp_path: Path) -> None:
    with fake_daemon(tmp_path / "s", lambda request: success({"echo": request["op"]})) as daemon:
        assert call(daemon.path, {"op": "status"}) == {"echo": "status"}
        assert daemon.requests == [{"op": "status"}]


def test_a_result_may_be_large(tmp_path: Path) -> None:
    with fake_daemon(tmp_path / "s", lambda _: success(["x" * 1000] * 3000)) as daemon:
        result = call(daemon.path, {"op": "status"})
        assert isinstance(result, list)
        assert len(result) == 3000


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UsageError("no such node"), UsageError),
        (StoreUnavailable("the store does not answer"), StoreUnavailable),
        (PermissionRequired("not you"), PermissionRequired),
        (LocumError("something"), LocumError),
        (NoAnswer("a subclass that has no kind of its own"), LocumError),
    ],
)
def test_an_error_is_raised_again_as_what_it_was(tmp_path: Path, error: LocumError, expected: type) -> None:
    with (
        fake_daemon(tmp_path / "s", lambda _: failure(error)) as daemon,
        pytest.raises(LocumError, match=f"^{error}$") as caught,
    ):
        call(daemon.path, {"op": "x"})
    assert type(caught.value) is expected


def test_problems_arrive_one_by_one(tmp_path: Path) -> None:
    error = ConfigError("/etc/locum/locum.toml", ["line 1: bad", "line 2: worse"])
    with fake_daemon(tmp_path / "s", lambda _: failure(error)) as daemon, pytest.raises(ConfigError) as caught:
        call(daemon.path, {"op": "reload"})
    assert caught.value.problems == error.problems
    assert caught.value.subject == error.subject


def test_an_unknown_kind_of_error_is_still_an_error(tmp_path: Path) -> None:
    answer = {"ok": False, "error": "new in version 9", "kind": "novelty"}
    with fake_daemon(tmp_path / "s", lambda _: answer) as daemon, pytest.raises(LocumError, match="version 9"):
        call(daemon.path, {"op": "x"})


def test_a_refusal_that_comes_before_the_request_is_read(tmp_path: Path) -> None:
    """wire_async answers ``{"error": …}`` and closes at once when the peer may not connect."""
    listener = unix_sockets.listen(str(tmp_path / "s"))
    listener.sock.setblocking(True)

    def refuse() -> None:
        connection, _ = listener.sock.accept()
        connection.sendall(b'{"error": "permission denied: not you"}\n')
        connection.close()

    thread = threading.Thread(target=refuse)
    thread.start()
    with pytest.raises(LocumError, match="permission denied: not you"):
        call(listener.path, {"op": "x", "padding": "x" * 1_000_000}, timeout=20)
    thread.join()
    listener.close()


def test_no_socket_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NoDaemon, match=r"no Locum daemon at .*/s: is it running .*--socket") as caught:
        call(str(tmp_path / "s"), {"op": "status"})
    assert caught.value.exit_status == 1


def test_a_socket_that_nobody_listens_on_any_more(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    with pytest.raises(NoDaemon, match="left over"):
        call(str(tmp_path / "s"), {"op": "status"})


def test_a_path_that_is_no_socket(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("")
    with pytest.raises(UsageError, match="is not a socket"):
        call(str(tmp_path / "s"), {"op": "status"})
    with pytest.raises(UsageError, match="too long"):
        call(str(tmp_path / ("s" * 200)), {"op": "status"})


def test_no_permission(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        directory = tmp_path / "closed"
        directory.mkdir(mode=0)
        with pytest.raises(PermissionRequired, match="no permission"):
            call(str(directory / "s"), {"op": "status"})
        return
    listener = unix_sockets.listen(str(tmp_path / "s"))
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == 0 and parent.stat().st_mode & 0o77 == 0:
            parent.chmod(0o711)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgid(65534)
            os.setuid(65534)
            try:
                call(listener.path, {"op": "status"})
            except PermissionRequired as error:
                status = 0 if "uid 65534" in str(error) and "control_group" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    listener.close()


def test_a_daemon_that_does_not_answer(tmp_path: Path) -> None:
    release = threading.Event()

    def hang(_: object) -> None:
        release.wait(30)

    with fake_daemon(tmp_path / "s", hang) as daemon:
        with pytest.raises(NoAnswer, match=r"no answer within 0\.05 s"):
            call(daemon.path, {"op": "status"}, timeout=0.05)
        release.set()


def test_a_daemon_that_goes_away(tmp_path: Path) -> None:
    with fake_daemon(tmp_path / "s", lambda _: None) as daemon, pytest.raises(NoDaemon, match="without an answer"):
        call(daemon.path, {"op": "status"})


@pytest.mark.parametrize(
    "garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"[1, 2]\n", b"\xff\xfe\n", b'{"ok": "yes"}\n']
)
def test_garbage(tmp_path: Path, garbage: bytes) -> None:
    with (
        fake_daemon(tmp_path / "s", lambda _: garbage) as daemon,
        pytest.raises(ProtocolError, match="is not a Locum daemon"),
    ):
        call(daemon.path, {"op": "status"})


def test_stream_yields_until_its_end(tmp_path: Path) -> None:
    answers = [success(1), success({"two": 2}), END]
    with fake_daemon(tmp_path / "s", lambda _: answers) as daemon:
        assert list(stream(daemon.path, {"op": "watch"})) == [1, {"two": 2}]


def test_stream_that_breaks_off_or_fails(tmp_path: Path) -> None:
    with fake_daemon(tmp_path / "a", lambda _: [success(1)]) as daemon:
        results = stream(daemon.path, {"op": "watch"})
        assert next(results) == 1
        with pytest.raises(NoDaemon):
            next(results)
    with fake_daemon(tmp_path / "b", lambda _: [success(1), failure(UsageError("no more"))]) as daemon:
        results = stream(daemon.path, {"op": "watch"})
        assert next(results) == 1
        with pytest.raises(UsageError, match="no more"):
            next(results)


def test_closing_a_stream_closes_the_connection(tmp_path: Path) -> None:
    def endless(_: object) -> object:
        while True:
            yield success("x" * 10000)

    with fake_daemon(tmp_path / "s", endless) as daemon:
        results = stream(daemon.path, {"op": "watch"})
        next(results)
        results.close()  # type: ignore[attr-defined]
        assert daemon.disconnected.wait(20)


def test_failure_keeps_problems_apart_from_plain_errors() -> None:
    assert failure(ProblemsError("x", ["a"]))["kind"] == "problems"
    assert "problems" not in failure(UsageError("x"))
