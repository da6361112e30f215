"""The scripts of services, run through an engine over stand-ins: settings, failures, moves."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import locum
from locum.events.model import Event, EventResult
from locum.script import Fail, ManagedService, check_ftp, check_smb, samba, vsftpd
from tests.unit.events.bench import Bench, alive, kill_service, until

SHIPPED = Path(locum.__file__).parent / "scripts"

#: Listens, greets everybody with the first argument, and ends when it is told to.
SERVER = """\
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    client, _ = server.accept()
    client.sendall(sys.argv[2].encode() + b"\\r\\n")
    client.close()
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Scene:
    """One shipped script on a bench, under a name, with settings; ends the service that it started."""

    def __init__(self, bench: Bench, source: str, name: str = "", **settings: object) -> None:
        self.bench = bench
        self.name = name or source
        self.settings: dict[str, object] = settings
        shutil.copy(SHIPPED / source, bench.scripts / self.name)
        (bench.scripts / self.name).chmod(0o755)

    def run(
        self, event: Event, *arguments: str, others: Mapping[str, Mapping[str, object]] | None = None
    ) -> EventResult:
        return self.bench.run(event, *arguments, settings={self.name: self.settings, **(others or {})})

    def ok(self, event: Event, *arguments: str) -> str:
        """Run it; it must succeed. Its output."""
        result = self.run(event, *arguments)
        assert result.ok, result
        return "".join(script.output for script in result.scripts)

    def fails(self, event: Event, *arguments: str) -> str:
        """Run it; it must fail. Its output."""
        failure = self.run(event, *arguments).failure
        assert failure is not None
        return failure.output

    @property
    def record(self) -> Path:
        return self.bench.runtime / "services" / f"{self.name}.pid"

    def pid(self) -> int:
        found = list((self.bench.runtime / "services").glob(f"{self.name}*.pid"))
        return int(found[0].read_text().split()[0])

    def listens(self) -> list[int]:
        path = self.bench.runtime / "listen" / self.name
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def end(self) -> None:
        for record in (self.bench.runtime / "services").glob(f"{self.name}*.pid"):
            if words := record.read_text().split():
                kill_service(int(words[0]))


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def generic(bench: Bench, port: int) -> Iterator[Scene]:
    scene = Scene(bench, "70.service", command=[sys.executable, "-c", SERVER, str(port), "220 hello"], ports=[port])
    yield scene
    scene.end()


# -- 70.service: what all of them share ------------------------------------------------------------------------


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


# -- moves -----------------------------------------------------------------------------------------------------


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


# -- what servers are asked ------------------------------------------------------------------------------------


@contextlib.contextmanager
def answering(answer: bytes | None) -> Iterator[int]:
    """A server that answers each connection like this; None: not at all."""
    server = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            held.append(client)
            if answer is not None:
                client.sendall(answer)
                client.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()
        for client in held:
            client.close()


def test_ftp_is_asked_for_its_greeting() -> None:
    with answering(b"220 (vsFTPd 3.0.3)\r\n") as port:
        check_ftp(port)
    # Full is not broken: its clients would all go to the next node, and fill that.
    with answering(b"421 There are too many connected users\r\n") as port:
        check_ftp(port)
    with answering(b"500 OOPS: cannot read config file\r\n") as port, pytest.raises(Fail, match="500 OOPS"):
        check_ftp(port)
    with answering(b"") as port, pytest.raises(Fail, match="closed the connection"):
        check_ftp(port)
    with answering(None) as port, pytest.raises(Fail, match=r"no answer within 0\.2 s"):
        check_ftp(port, timeout=0.2)
    with pytest.raises(Fail, match="refused"):
        check_ftp(free_port())


def test_smb_is_asked_to_negotiate() -> None:
    header = b"\xfeSMB" + bytes(60)
    with answering(len(header).to_bytes(4, "big") + header) as port:
        check_smb(port)
    with answering((64).to_bytes(4, "big") + bytes(64)) as port, pytest.raises(Fail, match="not SMB"):
        check_smb(port)
    with answering(len(header).to_bytes(4, "big") + header[:20]) as port, pytest.raises(Fail, match="closed"):
        check_smb(port)
    with answering(None) as port, pytest.raises(Fail, match="no answer"):
        check_smb(port, timeout=0.2)


