"""QMP and the guest agent's protocol against a server that is played here."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from locum_lab.vm.channel import Agent, GuestError, Monitor

Reply = Callable[[dict[str, Any]], list[bytes]]


class Server:
    """Serves one connection at a time, as QEMU does: ``greeting`` first, then what ``reply`` gives for each request."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.greeting = b""
        self.reply: Reply = lambda _: []
        self.requests: list[dict[str, Any]] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as lines:
                connection.sendall(self.greeting)
                for line in lines:
                    request = json.loads(line.lstrip(b"\xff"))
                    self.requests.append(request)
                    for part in self.reply(request):
                        connection.sendall(part)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "socket")
    yield made
    made.close()


def _line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _agent(answers: Callable[[dict[str, Any]], object]) -> Reply:
    """An agent that still has half an answer for an earlier connection."""

    def reply(request: dict[str, Any]) -> list[bytes]:
        if request["execute"] == "guest-sync-delimited":
            late = _line({"return": {"pid": 1}})
            return [late, b"\xff", _line({"return": request["arguments"]["id"]})]
        return [_line(answers(request))]

    return reply


def test_a_monitor_passes_over_events(server: Server) -> None:
    server.greeting = _line({"QMP": {"version": {}}})
    event = _line({"event": "STOP", "timestamp": {}})
    server.reply = lambda request: [
        event,
        _line({"return": {"status": "paused"} if request["execute"] == "query-status" else {}}),
    ]
    assert Monitor(server.path).execute("query-status") == {"status": "paused"}
    assert [request["execute"] for request in server.requests] == ["qmp_capabilities", "query-status"]


def test_a_refused_command_says_why(server: Server) -> None:
    server.greeting = _line({"QMP": {}})
    server.reply = lambda request: [
        _line({"return": {}} if request["execute"] == "qmp_capabilities" else {"error": {"desc": "no such device"}})
    ]
    with pytest.raises(GuestError, match="set_link: no such device"):
        Monitor(server.path).execute("set_link", name="eth9", up=False)


def test_an_answer_in_pieces_is_put_together(server: Server) -> None:
    server.greeting = _line({"QMP": {}})
    whole = _line({"return": {}})
    server.reply = lambda _: [whole[:5], whole[5:]]
    assert Monitor(server.path).execute("cont") == {}


def test_a_guest_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match="has the guest ended"):
        Monitor(tmp_path / "nothing").execute("cont")


def test_an_agent_that_does_not_answer_is_an_error(server: Server) -> None:
    agent = Agent(server.path, limit=0.2)
    with pytest.raises(GuestError, match="no answer in time"):
        agent.execute("guest-ping")
    assert not agent.answers(limit=0.2)


def test_late_answers_to_others_are_not_taken_for_ours(server: Server) -> None:
    server.reply = _agent(lambda _: {"return": {"pid": 7}})
    assert Agent(server.path).start(["true"]) == 7


def test_a_command_is_awaited_and_its_output_decoded(server: Server) -> None:
    asked: list[int] = []

    def answers(request: dict[str, Any]) -> object:
        if request["execute"] == "guest-exec":
            return {"return": {"pid": 5}}
        asked.append(request["arguments"]["pid"])
        if len(asked) < 3:
            return {"return": {"exited": False}}
        return {"return": {"exited": True, "exitcode": 2, "out-data": base64.b64encode("é\n".encode()).decode()}}

    server.reply = _agent(answers)
    done = Agent(server.path).run(["cat", "-"], text="in")
    assert (done.status, done.stdout, done.stderr) == (2, "é\n", "")
    assert asked == [5, 5, 5]
    started = next(request for request in server.requests if request["execute"] == "guest-exec")["arguments"]
    assert (started["path"], started["arg"]) == ("cat", ["-"])
    assert base64.b64decode(started["input-data"]) == b"in"


def test_a_signal_is_a_negative_status(server: Server) -> None:
    server.reply = _agent(
        lambda request: {"return": {"pid": 5} if request["execute"] == "guest-exec" else {"exited": True, "signal": 9}}
    )
    assert Agent(server.path).run(["sleep", "9"]).status == -9


def test_a_file_is_written_in_pieces_and_closed(server: Server) -> None:
    content = bytes(range(256)) * 8192  # two pieces
    server.reply = _agent(lambda request: {"return": 3 if request["execute"] == "guest-file-open" else {}})
    Agent(server.path).write("/etc/x", content)
    pieces = [request["arguments"] for request in server.requests if request["execute"] == "guest-file-write"]
    assert b"".join(base64.b64decode(piece["buf-b64"]) for piece in pieces) == content
    assert len(pieces) == 2
    assert server.requests[-1] == {"execute": "guest-file-close", "arguments": {"handle": 3}}


def test_a_file_is_read_to_its_end(server: Server) -> None:
    parts = iter([b"one ", b"two"])

    def answers(request: dict[str, Any]) -> object:
        if request["execute"] != "guest-file-read":
            return {"return": 3 if request["execute"] == "guest-file-open" else {}}
        part = next(parts)
        return {"return": {"count": len(part), "buf-b64": base64.b64encode(part).decode(), "eof": part == b"two"}}

    server.reply = _agent(answers)
    assert Agent(server.path).read("/etc/x") == b"one two"


def test_a_command_waits_while_others_queue_at_the_socket(tmp_path: Path) -> None:
    path = tmp_path / "full"
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as first:
        listening.bind(str(path))
        listening.listen(0)
        first.connect(str(path))
        assert not Agent(path).answers(0.3)

        def serve() -> None:
            for _ in range(2):
                listening.accept()[0].close()

        serving = threading.Timer(0.3, serve)
        serving.start()
        with pytest.raises(GuestError, match="closed"):
            Monitor(path).execute("query-status")
        serving.join()
