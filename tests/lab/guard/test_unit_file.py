"""The unit file that ships and a real systemd: what stays down, what is started again, what can be started at once."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from locum_lab.services import shipped
from tests.lab.systemd import Systemd

pytestmark = pytest.mark.lab

UNIT = Path(__file__).resolve().parents[3] / "examples" / "locum.service"
LOCUM = (sys.executable, "-m", "locum.cli.main")

CONFIG = """\
[node]
name = "n1"
[cluster]
store = "memory:"
hold = 1.0
[paths]
runtime = "/run/locum"
state = "/run/locum-state"
events = "{directory}/events"
[[address]]
address = "10.99.0.1/24"
interfaces = ["eth9"]
"""


class Node(Systemd):
    """A node that systemd runs."""

    def __init__(self, directory: Path) -> None:
        (directory / "events").mkdir()
        for name in ("00.locum", "10.interface"):
            script = directory / "events" / name
            script.write_bytes(shipped(name).read_bytes())
            script.chmod(0o755)
        self.config = directory / "locum.toml"
        self.config.write_text(CONFIG.format(directory=directory))
        command = f"/usr/local/bin/locum daemon --config {directory}/locum.toml"
        text = UNIT.read_text().replace("/etc/locum/locum.toml", f"{directory}/locum.toml")
        assert f"ExecStart={command}\n" in text
        unit = directory / "locum.service"
        unit.write_text(text.replace("/usr/local/bin/locum", " ".join(LOCUM)))
        super().__init__(directory, unit)
        pair = ("eth9", "type", "veth", "peer", "name", "other")
        for words in (("add", *pair), ("set", "other", "up"), ("set", "eth9", "up")):
            assert self.inside("ip", "link", *words).returncode == 0

    def wait(self, what: str, condition: Callable[[], bool]) -> None:
        """Until ``condition`` holds."""
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, f"waited for {what}; {self.said()}"
            time.sleep(0.05)

    def serves(self) -> bool:
        """Whether the node has its address."""
        return "10.99.0.1" in self.inside("ip", "address", "show", "dev", "eth9").stdout

    def systemctl(self, verb: str) -> None:
        """systemctl VERB, which must succeed."""
        done = self.inside("systemctl", verb, self.unit)
        assert done.returncode == 0, done.stderr + self.said()

    def start(self) -> None:
        """Start the unit and wait until the address is there."""
        self.systemctl("start")
        self.wait("the address", self.serves)

    def stays_down(self) -> bool:
        """Whether the unit ended well and systemd does not start it again (it waits one second for that)."""
        self.wait("the unit's end", lambda: self.show("ActiveState") != "active")
        time.sleep(2.5)
        return (self.show("ActiveState"), self.show("Result"), self.show("NRestarts")) == ("inactive", "success", "0")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.end()


def test_a_node_that_an_admin_shut_down_stays_down_until_it_is_started(node: Node) -> None:
    node.start()
    done = node.inside(*LOCUM, "shutdown")
    assert (done.returncode, done.stdout) == (0, "the daemon has ended\n"), done.stderr
    assert node.stays_down()
    assert not node.serves()
    node.start()
    # SIGTERM is the same wish.
    node.send(signal.SIGTERM)
    assert node.stays_down()
    node.start()
    node.systemctl("stop")
    assert node.stays_down()


def test_a_node_that_was_killed_or_cannot_start_is_started_again(node: Node) -> None:
    node.start()
    first = node.main_pid()
    node.send(signal.SIGKILL)
    node.wait("another process", lambda: node.main_pid() not in (0, first))
    node.wait("the address", node.serves)
    good = node.config.read_text()
    node.systemctl("stop")
    node.config.write_text(good + "[nonsense]\n")
    node.systemctl("start")
    node.wait("two more tries", lambda: int(node.show("NRestarts")) >= 2)
    node.config.write_text(good)
    node.wait("the address", node.serves)
    # The runtime directory went with each stop and is there again.
    assert node.inside(*LOCUM, "status").returncode == 0


def test_a_restart_serves_again(node: Node) -> None:
    node.start()
    first = node.main_pid()
    node.systemctl("restart")
    assert node.main_pid() not in (0, first)
    node.wait("the address", node.serves)
    # A reload before the daemon listens to it does not take the node down for good.
    node.systemctl("restart")
    node.inside("systemctl", "reload", node.unit)
    node.wait("the address", node.serves)