def test_a_vsftpd_that_refuses_everybody(bench: Bench, port: int) -> None:
    scene = Scene(bench, "40.vsftpd", ports=[port], command=[sys.executable, "-c", SERVER, str(port), "220 welcome"])
    try:
        scene.ok(Event.STARTUP)
        scene.ok(Event.MONITOR)
        os.kill(scene.pid(), signal.SIGSTOP)
        scene.settings["check-timeout"] = 0.3
        assert "no answer within 0.3 s" in scene.fails(Event.MONITOR)
        os.kill(scene.pid(), signal.SIGCONT)
        scene.ok(Event.MONITOR)
    finally:
        scene.end()


def test_the_data_connections_of_vsftpd_are_registered(bench: Bench, port: int, tmp_path: Path) -> None:
    config = tmp_path / "vsftpd.conf"
    config.write_text(
        f"# FTP\nlisten_port={port}\npasv_min_port=50021\npasv_max_port=50040\nconnect_from_port_20=YES\n"
    )
    command = [sys.executable, "-c", SERVER, str(port), "220 welcome"]
    scene = Scene(bench, "40.vsftpd", command=command, config=str(config))
    registered = bench.runtime / "connections" / "40.vsftpd"
    try:
        scene.ok(Event.STARTUP)
        assert scene.listens() == [port]
        assert registered.read_text().split() == ["50021-50040", "20-20"]
        scene.settings["data-ports"] = ["7", "9-10"]
        scene.ok(Event.MONITOR)
        assert registered.read_text().split() == ["7", "9-10"]
        scene.settings["data-ports"] = ["ftp-data"]
        assert "'ftp-data' is neither a TCP port nor a range" in scene.fails(Event.MONITOR)
        scene.ok(Event.SHUTDOWN)
        assert not registered.exists()
    finally:
        scene.end()


def test_what_vsftpd_says_of_its_ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ports(*lines: str, command: tuple[str, ...] = ()) -> tuple[int, tuple[str, ...]]:
        config.write_text("\n".join(lines))
        options = vsftpd.read_options(None, ["/usr/sbin/vsftpd", str(config), *command])
        return vsftpd.listen_port(options), vsftpd.data_ports(options)

    config = tmp_path / "own.conf"
    assert ports() == (21, ("1024-65535",))
    assert ports("pasv_min_port=6000") == (21, ("6000-65535",))
    assert ports("pasv_min_port=80", "pasv_max_port=2000") == (21, ("1024-2000",))
    assert ports("pasv_enable=NO", "connect_from_port_20=YES", "ftp_data_port=2020") == (21, ("2020-2020",))
    assert ports("listen_port=2121", "#pasv_min_port=5", command=("-opasv_enable=NO",)) == (2121, ())
    with pytest.raises(Fail, match="No such file"):
        vsftpd.read_options(None, ["vsftpd", str(tmp_path / "missing")])
    monkeypatch.setattr(vsftpd, "PLACES", (str(tmp_path / "missing"), str(config)))
    config.write_text("listen_port=3")
    assert vsftpd.listen_port(vsftpd.read_options()) == 3
    assert vsftpd.listen_port(vsftpd.read_options(None, ["env", "A=b", "/opt/vsftpd", "-olisten_port=4"])) == 4


# -- Samba -----------------------------------------------------------------------------------------------------

TESTPARM = """\
# Global parameters
[global]
\tsmb ports = 445 139
\tpassword server = *
\tpath = 
[homes]
\tpath = /home/%S
[data]
\tcomment = a = b
\tpath = "/srv/my data"
[more]
\tpath = /srv/more
[again]
\tpath = /srv/more
"""  # noqa: W291


def test_what_testparm_prints_is_understood() -> None:
    found = samba.parse(TESTPARM)
    assert found.ports() == (445, 139)
    assert found.share_directories() == ("/home/%S", "/srv/my data", "/srv/more")
    assert found.sections["data"]["comment"] == "a = b"
    with pytest.raises(Fail, match="smb ports"):
        samba.parse("").ports()


