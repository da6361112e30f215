"""The unit file that ships and a real systemd: what stays down, what is started again, what can be started at once."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from locum_lab.services import shipped
from tests.lab.systemd import Systemd

pytestmark = pytest.mark.lab

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
UNIT, HANDOVER = EXAMPLES / "locum.service", EXAMPLES / "locum-handover.service"
SLEEP = EXAMPLES / "locum-sleep.service"
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

#: A service that writes, when its stop begins and when it ends, which addresses the node has.
SERVICE = """\
[Service]
ExecStart=/usr/bin/sleep infinity
ExecStop=/bin/sh -c 'ip -o -4 address show dev eth9 >{directory}/{name}'
"""
#: As systemd has it for machines: started at boot, ordered after the services that are enabled for it.
BOOT_TARGET = "[Unit]\nWants=site.service\n"
#: In the place of sleep.target, which needs no machine that can sleep.
NAP = f"[Unit]\nWants={SLEEP.name}\nAfter={SLEEP.name}\n"


class Node(Systemd):
    """A node that systemd runs; ``services``: its units besides Locum's, name → text; ``scripts``: besides 00 and 10.

    The target of the boot wants site.service.
    """

    def __init__(self, directory: Path, services: Mapping[str, str] | None = None, scripts: Sequence[str] = ()) -> None:
        (directory / "events").mkdir()
        for name in ("00.locum", "10.interface", *scripts):
            script = directory / "events" / name
            script.write_bytes(shipped(name).read_bytes())
            script.chmod(0o755)
        self.config = directory / "locum.toml"
        self.config.write_text(CONFIG.format(directory=directory))
        command = f"/usr/local/bin/locum daemon --config {directory}/locum.toml"
        text = UNIT.read_text().replace("/etc/locum/locum.toml", f"{directory}/locum.toml")
        assert f"ExecStart={command}\n" in text
        unit = directory / "locum.service"
        result = f"ExecStopPost=/bin/sh -c 'echo $SERVICE_RESULT >{directory}/%p.result'\n"
        unit.write_text(
            text.replace("/usr/local/bin/locum", " ".join(LOCUM)).replace("[Install]", result + "[Install]")
        )
        # Without the minus sign a failure of the command is a failure of the unit.
        handover = HANDOVER.read_text().replace("ExecStop=-/usr/local/bin/locum", f"ExecStop={' '.join(LOCUM)}")
        others = {HANDOVER.name: handover + result}
        others |= services or {}
        for name, text in others.items():
            (directory / name).write_text(text)
        super().__init__(directory, unit, [directory / name for name in others])
        pair = ("eth9", "type", "veth", "peer", "name", "other")
        for words in (("add", *pair), ("set", "other", "up"), ("set", "eth9", "up")):
            assert self.inside("ip", "link", *words).returncode == 0

    def wait(self, what: str, condition: Callable[[], bool]) -> None:
        """Until ``condition`` holds."""
        deadline = time.monotonic() + 180
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
    # Fails now, and is tried again.
    assert node.inside("systemctl", "start", node.unit).returncode != 0
    node.wait("two more tries", lambda: int(node.show("NRestarts")) >= 2)
    node.config.write_text(good)
    node.wait("the address", node.serves)
    # The runtime directory went with each stop and is there again.
    assert node.inside(*LOCUM, "status").returncode == 0


@pytest.mark.long
def test_a_guard_that_stands_still_is_started_again(node: Node) -> None:
    """Only systemd's watchdog can notice."""
    node.start()
    first = node.main_pid()
    node.send(signal.SIGSTOP)
    node.wait("another process", lambda: node.main_pid() not in (0, first))
    node.wait("the address", node.serves)
    assert int(node.show("NRestarts")) == 1


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


def _ready(directory: Path) -> Node:
    """A node with a service that systemd starts, and one that an event script starts; both run."""
    texts = {f"{name}.service": SERVICE.format(directory=directory, name=name) for name in ("site", "nginx")}
    made = Node(directory, {**texts, "multi-user.target": BOOT_TARGET}, ["70.service"])
    made.config.write_text(made.config.read_text() + '[scripts."70.service"]\nservice = "nginx"\n')
    made.inside("systemctl", "start", "multi-user.target")
    made.start()
    for unit in ("site.service", "nginx.service", "multi-user.target", HANDOVER.name):
        assert made.inside("systemctl", "is-active", unit).stdout == "active\n", unit
    return made


