"""locum.script: what Python scripts use, each function as a script would."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from locum import rpc, script
from locum.script import Fail
from tests.unit.events.bench import alive, kill_service, until


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment of script 50.web."""
    for name, value in {
        "LOCUM_SCRIPT": "50.web",
        "LOCUM_NODE": "n1",
        "LOCUM_RUNTIME": str(tmp_path / "runtime"),
        "LOCUM_STATE": str(tmp_path / "state"),
        "LOCUM_SCRIPT_STATE": str(tmp_path / "state" / "scripts" / "50.web"),
        "LOCUM_SETTINGS": "{}",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("LOCUM_SOCKET", "LOCUM_DEADLINE", "LOCUM_LIFETIME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def configure(monkeypatch: pytest.MonkeyPatch, **settings: object) -> None:
    monkeypatch.setenv("LOCUM_SETTINGS", json.dumps(settings))


@contextmanager
def listener(host: str = "127.0.0.1", answer: bytes | None = None) -> Iterator[int]:
    """A TCP port that is listened on; with ``answer``, every connection gets it and is closed."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        if answer is not None:

            def serve() -> None:
                while True:
                    try:
                        connection, _ = server.accept()
                    except OSError:
                        return
                    with connection:
                        connection.recv(4096)
                        connection.sendall(answer)

            threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)  # wakes accept()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


# -- context -------------------------------------------------------------------------------------------------


def test_settings_are_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, port=80, hosts=["a", "b"], tls=True)
    assert script.settings() == {"port": 80, "hosts": ["a", "b"], "tls": True}


def test_settings_of_a_script_started_by_hand_are_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCUM_SETTINGS")
    monkeypatch.setenv("LOCUM_SETTING_START_TIMEOUT", "7")
    assert script.settings() == {"start_timeout": "7"}


@pytest.mark.parametrize("value", [["a", "b"], "a b", "a,b", "a, b"])
def test_lists_of_words(monkeypatch: pytest.MonkeyPatch, value: object) -> None:
    configure(monkeypatch, names=value)
    assert script.setting_list("names") == ["a", "b"]
    assert script.setting_list("others", ["c"]) == ["c"]


def test_state_directory_exists(environment: Path) -> None:
    assert script.state_dir() == str(environment / "state" / "scripts" / "50.web")
    assert os.path.isdir(script.state_dir())


def test_without_the_environment_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCUM_SCRIPT_STATE")
    with pytest.raises(Fail, match="LOCUM_SCRIPT_STATE is not set: try the script with 'locum event run --dir"):
        script.state_dir()


def test_addresses_and_interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    assert script.public_addresses() == []
    assert script.interfaces() == []
    monkeypatch.setenv("LOCUM_ADDRESSES", "10.0.0.1/24@eth0,fd00::1/64@eth1")
    monkeypatch.setenv("LOCUM_INTERFACES", "eth0,eth1")
    assert script.public_addresses() == [
        script.PublicAddress("10.0.0.1", 24, "eth0"),
        script.PublicAddress("fd00::1", 64, "eth1"),
    ]
    assert script.interfaces() == ["eth0", "eth1"]


@pytest.mark.parametrize(("given", "status"), [(0, 1), (1, 1), (77, 77), (256, 1), (-3, 1)])
def test_a_failure_is_never_a_success(given: int, status: int) -> None:
    assert Fail("why", given).status == status


# -- waiting -------------------------------------------------------------------------------------------------


def test_waiting_for_a_port_that_comes() -> None:
    port = free_port()

    def later() -> None:
        time.sleep(0.2)
        with socket.create_server(("127.0.0.1", port)):
            time.sleep(5)

    threading.Thread(target=later, daemon=True).start()
    script.wait_for_port(port, timeout=60)
    script.wait_for_port(port, "127.0.0.1", timeout=60)


def test_waiting_for_a_port_that_never_comes() -> None:
    port = free_port()
    with pytest.raises(Fail, match=f"a listener on TCP port {port} did not come within 0.1 s"):
        script.wait_for_port(port, timeout=0.1)
    with pytest.raises(Fail, match=f"a connection to TCP port {port} of 127.0.0.1 did not come within 0.1 s"):
        script.wait_for_port(port, "127.0.0.1", timeout=0.1)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_checking_a_port(host: str) -> None:
    with listener(host) as port:
        script.check_port(port)
        script.check_port(port, host)
        assert script.is_listening(port)
    with pytest.raises(Fail, match=f"nothing listens on TCP port {port}"):
        script.check_port(port)
    with pytest.raises(Fail, match=f"no connection to TCP port {port} of {host}"):
        script.check_port(port, host)


def test_a_connection_to_the_port_is_not_a_listener_on_it() -> None:
    with listener() as port, socket.create_connection(("127.0.0.1", port)) as client:
        own = client.getsockname()[1]
        assert not script.is_listening(own)


def test_directories(environment: Path) -> None:
    script.check_directories(str(environment), f"{environment}/%U")
    with pytest.raises(Fail, match=f"not available: {environment}/a, {environment}/b"):
        script.check_directories(f"{environment}/a", str(environment), f"{environment}/b")
    threading.Timer(0.1, (environment / "a").mkdir).start()
    script.wait_for_directory(f"{environment}/a", timeout=60)
    with pytest.raises(Fail, match=f"directory {environment}/b did not come within"):
        script.wait_for_directory(f"{environment}/b", timeout=0.05)


def test_commands(environment: Path) -> None:
    threading.Timer(0.1, (environment / "a").touch).start()
    script.wait_for_command(["test", "-e", str(environment / "a")], timeout=60)
    with pytest.raises(Fail, match=r"sh -c echo not yet; exit 3 did not succeed within 0\.1 s: not yet"):
        script.wait_for_command(["sh", "-c", "echo not yet; exit 3"], timeout=0.1)


def test_running_a_program() -> None:
    assert script.run("echo 'a b'").output == "a b\n"
    assert script.run(["sh", "-c", "exit 3"], check=False).status == 3
    assert script.run(["sh", "-c", "kill -9 $$"], check=False).status == 137
    with pytest.raises(Fail, match=r"sh -c 'echo oops >&2; exit 3' failed: status 3\noops"):
        script.run(["sh", "-c", "echo oops >&2; exit 3"])
    with pytest.raises(Fail, match=r"did not end within 0\.1 s"):
        script.run("sleep 60", timeout=0.1)
    with pytest.raises(Fail, match="cannot run '/no/such': "):
        script.run(["/no/such"])
    with pytest.raises(Fail, match="cannot run"):
        script.run("")
    assert script.run(["printf", "\\377"]).output == "\\xff"


# -- services that answer ------------------------------------------------------------------------------------


def test_http() -> None:
    with listener(answer=b"HTTP/1.1 204 No Content\r\n\r\n") as port:
        assert script.check_http(port) == 204
    with pytest.raises(Fail, match=f"http://127.0.0.1:{port}/x: Connection refused"):
        script.check_http(port, "/x")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 503 Busy\r\n\r\n", "answered 503"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "answered 404"),
        (b"SSH-2.0-OpenSSH\r\n", "the answer is not HTTP"),
        (b"", "the answer is not HTTP"),
        (b"x" * 100000, "the answer is not HTTP"),
        (b"\xff\xfe\r\n\r\n", "the answer is not HTTP"),
    ],
)
def test_http_that_is_not_well(answer: bytes, reason: str) -> None:
    with listener(answer=answer) as port, pytest.raises(Fail, match=reason):
        script.check_http(port)


def test_http_that_hangs() -> None:
    with listener() as port, pytest.raises(Fail, match=r"no answer within 0\.2 s"):
        script.check_http(port, timeout=0.2)


def test_unix_sockets(environment: Path) -> None:
    path = str(environment / "socket")
    with pytest.raises(Fail, match="No such file"):
        script.check_unix_socket(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        with pytest.raises(Fail, match="Connection refused"):
            script.check_unix_socket(path)
        server.listen()
        script.check_unix_socket(path)


class FakeRpc:
    """A port mapper and one service (program 100003, version 3), in one; behaves as told."""

    def __init__(self, how: str = "well") -> None:
        self.how = how
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.tcp.getsockname()[1]
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", self.port))
        self.calls: list[tuple[int, int, int]] = []
        for target in (self._serve_tcp, self._serve_udp):
            threading.Thread(target=target, daemon=True).start()

    def _answer(self, request: bytes) -> bytes:
        xid, kind, version, program, program_version, procedure = struct.unpack_from(">6I", request)
        assert (kind, version) == (0, 2)
        self.calls.append((program, program_version, procedure))
        accepted = struct.pack(">6I", xid, 1, 0, 0, 0, 0)
        if program == 100000:
            wanted = struct.unpack_from(">4I", request, 40)
            registered = wanted[:2] == (100003, 3) and wanted[2] in (6, 17)
            return accepted + struct.pack(">I", self.port if registered else 0)
        if self.how == "denied":
            return struct.pack(">5I", xid, 1, 1, 1, 5)
        if self.how == "version":
            return struct.pack(">8I", xid, 1, 0, 0, 0, 2, 2, 4)
        if self.how == "verifier":
            return struct.pack(">5I", xid, 1, 0, 1, 3) + b"abc\0" + struct.pack(">I", 0)
        return accepted

    def _serve_tcp(self) -> None:
        while True:
            try:
                connection, _ = self.tcp.accept()
            except OSError:
                return
            with connection:
                length = struct.unpack(">I", connection.recv(4, socket.MSG_WAITALL))[0] & 0x7FFFFFFF
                answer = self._answer(connection.recv(length, socket.MSG_WAITALL))
                if self.how == "silent" and len(self.calls) > 1:
                    time.sleep(5)
                # In two fragments, as is allowed.
                first, second = answer[:5], answer[5:]
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    connection.sendall(struct.pack(">I", len(first)) + first)
                    connection.sendall(struct.pack(">I", 0x80000000 | len(second)) + second)

    def _serve_udp(self) -> None:
        dropped = False
        while True:
            try:
                request, peer = self.udp.recvfrom(65536)
            except OSError:
                return
            answer = self._answer(request)
            if self.how == "lossy" and not dropped:
                dropped = True
                continue
            self.udp.sendto(b"stray datagram", peer)
            self.udp.sendto(answer, peer)

    def close(self) -> None:
        self.tcp.close()
        self.udp.close()


@pytest.fixture
def fake_rpc(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], FakeRpc]]:
    made: list[FakeRpc] = []

    def make(how: str) -> FakeRpc:
        made.append(FakeRpc(how))
        monkeypatch.setattr(rpc, "PORTMAPPER_PORT", made[-1].port)
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("tcp", [True, False])
@pytest.mark.parametrize("how", ["well", "verifier", "lossy"])
def test_rpc(fake_rpc: Callable[[str], FakeRpc], how: str, tcp: bool) -> None:
    server = fake_rpc(how)
    script.check_rpc("nfs", 3, tcp=tcp, timeout=30)
    script.check_rpc(100003, 3, tcp=tcp, timeout=30)
    assert (100003, 3, 0) in server.calls


@pytest.mark.parametrize(
    ("how", "program", "reason"),
    [
        (
            "well",
            "mountd",
            "RPC service mountd: program 100005 version 3/tcp is not registered with the port mapper of 127.0.0.1",
        ),
        ("denied", "nfs", "the call was denied"),
        ("version", "nfs", "version not supported"),
        ("silent", "nfs", "no answer within 0.3 s"),
        ("well", "nosuch", "unknown RPC program 'nosuch'"),
    ],
)
def test_rpc_that_is_not_well(fake_rpc: Callable[[str], FakeRpc], how: str, program: str, reason: str) -> None:
    fake_rpc(how)
    with pytest.raises(Fail) as caught:
        script.check_rpc(program, 3, timeout=0.3 if how == "silent" else 30)
    assert reason in str(caught.value)


def test_rpc_without_a_port_mapper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "PORTMAPPER_PORT", free_port())
    with pytest.raises(
        Fail, match=r"RPC service nfs: program 100000 version 2 on 127.0.0.1 port \d+/tcp: Connection refused"
    ):
        script.check_rpc("nfs", 3)


# -- declared ports ------------------------------------------------------------------------------------------


def test_ports_are_declared_one_a_line(environment: Path) -> None:
    path = environment / "runtime" / "listen" / "50.web"
    script.expect_listen(443, 80)
    assert path.read_text() == "80\n443\n"
    script.expect_listen(8080)
    assert path.read_text() == "80\n443\n8080\n"
    before = path.stat()
    script.expect_listen(80)
    assert path.stat() == before, "nothing changed, so the daemon need not read it again"
    script.expect_no_listen(443)
    assert path.read_text() == "80\n8080\n"
    script.expect_no_listen()
    assert not path.exists()
    script.expect_no_listen()
    assert os.listdir(environment / "runtime") == ["listen"]


# -- services ------------------------------------------------------------------------------------------------


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


# -- the daemon ----------------------------------------------------------------------------------------------


@contextmanager
def daemon(path: Path, answer: bytes) -> Iterator[list[bytes]]:
    requests: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                requests.append(connection.recv(4096))
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield requests
        thread.join()


def test_tunables_without_a_daemon(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert script.apply_tunables() == "no daemon"
    monkeypatch.setenv("LOCUM_SOCKET", str(environment / "socket"))
    assert script.apply_tunables() == "no daemon"


def test_tunables(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = environment / "socket"
    monkeypatch.setenv("LOCUM_SOCKET", str(path))
    with daemon(path, b'{"ok": true, "result": {"message": "2 tunables set"}}\n') as requests:
        assert script.apply_tunables() == "2 tunables set"
    assert requests == [b'{"op": "tunable-defaults"}\n']


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b'{"ok": false, "error": "no store"}\n', "the tunables were not applied: no store"),
        (b"HTTP/1.1 400\r\n", "answer is not JSON"),
        (b"[1]\n", "answer is not JSON"),
    ],
)
def test_a_daemon_that_refuses(environment: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes, reason: str) -> None:
    path = environment / "socket"
    monkeypatch.setenv("LOCUM_SOCKET", str(path))
    with daemon(path, answer), pytest.raises(Fail, match=reason):
        script.apply_tunables()


# -- addresses: the kernel's part is tested in the lab -------------------------------------------------------


def test_i1_no_address_is_added_after_the_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCUM_DEADLINE", f"{time.clock_gettime(time.CLOCK_BOOTTIME) - 0.001:.9f}")
    with pytest.raises(Fail, match="the node's hold has ended: no address may be added"):
        script.add_address("lo", "192.0.2.1", "32")


def test_a_missing_interface_is_named() -> None:
    with pytest.raises(Fail, match="there is no interface nosuch0"):
        script.link_is_up("nosuch0")
