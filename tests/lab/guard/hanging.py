"""What the tests of hanging calls share: files and directories that do not answer, and a log that is not read."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from locum_lab.lab import Lab

#: Mounts a file system that never answers at PATH (a directory or a file) until standard input ends, or for SECONDS:
#: what a dead NFS server is like.
_HANG = """
import ctypes, os, select, stat, sys
libc = ctypes.CDLL(None, use_errno=True)
descriptor = os.open("/dev/fuse", os.O_RDWR)
kind = stat.S_IFMT(os.stat(sys.argv[1]).st_mode)
options = f"fd={descriptor},rootmode={kind:o},user_id=0,group_id=0,allow_other".encode()
if libc.mount(b"hung", sys.argv[1].encode(), b"fuse", 0, options):
    sys.exit(os.strerror(ctypes.get_errno()))
print("hangs", flush=True)
select.select([0], [], [], float(sys.argv[2]))
libc.umount2(sys.argv[1].encode(), 2)
os.close(descriptor)
"""


@contextlib.contextmanager
def path_that_hangs(lab: Lab, node: str, path: Path, most: float = 120.0) -> Iterator[subprocess.Popen[str]]:
    """For the daemon of a node, and what it starts, ``path`` does not answer within the block, for ``most`` seconds at
    most; gives the process that sees to it, which ends with the block. Skips the test where that is impossible."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("no FUSE here")
    daemon = lab.state.nodes[node].daemon
    assert daemon is not None
    command = ["nsenter", "-t", str(daemon.pid), "-m", sys.executable, "-c", _HANG, str(path), str(most)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as hang:
        assert hang.stdout is not None
        if hang.stdout.readline() != "hangs\n":
            pytest.skip("a FUSE file system cannot be mounted here")
        yield hang


@contextlib.contextmanager
def log_that_is_not_read(lab: Lab, node: str) -> Iterator[int]:
    """Restart the daemon of a node with a pipe as its log, which is never read; gives the pipe."""
    lab.stop_daemon(node)
    path = lab.daemon_log(node)
    path.rename(path.with_suffix(".before"))
    os.mkfifo(path)
    pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 4096)
    try:
        lab.start_daemon(node)
        yield pipe
    finally:
        path.unlink()
        os.close(pipe)


def fill(pipe: int) -> None:
    """Leave no room in the pipe."""
    while not is_full(pipe):
        pass


def is_full(pipe: int) -> bool:
    """Whether the pipe accepts nothing."""
    try:
        os.write(pipe, b"\n")
    except BlockingIOError:
        return True
    return False
