"""Frames, socket files, and who may use them."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum import json_lines
from locum.errors import ProtocolError, UsageError
from locum.json_lines_async import FrameConnection, serve_unix
from tests.unit.store.harness import asynchronous, until

anything = msgspec.json.Decoder()


@given(st.lists(st.binary(min_size=1).filter(lambda b: b"\n" not in b)), st.lists(st.integers(0, 200)))
def test_frames_do_not_depend_on_how_bytes_arrive(frames: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(frame + b"\n" for frame in frames)
    splitter = json_lines.FrameSplitter()
    seen, last = [], 0
    for cut in [*sorted(cuts), len(stream)]:
        seen += splitter.feed(stream[last:cut])
        last = max(last, min(cut, len(stream)))
    assert seen == frames


def test_overlong_frames() -> None:
    for pieces in ([b"x" * 200], [b"x" * 60, b"x" * 60], [b"x" * 200 + b"\n"], [b"ok\n" + b"x" * 200]):
        *fine, last = pieces
        splitter = json_lines.FrameSplitter(limit=100)
        for piece in fine:
            splitter.feed(piece)
        with pytest.raises(ProtocolError, match="100 bytes"):
            splitter.feed(last)
    assert json_lines.FrameSplitter(limit=100).feed(b"\n\n" + b"x" * 99 + b"\n" + b"y" * 50) == [b"x" * 99]
    with pytest.raises(ProtocolError, match="longer than a frame"):
        json_lines.encode("x" * json_lines.FRAME_LIMIT)


@pytest.mark.parametrize("garbage", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":1e999999}x', b"\x00"])
def test_garbage_is_a_protocol_error(garbage: bytes) -> None:
    with pytest.raises(ProtocolError, match="not a message"):
        json_lines.decode(garbage, anything)


def test_socket_file(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    listener = json_lines.listen(path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with pytest.raises(UsageError, match=f"socket {path} is in use by pid {os.getpid()}"):
        json_lines.listen(path)
    listener.close()
    listener.close()
    assert not os.path.exists(path)
    group = os.getgroups()[0] if os.getgroups() else os.getgid()
    shared = json_lines.listen(path, group=group)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
    assert os.stat(path).st_gid == group
    shared.close()


def test_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    abandoned = socket.socket(socket.AF_UNIX)
    abandoned.bind(path)
    abandoned.close()
    listener = json_lines.listen(path)
    with json_lines.FrameSocket.connect(path, timeout=10) as client:
        assert client.peer().pid == os.getpid()
    listener.close()


def test_socket_file_of_another_is_left_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    first = json_lines.listen(path)
    os.unlink(path)
    second = json_lines.listen(path)
    first.close()
    assert os.path.exists(path)
    second.close()
    assert not os.path.exists(path)


def test_in_use_by_a_stopped_process(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    code = (
        f"import time; from locum import json_lines; l = json_lines.listen({path!r}); print(flush=True); "
        "time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            os.kill(process.pid, signal.SIGSTOP)
            with pytest.raises(UsageError, match=f"in use by pid {process.pid}"):
                json_lines.listen(path)
        finally:
            process.kill()
    # It was killed: what it left is stale.
    json_lines.listen(path).close()


def test_a_reader_of_the_directory_cannot_keep_a_socket_from_being_made(tmp_path: Path) -> None:
    """Every user may lock a directory or a file that it can open for reading: the lock is in a file of our own."""
    path = str(tmp_path / "s")
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    listener = json_lines.listen(path)
    assert stat.S_IMODE(os.stat(f"{path}.lock").st_mode) == 0o600
    listener.close()
    os.close(handle)


def test_a_lock_file_that_another_laid_there_is_not_followed(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    (tmp_path / "precious").write_text("x")
    os.symlink(tmp_path / "precious", f"{path}.lock")
    with pytest.raises(UsageError, match=r"s\.lock"):
        json_lines.listen(path)
    os.unlink(f"{path}.lock")
    if os.geteuid() == 0:
        os.close(os.open(f"{path}.lock", os.O_CREAT | os.O_WRONLY, 0o666))
        os.chown(f"{path}.lock", 65534, 65534)
        with pytest.raises(UsageError, match="not ours; remove it"):
            json_lines.listen(path)


def test_impossible_socket_paths(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"too long: \d+ bytes, at most 107"):
        json_lines.listen("/" + "x" * 107)
    with pytest.raises(UsageError, match=r"too long"):
        json_lines.listen("/" + "é" * 54)
    with pytest.raises(UsageError, match="does not exist"):
        json_lines.listen(str(tmp_path / "absent" / "s"))
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UsageError, match="is not a socket"):
        json_lines.listen(str(tmp_path / "file"))
    with pytest.raises(UsageError, match="not a directory"):
        json_lines.listen(str(tmp_path / "file" / "s"))
    with pytest.raises(UsageError, match="is not a socket"):
        json_lines.listen(str(tmp_path))
    with pytest.raises(UsageError, match="not the path"):
        json_lines.listen("")
    with pytest.raises(UsageError, match="nothing listens at"):
        json_lines.FrameSocket.connect(str(tmp_path / "s"))
    with pytest.raises(UsageError, match="nothing listens at"):
        json_lines.FrameSocket.connect(str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "precious"


def test_who_may_use_a_socket() -> None:
    me = os.geteuid()
    assert json_lines.Peer(1, 0, 5).may_use()
    assert json_lines.Peer(1, me, 5).may_use()
    stranger = json_lines.Peer(1, me + 12345, 7, (8, 9))
    assert not stranger.may_use()
    assert not stranger.may_use(group=10)
    assert stranger.may_use(group=7)
    assert stranger.may_use(group=9)


def test_groups_of_a_peer_come_from_the_kernel_however_many_there_are(tmp_path: Path) -> None:
    """The system's database may ask a directory service that hangs."""
    if os.geteuid():
        pytest.skip("needs root: only root may give itself groups")
    path = str(tmp_path / "s")
    listener = json_lines.listen(path)
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
            assert json_lines.peer_of(accepted).groups == tuple(range(1000, 1600))
    finally:
        child.wait(60)
        listener.close()


