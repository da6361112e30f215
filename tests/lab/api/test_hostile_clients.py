"""Bad peers at the control socket and at the store's: garbage, floods, those who do not read, and other users."""

from __future__ import annotations

import contextlib
import grp
import json
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from locum.api.model import AddressReport
from locum.json_lines_async import MAX_CONNECTIONS
from locum.unix_sockets import FRAME_LIMIT
from locum_lab import processes
from locum_lab.lab import Lab
from tests.lab.clusters import check_kernels, locum
from tests.lab.conftest import MakeLab
from tests.lab.hostile import (
    agents,
    ask,
    ask_raw,
    connect,
    lab_for_module,
    memory_of,
    nobody_disturbed,
    report_with,
    watch,
)

pytestmark = [pytest.mark.lab, pytest.mark.long]

GARBAGE = [
    b"\x00" * 100 + b"\n",
    b"\xff\xfe\n",
    b"{\n",
    b"[]\n",
    b"null\n",
    b"1e999\n",
    b"[" * 100_000 + b"\n",
    b'{"op":' * 50_000 + b"\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b'{"op":"\\ud800"}\n',
    b'{"op":{"a":1}}\n',
    b'{"op":"nonsense"}\n',
    b'{"request":"nonsense"}\n',
    b'{"request":"watch","id":1,"prefix":"","after":-5}\n',
    b'{"request":"read","id":99999999999999999999999,"prefix":""}\n',
    b'{"request":"commit","id":1,"conditions":[{"key":"a","revision":-1}],"operations":[]}\n',
]
#: What may stand where anything may stand.
VALUES: list[object] = [
    None,
    True,
    -1,
    0,
    1e308,
    10**30,
    "",
    "\0",
    "x" * 1000,
    [],
    {},
    [[]],
    "fe80::1%eth0",
    "10.77.0.2",
    "n1",
    "monitor",
]
FIELDS = [
    *("command", "node", "address", "name", "value", "seconds", "wait", "event", "connections", "pairs", "port"),
    *("client", "server", "state", "my_name", "path"),
]


@pytest.fixture(scope="module")
def shared() -> Iterator[Lab]:
    with lab_for_module("sockets") as lab:
        yield lab


@pytest.fixture
def lab(request: pytest.FixtureRequest, shared: Lab) -> Lab:
    report_with(request, shared)
    return shared


def sockets(lab: Lab) -> tuple[Path, Path]:
    """The control socket of one node, and the store's."""
    return lab.control_socket("n1"), lab.directory / "store.sock"


def test_garbage_half_lines_and_oversized_requests(lab: Lab) -> None:
    before = agents(lab)
    with nobody_disturbed(lab):
        for path in sockets(lab):
            for garbage in GARBAGE:
                answer = ask_raw(path, garbage)
                assert answer.endswith(b"\n"), f"{garbage[:40]!r} is answered by {answer!r}"
            # 16 MiB without an end, and with one.
            for tail in (b"", b"\n"):
                answer = b""
                with connect(path) as sock:
                    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                        sock.sendall(b"x" * (FRAME_LIMIT + 65536) + tail)
                    with contextlib.suppress(ConnectionResetError):
                        while more := sock.recv(65536):
                            answer += more
                assert b"frame of more than" in answer or not answer, answer[-200:]
            # Half a line, and nothing more; then the connection is dropped.
            with connect(path) as sock:
                sock.sendall(b'{"op":"status"')
        for kept in [connect(path) for path in sockets(lab) for _ in range(5)]:
            kept.sendall(b'{"op":"sta')
            kept.close()
        locum(lab, "n1", "status")
    assert agents(lab) == before


def test_any_operation_with_any_fields_is_answered(lab: Lab) -> None:
    before = agents(lab)
    path = lab.control_socket("n1")
    chance = random.Random(1)
    known = str(ask(path, {"op": "?"})["error"]).partition("known are ")[2].split(", ")
    assert len(known) > 10
    with nobody_disturbed(lab), connect(path) as sock:
        reader = sock.makefile("rb")
        for name in known:
            # What they do is not garbage: these three do what they say whatever else is in the request.
            for _ in range(0 if name in ("watch", "shutdown", "reload") else 30):
                message: dict[str, object] = {field: chance.choice(VALUES) for field in chance.sample(FIELDS, 4)}
                if name == "admin":
                    message |= {
                        "command": chance.choice(["move", "auto", "tunable-set", "tunable-reset", "remove", "x"])
                    }
                message["op"] = name
                sock.sendall(json.dumps(message).encode() + b"\n")
                answer = json.loads(reader.readline())
                assert "unexpected" not in answer.get("error", ""), f"{message}: {answer}"
    assert agents(lab) == before
    assert "Traceback" not in lab.daemon_log("n1").read_text()