#: Shares whose directories smbd does not look for in this machine's file system, or only once a client has come.
NOT_LOOKED_FOR = """
[blob]
\tpath = /blob
\tvfs objects = glusterfs
[stacked]
\tpath = /volumes/group/share
\tvfs objects = acl_xattr,ceph_new
[file]
\tpath = /rados
\tvfs objects = /usr/lib/x86_64-linux-gnu/samba/vfs/ceph.so
[off]
\tpath = /not/there
\tavailable = no
[hidden]
\tpath = /hidden
\t-valid = no
[printers]
\tpath = /var/spool/none
\tprint ok = yes
[made]
\tpath = /made/on/demand
\troot preexec = mkdir -p /made/on/demand
[elsewhere]
\tpath = /proxy
\tmsdfs root = yes
\tmsdfs proxy = \\server\\share
[homes]
\tbrowseable = no
[nothing]
\tcomment = without a path
"""
LOOKED_FOR = """
[data]
\tpath = "/srv/my data"
[fuse]
\tpath = /gluster/volume
\tvfs objects = glusterfs_fuse shadow_copy2
[snapshots]
\tpath = /cephfs/share
\tvfs objects = ceph_snapshots
"""
LOCAL = ("/srv/my data", "/gluster/volume", "/cephfs/share")