def test_a_machine_that_shuts_down_gives_its_addresses_up_before_services_stop(tmp_path: Path) -> None:
    node = _ready(tmp_path)
    try:
        # As systemctl poweroff does with the machine's manager.
        node.inside("systemctl", "start", "--job-mode=replace-irreversibly", "--no-block", "exit.target")
        node.wait("the end of systemd", lambda: not node.runs())
        for name in ("site", "nginx"):
            assert "10.99.0.1" not in (tmp_path / name).read_text(), name
        assert (tmp_path / "locum-handover.result").read_text() == "success\n"
        assert (tmp_path / "locum.result").read_text() == "success\n"
    finally:
        node.end()


def test_an_event_script_stops_its_service_while_locum_alone_stops(tmp_path: Path) -> None:
    """The order of the machine's shutdown makes nothing wait at other times."""
    node = _ready(tmp_path)
    try:
        node.systemctl("stop")
        assert node.stays_down()
        assert "10.99.0.1" not in (tmp_path / "nginx").read_text()
        assert node.inside("systemctl", "is-active", "nginx.service").stdout == "inactive\n"
        assert node.inside("systemctl", "is-active", "site.service").stdout == "active\n"
        node.start()
    finally:
        node.end()


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Node]:
    """A node on a machine that falls asleep with nap.target, and wakes when that ends."""
    # A stop that hangs is given up after a moment.
    unit = SLEEP.read_text().replace("timeout 140 ", "timeout 5 ")
    assert "timeout 5 " in unit
    made = Node(tmp_path, {SLEEP.name: unit, "nap.target": NAP})
    made.start()
    yield made
    made.end()


def _nap(node: Node, verb: str) -> None:
    done = node.inside("systemctl", verb, "nap.target")
    assert done.returncode == 0, done.stderr + node.said()
    if verb == "stop":
        node.wait("its end", lambda: node.inside("systemctl", "is-active", SLEEP.name).stdout != "active\n")


def _slow_down(node: Node, seconds: int) -> None:
    """Let a script take that long for "shutdown"."""
    script = node.directory / "events" / "20.slow"
    script.write_text(f"#!/bin/sh\n[ $1 != shutdown ] || sleep {seconds}\n")
    script.chmod(0o755)


def test_locum_is_stopped_while_a_machine_sleeps(sleeper: Node) -> None:
    _nap(sleeper, "start")
    assert sleeper.show("ActiveState") == "inactive"
    assert not sleeper.serves()
    _nap(sleeper, "stop")
    sleeper.wait("the address", sleeper.serves)


def test_a_node_that_an_admin_stopped_stays_down_after_the_machine_has_slept(sleeper: Node) -> None:
    sleeper.systemctl("stop")
    _nap(sleeper, "start")
    _nap(sleeper, "stop")
    assert sleeper.stays_down()


def test_a_restart_while_a_machine_falls_asleep_ends_after_it_has_woken(sleeper: Node) -> None:
    sleeper.inside("systemctl", "restart", "--no-block", sleeper.unit)
    _nap(sleeper, "start")
    assert sleeper.show("ActiveState") == "inactive"
    _nap(sleeper, "stop")
    sleeper.wait("the address", sleeper.serves)


def test_a_machine_sleeps_although_locum_does_not_stop_in_time(sleeper: Node) -> None:
    """And Locum is started again, and has not been forgotten, when it is awake."""
    _slow_down(sleeper, 30)
    _nap(sleeper, "start")
    assert sleeper.show("ActiveState") == "deactivating"
    _nap(sleeper, "stop")
    sleeper.wait("the address", sleeper.serves)


def test_a_stop_that_is_under_way_when_a_machine_falls_asleep_is_no_restart(sleeper: Node) -> None:
    _slow_down(sleeper, 3)
    sleeper.inside("systemctl", "stop", "--no-block", sleeper.unit)
    sleeper.wait("the stop", lambda: sleeper.show("ActiveState") == "deactivating")
    _nap(sleeper, "start")
    _nap(sleeper, "stop")
    assert sleeper.stays_down()
