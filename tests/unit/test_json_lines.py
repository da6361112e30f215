"""Frames, and a server that exchanges them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum import json_lines, unix_sockets
from locum.control_socket import Connection, NoDaemon
from locum.errors import ProtocolError
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
        json_lines.encode("x" * unix_sockets.FRAME_LIMIT)


@pytest.mark.parametrize("garbage", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":1e999999}x', b"\x00"])
def test_garbage_is_a_protocol_error(garbage: bytes) -> None:
    with pytest.raises(ProtocolError, match="not a message"):
        json_lines.decode(garbage, anything)


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
        with Connection(path, timeout=60) as client:
            for message in ({"a": 1}, ["x" * 3_000_000], None):
                client.send(msgspec.json.encode(message))
                seen.append(msgspec.json.decode(client.receive()))
            client.send(b'{"last": true}')
            seen.append(msgspec.json.decode(client.receive()))
        with Connection(path, timeout=60) as client:
            client.send(b"nonsense")
            seen.append(msgspec.json.decode(client.receive()))
            with pytest.raises(NoDaemon, match="closed"):
                client.receive()
        return seen

    loop = asyncio.get_running_loop()
    *echoed, complaint = await loop.run_in_executor(None, talk)
    assert echoed == [{"a": 1}, ["x" * 3_000_000], None, {"last": True}]
    assert isinstance(complaint, dict)
    assert "not a message" in complaint["error"]
    await until(lambda: not server.connections)
    await server.close()
    with pytest.raises(NoDaemon, match="no Locum daemon"):
        Connection(path, timeout=60)
    assert [file.name for file in tmp_path.iterdir()] == ["s.lock"]  # noqa: ASYNC240