def real_testparm(tmp_path: Path, text: str) -> samba.SambaConfiguration:
    """What Samba itself makes of ``text``."""
    (tmp_path / "smb.conf").write_text(text)
    command = ["testparm", "--suppress-prompt", "--verbose", str(tmp_path / "smb.conf")]
    return samba.parse(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


needs_testparm = pytest.mark.skipif(shutil.which("testparm") is None, reason="Samba is not installed")


@needs_testparm
def test_only_directories_that_smbd_looks_for_are_waited_for(tmp_path: Path) -> None:
    places = "".join(f"\t{what} = {tmp_path}\n" for what in ("private dir", "lock directory", "cache directory"))
    found = real_testparm(tmp_path, f"[global]\n{places}{LOOKED_FOR}{NOT_LOOKED_FOR}")
    assert found.share_directories() == LOCAL
    assert found.share_directories(skip=["DATA", "fuse"]) == LOCAL[2:]


@needs_testparm
def test_what_all_shares_have_in_common_holds_for_each_that_says_nothing_else(tmp_path: Path) -> None:
    shares = "[a]\n\tpath = /a\n[b]\n\tpath = /b\n\tvfs objects =\n[c]\n\tpath = /c\n\tvfs objects = fruit\n"
    assert real_testparm(tmp_path, f"[global]\n\tvfs objects = glusterfs\n{shares}").share_directories() == ("/b", "/c")
    assert real_testparm(tmp_path, f"[global]\n\troot preexec = /bin/x\n{shares}").share_directories() == ()
    below = samba.parse(f"[global]\nroot directory = /jail/\n{shares}")
    assert below.share_directories() == ("/jail/a", "/jail/b", "/jail/c")


class SambaScene(Scene):
    """50.samba over a testparm and an smbd of ours."""

    def __init__(self, bench: Bench, share: Path) -> None:
        self.port = free_port()
        self.testparm = bench.place / "testparm"
        self.share = share
        self.says(f"smb ports = {self.port}\n[data]\npath = {share}\n[homes]\npath = /nowhere/%S")
        super().__init__(
            bench,
            "50.samba",
            testparm=str(self.testparm),
            command=[sys.executable, "-c", SMBD, str(self.port)],
            cleanup=["sh", "-c", f"echo cleaned >>{bench.file('cleanups')}"],
            timeout=5,
        )

    def says(self, configuration: str, before: str = "") -> None:
        """What testparm is to print."""
        self.testparm.write_text(f"#!/bin/sh\n{before}\ncat <<'END'\n[global]\n{configuration}\nEND\n")
        self.testparm.chmod(self.testparm.stat().st_mode | stat.S_IXUSR)


SMBD = """\
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    client, _ = server.accept()
    client.recv(4)
    client.sendall((64).to_bytes(4, "big") + b"\\xfeSMB" + bytes(60))
    client.close()
"""


@pytest.fixture
def smb(bench: Bench, tmp_path: Path) -> Iterator[SambaScene]:
    share = tmp_path / "share"
    share.mkdir()
    scene = SambaScene(bench, share)
    yield scene
    scene.end()


def test_samba_from_start_to_end(smb: SambaScene, bench: Bench) -> None:
    smb.ok(Event.STARTUP)
    assert smb.listens() == [smb.port]
    smb.ok(Event.MONITOR)
    smb.ok(Event.MONITOR)
    assert bench.lines("cleanups") == ["cleaned"], "now and then, not each time"
    smb.settings["cleanup-interval"] = 0
    smb.ok(Event.SHUTDOWN)
    assert smb.listens() == []


def test_samba_does_not_wait_for_a_share_that_it_reaches_otherwise(smb: SambaScene) -> None:
    smb.says(f"smb ports = {smb.port}\n[data]\npath = {smb.share}\n[g]\npath = /blob\nvfs objects = glusterfs")
    smb.settings["timeout"] = 5
    smb.ok(Event.STARTUP)
    smb.ok(Event.MONITOR)
    smb.says(f"smb ports = {smb.port}\n[data]\npath = {smb.share}\n[own]\npath = /blob\nvfs objects = own_module")
    smb.ok(Event.MONITOR)
    assert "/blob" in smb.fails(Event.MONITOR)
    smb.settings["skip-shares"] = ["own"]
    smb.ok(Event.MONITOR)


def test_samba_waits_for_its_shares(smb: SambaScene) -> None:
    smb.share.rmdir()
    smb.settings["timeout"] = 0.2
    assert f"directory {smb.share} did not come" in smb.fails(Event.STARTUP)
    assert not list((smb.bench.runtime / "services").glob("50.samba*"))


def test_a_share_that_is_gone(smb: SambaScene) -> None:
    smb.ok(Event.STARTUP)
    smb.share.rmdir()
    assert f"not available: {smb.share}" in smb.fails(Event.MONITOR)
    smb.settings["check-shares"] = False
    smb.ok(Event.MONITOR)


@pytest.mark.parametrize("trouble", ["echo 'what is this' >&2; exit 1", "sleep 1000"])
def test_a_testparm_that_fails_or_hangs(smb: SambaScene, trouble: str) -> None:
    good = f"smb ports = {smb.port}\n[data]\npath = {smb.share}"
    smb.settings["testparm-timeout"] = 0.5
    smb.says(good, before=trouble)
    assert "testparm" in smb.fails(Event.STARTUP), "nothing is known"
    smb.settings["testparm-timeout"] = 10
    smb.says(good)
    smb.ok(Event.STARTUP)
    smb.settings["testparm-timeout"] = 0.5
    smb.says(good, before=trouble)
    assert "previous configuration is used" in smb.ok(Event.MONITOR)


def test_a_monitor_that_has_taken_long_cleans_up_another_time(smb: SambaScene, bench: Bench) -> None:
    """What hangs testparm hangs smbstatus as well, and both together last until MonitorTimeout."""
    smb.ok(Event.STARTUP)
    script = bench.scripts / smb.name
    text = script.read_text()
    script.write_text(text.replace("HURRY = 5.0", "HURRY = 0.3"))
    assert script.read_text() != text
    good = f"smb ports = {smb.port}\n[data]\npath = {smb.share}"
    smb.settings["testparm-timeout"] = 0.4
    smb.says(good, before="sleep 1000")
    assert "did not end within" in smb.ok(Event.MONITOR)
    assert bench.lines("cleanups") == []
    smb.says(good)
    until(lambda: smb.ok(Event.MONITOR) is not None and bench.lines("cleanups"))


def test_a_new_share_is_watched_from_the_next_monitor_on(smb: SambaScene) -> None:
    smb.ok(Event.STARTUP)
    smb.says(f"smb ports = {smb.port}\n[data]\npath = /not/there")
    smb.ok(Event.MONITOR)
    assert "not available: /not/there" in smb.fails(Event.MONITOR)


def test_winbind_is_started_first_and_checked(smb: SambaScene, bench: Bench) -> None:
    calls = bench.file("calls")
    smb.settings |= {
        "winbind": True,
        "winbind-start": ["sh", "-c", f"echo start >>{calls}"],
        "winbind-stop": ["sh", "-c", f"echo stop >>{calls}"],
        "winbind-check": "true",
    }
    smb.ok(Event.STARTUP)
    smb.ok(Event.MONITOR)
    smb.settings["winbind-check"] = ["sh", "-c", "echo could not ping winbindd; exit 1"]
    assert "could not ping winbindd" in smb.fails(Event.MONITOR)
    smb.settings["winbind-check"] = "true"
    smb.ok(Event.SHUTDOWN)
    assert bench.lines("calls")[0] == "start"
    assert bench.lines("calls")[-1] == "stop"


# -- documentation ---------------------------------------------------------------------------------------------


def test_every_setting_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "services.md").read_text()
    toolbox = Path(locum.__file__).parent / "script"
    used = re.compile(r'(?:_setting|_flag|_seconds|_number|_words|settings\(\)\.get)\(\s*"([a-z-]+)"')
    for source in (toolbox / "managed.py", toolbox / "samba.py", *SHIPPED.glob("[457]*")):
        for setting in used.findall(source.read_text()):
            assert f"`{setting}`" in page, f"{setting} of {source.name}"
