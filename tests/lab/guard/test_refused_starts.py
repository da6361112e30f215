"""Daemons that cannot start: one clear message that says what to do, status 1 or 2, nothing left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from locum.errors import LocumError
from locum_lab import processes
from locum_lab.lab import Lab, down
from locum_lab.layout import Layout
from tests.lab.clusters import locum, node_report
from tests.lab.hostile import report_with

pytestmark = [pytest.mark.lab, pytest.mark.long]

DAEMON = (sys.executable, "-m", "locum.cli.main", "daemon", "--config")
SCRIPT = "#!/bin/sh\nexit 0\n"


class Place:
    """One node without a daemon, whose files a test may spoil; put right again after it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.directory = lab.node_directory("n1")
        self.config = self.directory / "config.toml"
        self.events = self.directory / "events"
        self.text = self.config.read_text()

    def edit(self, old: str, new: str) -> None:
        """Replace a part of the configuration."""
        assert old in self.text, f"{old!r} is not in the configuration"
        self.config.write_text(self.config.read_text().replace(old, new))

    def add_address(self, line: str) -> None:
        """Add a line to the file of public addresses."""
        with (self.directory / "public_addresses").open("a") as file:
            file.write(line + "\n")

    def start(self, *before: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run the daemon; it is expected to end by itself."""
        return self.lab.run("n1", [*before, *DAEMON, str(self.config)], timeout=timeout)

    def check_clean(self) -> None:
        """No address, no table, no process is left of it."""
        assert self.lab.configured("n1") == {}
        assert self.lab.run("n1", ["nft", "list", "tables"]).stdout == ""
        assert self.lab.ours("n1") == ()

    def refuse(self, *named: str) -> str:
        """The daemon must refuse to start and name all of this; returns what it said."""
        done = self.start()
        text = done.stderr
        assert done.returncode in (1, 2), f"status {done.returncode}: {text}"
        assert "Traceback" not in text
        for part in named:
            assert part in text, f"{part!r} is not in: {text}"
        assert all(line.startswith("locum: ") or " n1: " in line for line in text.splitlines()), text
        self.check_clean()
        return text


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, Path]]:
    layout = Layout(name=f"start{os.getpid()}", nodes=1, addresses=4, hold=1.0)
    try:
        lab = Lab.up(layout, owner=processes.find(os.getpid()), services=("echo",), daemons=False)
        good = tmp_path_factory.mktemp("good") / "n1"
        shutil.copytree(lab.node_directory("n1"), good, ignore=shutil.ignore_patterns("*.sock"))
        yield lab, good
    finally:
        down(layout.name)


@pytest.fixture
def place(request: pytest.FixtureRequest, shared: tuple[Lab, Path]) -> Iterator[Place]:
    lab, good = shared
    report_with(request, lab)
    directory = lab.node_directory("n1")
    yield Place(lab)
    for process in lab.ours("n1"):
        processes.send(process, signal.SIGKILL)
    for name in ("config.toml", "public_addresses"):
        shutil.copy2(good / name, directory / name)
    for name in ("events", "runtime", "state"):
        path = directory / name
        path.unlink() if path.is_file() or path.is_symlink() else shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(good / name, path)


def missing_config(place: Place) -> tuple[str, ...]:
    place.config.unlink()
    return (f"{place.config}: cannot be read: No such file",)


def config_that_is_no_toml(place: Place) -> tuple[str, ...]:
    place.config.write_text("[node\nname=")
    return (f"{place.config}:1: not TOML",)


def config_that_is_binary(place: Place) -> tuple[str, ...]:
    place.config.write_bytes(os.urandom(64) + b"\xff")
    return (f"{place.config}:",)


def config_with_many_mistakes(place: Place) -> tuple[str, ...]:
    place.edit("number = 1", "number = -4\ncolour = 3")
    place.edit("hold = 1", "hold = 0")
    place.config.write_text(
        place.config.read_text() + "\n[tunables]\nMonitorIntervall = 3\nEventTimeout = 'x'\n[what]\n"
    )
    return (
        "node.number",
        "colour",
        "cluster.hold",
        "MonitorIntervall",
        "did you mean MonitorInterval",
        "EventTimeout",
        "what",
    )


def store_of_no_kind(place: Place) -> tuple[str, ...]:
    place.edit('store = "unix:', 'store = "unux:')
    return ("cluster.store", "unux:", "expected")


def address_that_is_none(place: Place) -> tuple[str, ...]:
    place.add_address("10.77.0.300/24 eth1")
    return ("public_addresses:5", "10.77.0.300/24")


def address_twice(place: Place) -> tuple[str, ...]:
    place.add_address("10.77.0.2/24 eth1")
    place.add_address("fd77:0::2/64 eth1")
    return ("public_addresses:5", "10.77.0.2 again", "fd77::2 again", "first at")


def interface_that_does_not_exist(place: Place) -> tuple[str, ...]:
    place.add_address("10.77.0.99/24 eth7")
    return ("eth7", "10.77.0.99", "expected one of its interfaces: eth0, eth1")


def no_script_directory(place: Place) -> tuple[str, ...]:
    shutil.rmtree(place.events)
    return (str(place.events), "there is no such script directory")


def empty_script_directory(place: Place) -> tuple[str, ...]:
    for script in place.events.iterdir():
        script.unlink()
    return (str(place.events), "holds no event script (NN.name)")


def script_directory_that_is_a_file(place: Place) -> tuple[str, ...]:
    shutil.rmtree(place.events)
    place.events.write_text("")
    return (str(place.events),)


def bad_scripts(place: Place) -> tuple[str, ...]:
    for name in ("30.one", "30.two", "40.open", "50.broken.script"):
        (place.events / name).write_text(SCRIPT)
        (place.events / name).chmod(0o755)
    (place.events / "40.open").chmod(0o777)
    (place.events / "60.dangling").symlink_to("/nonexistent")
    (place.events / "61.directory").mkdir()
    return ("30.one", "30.two", "40.open")


def runtime_directory_that_is_a_file(place: Place) -> tuple[str, ...]:
    shutil.rmtree(place.directory / "runtime")
    (place.directory / "runtime").write_text("")
    return ("paths.runtime", "not a directory")


def group_that_does_not_exist(place: Place) -> tuple[str, ...]:
    place.edit("[paths]\n", '[paths]\ncontrol_group = "no-such-group"\n')
    return ("paths.control_group", "no-such-group")


@pytest.mark.parametrize(
    "spoil",
    [
        missing_config,
        config_that_is_no_toml,
        config_that_is_binary,
        config_with_many_mistakes,
        store_of_no_kind,
        address_that_is_none,
        address_twice,
        interface_that_does_not_exist,
        no_script_directory,
        empty_script_directory,
        script_directory_that_is_a_file,
        bad_scripts,
        runtime_directory_that_is_a_file,
        group_that_does_not_exist,
    ],
    ids=lambda spoil: spoil.__name__,
)
def test_a_wrong_start_says_what_to_do(place: Place, spoil: Callable[[Place], tuple[str, ...]]) -> None:
    named = spoil(place)
    place.refuse(*named)


def test_all_that_is_wrong_is_said_at_once_and_check_config_says_the_same(place: Place) -> None:
    interface_that_does_not_exist(place)
    bad_scripts(place)
    text = place.refuse("eth7", "30.one", "40.open")
    checked = place.lab.run("n1", [sys.executable, "-m", "locum.cli.main", "check-config", str(place.config)])
    assert (checked.returncode, checked.stderr) == (2, text), "check-config says something else"


def test_a_socket_in_use(place: Place) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(place.lab.control_socket("n1")))
        sock.listen(5)
        place.refuse("control.sock is in use by pid", str(os.getpid()))


SQUATTER = """
import fcntl, os, time
os.setgroups([]); os.setgid(65534); os.setuid(65534)
fcntl.flock(os.open("/proc/self/ns/net", os.O_RDONLY), fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(1000)
"""


def test_another_user_cannot_keep_a_daemon_from_starting(place: Place) -> None:
    with subprocess.Popen(
        place.lab.command("n1", [sys.executable, "-c", SQUATTER]), stdout=subprocess.PIPE, text=True
    ) as squatter:
        try:
            assert squatter.stdout is not None
            assert squatter.stdout.readline() == "locked\n"
            place.lab.start_daemon("n1")
            place.lab.wait_served()
        finally:
            squatter.kill()
    place.lab.stop_daemon("n1")
    place.check_clean()


def test_a_file_where_the_socket_belongs(place: Place) -> None:
    place.lab.control_socket("n1").write_text("precious")
    place.refuse("control.sock", "not a socket")
    assert place.lab.control_socket("n1").read_text() == "precious"


def test_init_that_fails(place: Place) -> None:
    place.lab.write_script(
        "n1", "20.refuses", '#!/bin/sh\n[ "$1" = init ] && echo "the disk is not mounted" && exit 1\nexit 0\n'
    )
    place.refuse("init failed", "20.refuses", "the disk is not mounted")


ORDINARY = """
import codecs, os, sys
import locum.cli.main, locum.cli.daemon, locum.node.guard.main, locum.daemon, locum.cli.output
for name in ("ascii", "latin-1", "utf-8-sig"):
    codecs.lookup(name)
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.exit(locum.cli.main.main(["daemon", "--config", sys.argv[1]]))
"""


def test_an_ordinary_user(place: Place) -> None:
    for directory in (place.lab.directory.parent, place.lab.directory, place.lab.directory / "nodes", place.directory):
        directory.chmod(0o755)
    done = place.lab.run("n1", [sys.executable, "-c", ORDINARY, str(place.config)])
    assert done.returncode in (1, 2), done
    assert "CAP_NET_ADMIN is missing" in done.stderr
    assert "run the daemon as root" in done.stderr
    assert "paths.runtime" in done.stderr
    assert "Traceback" not in done.stderr
    place.check_clean()


def test_without_nft_the_kernel_still_enforces_or_everybody_waits_longer(place: Place) -> None:
    """The program away: what is lost is said in the log and in status, and others wait longer for this node."""
    places = [path for name in ("/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft") if os.path.exists(path := name)]
    hide = "".join(f"mount --bind /dev/null {path}; " for path in {os.path.realpath(path) for path in places})
    node = subprocess.Popen(
        place.lab.command("n1", ["sh", "-c", f'{hide}PATH=/nonexistent exec "$@"', "sh", *DAEMON, str(place.config)]),
        env={**os.environ, **place.lab.command_environment("n1"), "LOCUM_LAB_PART": "daemon"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        report = place.lab.wait_for(
            "n1 to be OK", lambda: (r := node_report(place.lab, "n1")) and r.state == "OK" and r
        )
        text = " ".join(place.lab.status().warnings)
        print(text)
        assert report
        assert "nftables cannot be used" in text
        place.lab.wait_for("everything to be served", lambda: len(place.lab.served()) == 4)
        assert len(place.lab.configured("n1")) == 4
    finally:
        node.terminate()
        _, said = node.communicate(timeout=60)
    assert "nftables cannot be used" in said
    assert "Traceback" not in said
    assert node.returncode == 0
    place.check_clean()


def test_a_store_that_is_not_there_is_waited_for(place: Place) -> None:
    late = place.directory / "late.sock"
    place.config.write_text(
        "".join(
            f'store = "unix:{late}"\n' if line.startswith("store = ") else line
            for line in place.text.splitlines(keepends=True)
        )
    )
    place.lab.start_daemon("n1")
    place.lab.wait_for("the daemon to answer", lambda: answers(place.lab))
    text = locum(place.lab, "n1", "status", status=3)
    assert "has not read the store yet" in text
    assert str(late) in text
    refused = locum(place.lab, "n1", "node", "disable", "n1", status=2)
    assert "has not read the store yet" in refused
    assert place.lab.configured("n1") == {}
    store = subprocess.Popen(
        [sys.executable, "-m", "locum.store.server", "--socket", str(late)], stdout=subprocess.DEVNULL
    )
    try:
        place.lab.wait_served()
        place.lab.stop_daemon("n1")
    finally:
        store.terminate()
        store.wait(30)
    assert "Traceback" not in place.lab.daemon_log("n1").read_text()
    place.check_clean()


def test_a_daemon_whose_store_never_comes_ends_when_it_is_told_to(place: Place) -> None:
    place.config.write_text(place.text.replace("/store.sock", "/never.sock"))
    place.lab.start_daemon("n1")
    place.lab.wait_for("the daemon to answer", lambda: answers(place.lab))
    began = time.monotonic()
    place.lab.stop_daemon("n1")
    print(f"ended after {time.monotonic() - began:.1f} s")
    place.check_clean()


def answers(lab: Lab) -> bool:
    """Whether the daemon answers at all."""
    with contextlib.suppress(LocumError):
        lab.status("n1")
        return True
    return False