def test_many_connections_and_those_who_do_not_read(lab: Lab) -> None:
    """Who comes too late is told so; who had a connection keeps it; when they go, others are served again."""
    before = agents(lab)
    agent = before["n1"]
    assert agent is not None
    for path in sockets(lab):
        with nobody_disturbed(lab), contextlib.ExitStack() as stack:
            many: list[socket.socket] = []
            refused = 0
            for _ in range(MAX_CONNECTIONS + 50):
                sock = stack.enter_context(connect(path))
                many.append(sock)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    sock.sendall(b'{"op":"watch"}\n' if path.name == "control.sock" else b"")
            for sock in many[-50:]:
                answer = sock.recv(65536)
                refused += b"too many connections" in answer
            assert refused >= 40, refused
            if path.name == "control.sock":
                error = locum(lab, "n1", "status", status=1)
                assert "too many connections" in error
            # Something to tell to five hundred who do not read.
            for interval in (3, 4):
                locum(lab, "n2", "tunable", "set", "TickleCount", str(interval))
            assert memory_of(agent.pid) < 400 * 1024 * 1024
        lab.wait_for("the socket to be free", lambda path=path: b"too many" not in ask_raw(path, b"?\n"))  # type: ignore[misc]
    locum(lab, "n1", "status")
    locum(lab, "n2", "tunable", "reset", "TickleCount")
    assert agents(lab) == before


NONSENSE = [
    b"\x00\xff" * 1000 + b"\n",
    b"[]\n",
    b'{"id":1}\n' * 100,
    b'{"id":-1,"revision":"x","entries":7}\n',
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"x" * (FRAME_LIMIT + 65536),
    b"",
]


class FalseStore:
    """Listens where a node's store does, and says one kind of nonsense to each connection."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen(16)
        self.served = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no more."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(1.0)
                connection.recv(65536)
                connection.sendall(NONSENSE[self.served % len(NONSENSE)])
            self.served += 1


def test_a_store_that_talks_nonsense_costs_its_node_the_hold_and_nothing_else(make_lab: MakeLab) -> None:
    lab = make_lab(hold=1.0, services=("web",))
    lab.wait_served()
    agent = lab.agent("n1")
    path = lab.state.nodes["n1"].path
    assert path is not None
    with watch(lab) as watching:
        processes.send(path, signal.SIGKILL)
        processes.wait_gone([path], 10.0)
        store = FalseStore(lab.node_directory("n1") / "store.sock")
        lab.wait_for("others to serve", lambda: not {a.address for a in lab.status("n2").addresses if not taken(a)})
        lab.wait_for("every kind of nonsense", lambda: store.served > 2 * len(NONSENSE), 60.0)
        assert lab.configured("n1") == {}
        assert lab.agent("n1") == agent
        report = lab.status("n1")
        assert report.stale
        assert report.daemon is not None
        assert report.daemon.store_problem
        assert any("hold has ended" in warning for warning in report.warnings)
        store.close()
        lab.store.open_path("n1")
        lab.wait_served()
        assert watching.end().violations == 0
    assert lab.agent("n1") == agent
    assert "Traceback" not in lab.daemon_log("n1").read_text()
    check_kernels(lab)


def taken(address: AddressReport) -> bool:
    """Whether another node than n1 serves it."""
    return address.serving and address.node != "n1"


BECOME = """
import os, sys
from locum.api import client
from locum.errors import LocumError
os.setgroups([int(number) for number in sys.argv[1].split(",") if number])
os.setgid(65534); os.setuid(65534)
try:
    print(client.call(sys.argv[2], {"op": sys.argv[3], "command": "stop"}))
except LocumError as error:
    print(error)
"""


def as_nobody(groups: str, path: Path, operation: str) -> str:
    """What a user that owns nothing, in these groups, is answered. (It may not even see this checkout.)"""
    done = subprocess.run(
        [sys.executable, "-c", BECOME, groups, str(path), operation], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def open_way(lab: Lab) -> None:
    """Let everybody reach the directory of the sockets, so that the sockets themselves are what keeps people out."""
    for directory in (lab.directory.parent, lab.directory, lab.directory / "nodes", lab.node_directory("n1")):
        directory.chmod(0o755)
    (lab.node_directory("n1") / "runtime").chmod(0o755)


@pytest.mark.parametrize("named", [None, "daemon"])
def test_sockets_are_for_root_or_the_group_by_mode_and_by_credentials(make_lab: MakeLab, named: str | None) -> None:
    lab = make_lab(nodes=1, addresses=2, hold=1.0, services=("echo",), daemons=False)
    config = lab.node_directory("n1") / "config.toml"
    group = None
    if named is not None:
        text = config.read_text()
        assert "[paths]\n" in text
        config.write_text(text.replace("[paths]\n", f'[paths]\ncontrol_group = "{named}"\n'))
        group = str(grp.getgrnam(named).gr_gid)
    lab.start_daemons()
    lab.wait_served()
    open_way(lab)
    path = lab.control_socket("n1")
    assert path.stat().st_mode & 0o777 == (0o600 if group is None else 0o660)
    assert path.stat().st_uid == 0
    store = lab.directory / "store.sock"
    for one in (path, store):
        assert "no permission to use" in as_nobody("", one, "admin")
    # The kernel's word counts, not the file's mode alone.
    for one in (path, store):
        one.chmod(0o666)
        assert "permission denied" in as_nobody("", one, "admin")
        assert "permission denied" in as_nobody("4321,100", one, "admin")
    if group is not None:
        assert "'leader': 'n1'" in as_nobody(group, path, "status")
        assert "permission denied" in as_nobody(group, store, "status")
    assert lab.status().nodes[0].state == "OK"
