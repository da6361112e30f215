"""locum.script: waiting for ports and directories, and running programs."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from locum import script
from locum.script import Fail
from tests.unit.script.scene import free_port, listener

pytestmark = pytest.mark.usefixtures("environment")


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
