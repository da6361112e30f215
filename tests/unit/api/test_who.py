"""Who gave a command, as the kernel tells it."""

from __future__ import annotations

import os
import pty
import pwd
import subprocess

from locum.api.who import who
from locum.unix_sockets import Peer

OWN = pwd.getpwuid(os.getuid()).pw_name

#: A shell that makes its standard input its terminal, and waits.
_AT_A_TERMINAL = ["setsid", "--ctty", "sh", "-c", "echo ready; read line"]


def _peer(process: subprocess.Popen[bytes]) -> Peer:
    return Peer(process.pid, os.getuid(), os.getgid())


def test_a_process_without_a_terminal_is_its_user() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, start_new_session=True) as process:
        assert who(_peer(process)).split(" as ")[-1] == OWN
        assert process.stdin is not None
        process.stdin.close()


def test_a_process_at_a_terminal_has_its_name() -> None:
    controller, terminal = pty.openpty()
    name = os.ttyname(terminal).removeprefix("/dev/")
    process = subprocess.Popen(_AT_A_TERMINAL, stdin=terminal, stdout=subprocess.PIPE)
    os.close(terminal)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert who(_peer(process)).endswith(f"{OWN} on {name}")
    finally:
        process.kill()
        process.communicate()
        os.close(controller)


def test_a_process_that_has_ended_and_a_user_without_a_name_still_have_their_number() -> None:
    assert who(Peer(2**22 + 1, 4_000_000, 0)) == "user 4000000"
