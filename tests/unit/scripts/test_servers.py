"""What FTP and SMB servers are asked, and the script of vsftpd."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from locum.events.model import Event
from locum.script import Fail, check_ftp, check_smb, vsftpd
from tests.unit.bench import Bench
from tests.unit.scripts.scene import SERVER, Scene, free_port


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