class Echo(FrameConnection):
    def on_frame(self, frame: bytes) -> None:
        self.send(json_lines.decode(frame, anything))

    def on_garbage(self, error: ProtocolError) -> None:
        self.send({"error": str(error)})


@asynchronous
async def test_server_answers_blocking_clients(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    server = await serve_unix(path, Echo)

    def talk() -> list[object]:
        seen: list[object] = []
        with json_lines.FrameSocket.connect(path, timeout=60) as client:
            for message in ({"a": 1}, ["x" * 3_000_000], None):
                client.send(message)
                seen.append(client.receive(anything))
            client.send({"last": True})
            seen.append(client.receive(anything))
        with json_lines.FrameSocket.connect(path, timeout=60) as client:
            client._sock.sendall(b"nonsense\n")
            seen.append(client.receive(anything))
            with pytest.raises(ProtocolError, match="closed"):
                client.receive(anything)
        return seen

    loop = asyncio.get_running_loop()
    *echoed, complaint = await loop.run_in_executor(None, talk)
    assert echoed == [{"a": 1}, ["x" * 3_000_000], None, {"last": True}]
    assert isinstance(complaint, dict)
    assert "not a message" in complaint["error"]
    await until(lambda: not server.connections)
    await server.close()
    with pytest.raises(UsageError, match="nothing listens"):
        json_lines.FrameSocket.connect(path)
    assert [file.name for file in tmp_path.iterdir()] == ["s.lock"]  # noqa: ASYNC240


def test_a_socket_that_another_process_replaces_gives_nothing_else_to_the_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a directory of another user, who puts a link in its place before it is given to the group."""
    secret, path = tmp_path / "secret", tmp_path / "s"
    secret.write_text("root's alone")
    secret.chmod(0o600)
    real = json_lines._give

    def swapping(at: str, group: int) -> None:
        path.unlink()
        path.symlink_to(secret)
        real(at, group)

    monkeypatch.setattr(json_lines, "_give", swapping)
    with pytest.raises(UsageError, match="replaced"):
        json_lines.listen(str(path), group=os.getgid())
    assert secret.stat().st_mode & 0o777 == 0o600
