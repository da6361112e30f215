"""Sockets and store files for other users than the owner: needs root, to become somebody else."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

from locum.store.memory import MemoryStore
from locum.store.messages import PROTOCOL
from locum.store.server import StoreServer
from locum.store.sqlite import SqliteStore
from tests.unit.store.harness import asynchronous

pytestmark = pytest.mark.lab

#: A user and a group that own nothing.
NOBODY, GROUP = 65534, 4321

BECOME = f"""
import os, sys, msgspec
from locum import unix_sockets
from locum.control_socket import Connection
from locum.errors import LocumError
from locum.store.sqlite import SqliteStore
os.setgroups(eval(sys.argv[2])); os.setgid({NOBODY}); os.setuid({NOBODY})
path = sys.argv[1]
"""


@pytest.fixture
def directory() -> Iterator[str]:
    """One that everybody may enter (pytest's are root's alone)."""
    assert os.geteuid() == 0, "this test must be run as root"
    path = tempfile.mkdtemp(prefix="locum-test-")
    os.chmod(path, 0o755)
    yield path
    shutil.rmtree(path)


async def as_nobody(code: str, *arguments: str) -> str:
    """What ``code`` prints when it runs as nobody."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", BECOME + code, *arguments, stdout=subprocess.PIPE, cwd="/"
    )
    output, _ = await process.communicate()
    return output.decode()


CONNECT = """
try:
    print(msgspec.json.decode(Connection(path, timeout=60).receive()))
except LocumError as error:
    print(type(error).__name__, error)
"""


@asynchronous
async def test_socket_is_for_root_its_owner_and_the_group(directory: str) -> None:
    path = os.path.join(directory, "s")
    server = StoreServer(MemoryStore())
    await server.start(path, GROUP)
    try:
        assert "PermissionRequired no permission to use" in await as_nobody(CONNECT, path, "[]")
        assert f"'protocol': {PROTOCOL}" in await as_nobody(CONNECT, path, f"[{GROUP}]")
        # The check holds without the mode, too.
        os.chmod(path, 0o666)
        assert "permission denied" in await as_nobody(CONNECT, path, "[]")
    finally:
        await server.close()


LISTEN = """
try:
    unix_sockets.listen(path)
except LocumError as error:
    print(type(error).__name__, error)
"""


@asynchronous
async def test_socket_without_permission(directory: str) -> None:
    output = await as_nobody(LISTEN, os.path.join(directory, "s"), "[]")
    assert output.startswith("PermissionRequired cannot create socket")
    assert directory in output
    private = os.path.join(directory, "private")
    os.mkdir(private, 0o700)
    output = await as_nobody(LISTEN, os.path.join(private, "s"), "[]")
    assert output.startswith("PermissionRequired cannot create socket")
    assert f"run as a user that may write {private}" in output


OPEN = """
try:
    SqliteStore(path)
except LocumError as error:
    print(type(error).__name__, error)
"""


@asynchronous
async def test_store_file_without_permission(directory: str) -> None:
    output = await as_nobody(OPEN, os.path.join(directory, "store.db"), "[]")
    assert output.startswith("PermissionRequired store file")
    path = os.path.join(directory, "other.db")
    await SqliteStore(path).close()
    assert os.stat(path).st_mode & 0o777 == 0o600
    os.chmod(directory, 0o777)
    output = await as_nobody(OPEN, path, "[]")
    assert output.startswith("PermissionRequired store file")
    os.unlink(path + ".lock")
    output = await as_nobody(OPEN, path, "[]")
    assert output.startswith("PermissionRequired store file")
