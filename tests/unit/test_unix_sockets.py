"""Socket files, and which processes may use them."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from locum import unix_sockets
from locum.control_socket import Connection
from locum.errors import UsageError


def test_socket_file(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    listener = unix_sockets.listen(path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with pytest.raises(UsageError, match=f"socket {path} is in use by pid {os.getpid()}"):
        unix_sockets.listen(path)
    listener.close()
    listener.close()
    assert not os.path.exists(path)
    group = os.getgroups()[0] if os.getgroups() else os.getgid()
    shared = unix_sockets.listen(path, group=group)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
    assert os.stat(path).st_gid == group
    shared.close()


def test_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    abandoned = socket.socket(socket.AF_UNIX)
    abandoned.bind(path)
    abandoned.close()
    listener = unix_sockets.listen(path)
    with Connection(path, timeout=10) as client:
        assert client.peer.pid == os.getpid()
    listener.close()


def test_socket_file_of_another_is_left_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    first = unix_sockets.listen(path)
    os.unlink(path)
    second = unix_sockets.listen(path)
    first.close()
    assert os.path.exists(path)
    second.close()
    assert not os.path.exists(path)


def test_in_use_by_a_stopped_process(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    code = (
        f"import time; from locum import unix_sockets; l = unix_sockets.listen({path!r}); print(flush=True); "
        "time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            os.kill(process.pid, signal.SIGSTOP)
            with pytest.raises(UsageError, match=f"in use by pid {process.pid}"):
                unix_sockets.listen(path)
        finally:
            process.kill()
    # It was killed: what it left is stale.
    unix_sockets.listen(path).close()


def test_a_reader_of_the_directory_cannot_keep_a_socket_from_being_made(tmp_path: Path) -> None:
    """Every user may lock a directory or a file that it can open for reading: the lock is in a file of our own."""
    path = str(tmp_path / "s")
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    listener = unix_sockets.listen(path)
    assert stat.S_IMODE(os.stat(f"{path}.lock").st_mode) == 0o600
    listener.close()
    os.close(handle)


def test_a_lock_file_that_another_laid_there_is_not_followed(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    (tmp_path / "precious").write_text("x")
    os.symlink(tmp_path / "precious", f"{path}.lock")
    with pytest.raises(UsageError, match=r"s\.lock"):
        unix_sockets.listen(path)
    os.unlink(f"{path}.lock")
    if os.geteuid() == 0:
        os.close(os.open(f"{path}.lock", os.O_CREAT | os.O_WRONLY, 0o666))
        os.chown(f"{path}.lock", 65534, 65534)
        with pytest.raises(UsageError, match="not a plain file of this user; remove it"):
            unix_sockets.listen(path)


def test_impossible_socket_paths(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"too long: \d+ bytes, at most 107"):
        unix_sockets.listen("/" + "x" * 107)
    with pytest.raises(UsageError, match=r"too long"):
        unix_sockets.listen("/" + "é" * 54)
    with pytest.raises(UsageError, match="does not exist"):
        unix_sockets.listen(str(tmp_path / "absent" / "s"))
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UsageError, match="is not a socket"):
        unix_sockets.listen(str(tmp_path / "file"))
    with pytest.raises(UsageError, match="not a directory"):
        unix_sockets.listen(str(tmp_path / "file" / "s"))
    with pytest.raises(UsageError, match="is not a socket"):
        unix_sockets.listen(str(tmp_path))
    with pytest.raises(UsageError, match="not the path"):
        unix_sockets.listen("")
    assert (tmp_path / "file").read_text() == "precious"


def test_who_may_use_a_socket() -> None:
    me = os.geteuid()
    assert unix_sockets.Peer(1, 0, 5).may_use()
    assert unix_sockets.Peer(1, me, 5).may_use()
    stranger = unix_sockets.Peer(1, me + 12345, 7, (8, 9))
    assert not stranger.may_use()
    assert not stranger.may_use(group=10)
    assert stranger.may_use(group=7)
    assert stranger.may_use(group=9)


def test_groups_of_a_peer_come_from_the_kernel_however_many_there_are(tmp_path: Path) -> None:
    """The system's database may ask a directory service that hangs."""
    if os.geteuid():
        pytest.skip("needs root: only root may give itself groups")
    path = str(tmp_path / "s")
    listener = unix_sockets.listen(path)
    listener.sock.setblocking(True)
    code = f"""
import os, socket
os.setgroups(range(1000, 1600))
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect({path!r})
    sock.recv(1)
"""
    child = subprocess.Popen([sys.executable, "-c", code])
    try:
        listener.sock.settimeout(60)
        accepted, _ = listener.sock.accept()
        with accepted:
            assert unix_sockets.peer_of(accepted).groups == tuple(range(1000, 1600))
    finally:
        child.wait(60)
        listener.close()


def test_a_socket_that_another_process_replaces_gives_nothing_else_to_the_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a directory of another user, who puts a link in its place before it is given to the group."""
    secret, path = tmp_path / "secret", tmp_path / "s"
    secret.write_text("root's alone")
    secret.chmod(0o600)
    real = unix_sockets._give

    def swapping(at: str, group: int) -> None:
        path.unlink()
        path.symlink_to(secret)
        real(at, group)

    monkeypatch.setattr(unix_sockets, "_give", swapping)
    with pytest.raises(UsageError, match="replaced"):
        unix_sockets.listen(str(path), group=os.getgid())
    assert secret.stat().st_mode & 0o777 == 0o600
