"""The lab itself, with stand-ins for the daemons: what it builds, what it leaves, and that a crash leaves nothing."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from locum.errors import UsageError
from locum_lab import namespaces, processes, state
from locum_lab.lab import Lab, down, namespaces_of
from locum_lab.layout import Layout
from locum_lab.processes import Process

pytestmark = pytest.mark.lab

BareLab = Callable[..., Lab]
COMMAND = (sys.executable, "-m", "locum_lab.command")


def everything(lab: Lab) -> list[Process]:
    """Every process in the lab's namespaces."""
    pids = [pid for found in namespaces.inhabitants(lab.layout.namespaces).values() for pid in found]
    return [process for pid in pids if (process := processes.find(pid)) is not None]


def is_gone(name: str) -> bool:
    """Whether nothing is left of a lab."""
    return not namespaces_of(name) and not state.directory_of(name).exists()


def fetch(lab: Lab, address: str) -> str:
    """What the client gets from an address; empty when nothing."""

    def get() -> str:
        connection = http.client.HTTPConnection(address, 80, timeout=2)
        try:
            connection.request("GET", "/")
            return connection.getresponse().read().decode().strip()
        except OSError:
            return ""
        finally:
            connection.close()

    return namespaces.inside(lab.layout.client, get)


def configure(lab: Lab, node: str, address: str, verb: str = "add", interface: str = "eth1") -> None:
    """Give a node a public address by hand, or take it away."""
    public = next(public for public in lab.layout.public_addresses if public.address == address)
    extra = ["nodad"] if verb == "add" and ":" in address else []
    done = lab.run(node, ["ip", "address", verb, f"{address}/{public.bits}", "dev", interface, *extra])
    assert done.returncode == 0, done.stderr


def test_it_builds_what_the_layout_says(bare_lab: BareLab) -> None:
    lab = bare_lab(nodes=2, addresses=4, interfaces=2)
    for node in ("n1", "n2"):
        links = lab.run(node, ["ip", "-br", "link"]).stdout
        for interface in ("eth0", "eth1", "eth2"):
            assert lab.layout.mac(node, interface) in links
        assert os.listdir(lab.node_directory(node) / "runtime") == []
        assert (lab.node_directory(node) / "public_addresses").read_text().splitlines()[:2] == [
            "10.77.0.2/24 eth1,eth2",
            "fd77::2/64 eth1,eth2",
        ]
    assert lab.run("n1", ["ping", "-c1", "-W5", "10.78.0.2"]).returncode == 0
    configure(lab, "n2", "10.77.0.2")
    configure(lab, "n2", "fd77::2")
    assert fetch(lab, "10.77.0.2") == "n2"
    assert fetch(lab, "fd77::2") == "n2"


def test_nothing_of_it_is_seen_in_the_host(bare_lab: BareLab) -> None:
    before = set(os.listdir("/sys/class/net"))
    bare_lab()
    assert set(os.listdir("/sys/class/net")) == before


def test_down_leaves_nothing(bare_lab: BareLab) -> None:
    lab = bare_lab()
    present = everything(lab)
    assert len(present) >= 3 * 3 + 1
    lab.fault("n1", "freeze")
    lab.fault("n2", "cut")
    lab.down()
    assert is_gone(lab.layout.name)
    assert not any(processes.alive(process) for process in present)
    assert not down(lab.layout.name)


def test_down_leaves_other_labs_alone(bare_lab: BareLab) -> None:
    one = bare_lab(nodes=1, addresses=1)
    other = Lab.up(Layout(name=f"{one.layout.name}-n1", nodes=1, addresses=1), daemon_command=("sleep", "1000"))
    try:
        present = everything(other)
        one.down()
        assert all(processes.alive(process) for process in present)
        assert len(namespaces_of(other.layout.name)) == 3
    finally:
        other.down()


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.02, 0.03, 0.045, 0.06, 0.08, 0.1])
def test_down_after_a_crash_at_any_moment_leaves_nothing(delay: float) -> None:
    name = f"crash{os.getpid()}"
    code = (
        "from locum_lab.lab import Lab; from locum_lab.layout import Layout; print(flush=True);"
        f"Lab.up(Layout(name={name!r}), daemon_command=('sleep', '1000')); print('up', flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as crashing:
        assert crashing.stdout is not None
        crashing.stdout.readline()
        time.sleep(delay)
        crashing.kill()
    try:
        # What it had just started may still be on its way into a namespace, and outlive one or two of these.
        gone, limit = 0, time.monotonic() + 60
        while gone < 3:
            assert time.monotonic() < limit, "something of it stays, however often it is taken down"
            down(name)
            gone = gone + 1 if is_gone(name) else 0
            time.sleep(0.02)
    finally:
        down(name)


def test_up_over_a_leftover_cleans_it_first(bare_lab: BareLab) -> None:
    lab = bare_lab(nodes=1, addresses=1)
    old = everything(lab)
    state.write(msgspec.structs.replace(lab.state, owner=Process(os.getpid(), 1)))  # a killed owner
    again = Lab.up(lab.layout, daemon_command=("sleep", "1000"))
    assert not any(processes.alive(process) for process in old)
    assert everything(again)


def test_up_over_a_running_lab_is_refused(bare_lab: BareLab) -> None:
    lab = bare_lab(nodes=1, addresses=1)
    with pytest.raises(UsageError, match="is up already"):
        Lab.up(lab.layout, daemon_command=("sleep", "1000"))
    assert still_serves(lab)


def still_serves(lab: Lab) -> bool:
    """Whether the lab's only node still serves."""
    configure(lab, "n1", "10.77.0.2")
    return fetch(lab, "10.77.0.2") == "n1"


def test_a_failed_up_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"fail{os.getpid()}"
    monkeypatch.setattr("locum_lab.node_files.SHIPPED", ("00.no-such-script",))
    with pytest.raises(Exception, match=r"00\.no-such-script"):
        Lab.up(Layout(name=name))
    assert is_gone(name)


def test_cut_drops_everything_in_silence(bare_lab: BareLab) -> None:
    lab = bare_lab(nodes=2)
    configure(lab, "n1", "10.77.0.2")
    assert fetch(lab, "10.77.0.2") == "n1"
    lab.fault("n1", "cut")
    assert fetch(lab, "10.77.0.2") == ""
    assert lab.run("n2", ["ping", "-c1", "-W1", "10.78.0.1"]).returncode != 0
    assert lab.run("n1", ["cat", "/sys/class/net/eth1/carrier"]).stdout == "1\n"
    path = lab.state.nodes["n1"].path
    assert path is not None
    assert stopped(path)
    lab.heal("n1")
    lab.wait_for("the address", lambda: fetch(lab, "10.77.0.2") == "n1")
    assert not stopped(path)


def stopped(process: Process) -> bool:
    """Whether the process is stopped by a signal."""
    stat = processes.read_stat(process.pid)
    return stat is not None and stat.state == "T"


def test_cut_private_leaves_the_public_network(bare_lab: BareLab) -> None:
    lab = bare_lab(nodes=2)
    configure(lab, "n1", "10.77.0.2")
    lab.fault("n1", "cut-private")
    assert fetch(lab, "10.77.0.2") == "n1"
    assert lab.run("n2", ["ping", "-c1", "-W1", "10.78.0.1"]).returncode != 0
    lab.heal()
    assert lab.run("n2", ["ping", "-c1", "-W5", "10.78.0.1"]).returncode == 0


def test_link_takes_the_carrier_of_one_interface(bare_lab: BareLab) -> None:
    lab = bare_lab(nodes=1, addresses=1, interfaces=2)

    def carriers() -> str:
        return lab.run("n1", ["cat", "/sys/class/net/eth1/carrier", "/sys/class/net/eth2/carrier"]).stdout

    lab.fault("n1", "link", "eth2")
    assert carriers() == "1\n0\n"
    lab.fault("n1", "link")
    assert carriers() == "0\n0\n"
    lab.heal()
    assert carriers() == "1\n1\n"
    with pytest.raises(UsageError, match="eth3"):
        lab.fault("n1", "link", "eth3")


def test_service_kills_the_service_alone_and_heal_starts_it(bare_lab: BareLab) -> None:
    lab = bare_lab(nodes=1, addresses=1)
    ours, service = three_of_ours(lab), lab.service_processes("n1")
    configure(lab, "n1", "10.77.0.2")
    lab.wait_for("the web server", lambda: fetch(lab, "10.77.0.2") == "n1")
    lab.fault("n1", "service")
    assert processes.wait_gone(service, 10) == ()
    assert lab.ours("n1") == ours
    assert fetch(lab, "10.77.0.2") == ""
    lab.heal()
    lab.wait_for("the web server", lambda: fetch(lab, "10.77.0.2") == "n1")


def three_of_ours(lab: Lab) -> tuple[Process, ...]:
    """The three processes of n1's stand-in, once all have started."""
    lab.wait_for("three processes", lambda: len(lab.ours("n1")) == 3)
    return lab.ours("n1")


def test_kill_all_takes_every_process_of_ours_and_no_other(make_lab: Callable[..., Lab]) -> None:
    # The guard's child is orphaned and in a session of its own; it is ours all the same.
    lab = make_lab(nodes=1, addresses=1, daemon_command=("sh", "-c", "(setsid sleep 1001 & exec sleep 1002) & wait"))
    ours = three_of_ours(lab)
    service = lab.service_processes("n1")
    assert service
    lab.fault("n1", "kill-all")
    assert processes.wait_gone(list(ours), 10) == ()
    assert all(processes.alive(process) for process in service)
    lab.heal()
    lab.wait_for("the daemon to be started", lambda: lab.ours("n1"))
    assert not set(lab.ours("n1")) & set(ours)


def test_ours_are_found_when_the_guard_is_dead(bare_lab: BareLab) -> None:
    lab = bare_lab(nodes=1, addresses=1)
    ours = three_of_ours(lab)
    processes.send(ours[0], signal.SIGKILL)
    lab.wait_for("the guard's end", lambda: not processes.alive(ours[0]))
    assert set(lab.ours("n1")) == set(ours[1:])


def test_freeze_stops_and_heal_continues(bare_lab: BareLab) -> None:
    lab = bare_lab(nodes=1, addresses=1)
    ours = three_of_ours(lab)
    lab.fault("n1", "freeze")
    lab.wait_for("all to stop", lambda: all(stopped(process) for process in ours))
    assert not any(stopped(process) for process in lab.service_processes("n1"))
    lab.heal()
    lab.wait_for("all to go on", lambda: not any(stopped(process) for process in ours))


def test_faults_outlive_the_command_that_made_them(bare_lab: BareLab) -> None:
    lab = bare_lab(nodes=2)
    configure(lab, "n1", "10.77.0.2")
    run = [*COMMAND, "fault", "--name", lab.layout.name]
    assert subprocess.run([*run, "n1", "cut"], check=False).returncode == 0
    assert fetch(lab, "10.77.0.2") == ""
    assert subprocess.run([*COMMAND, "heal", "--name", lab.layout.name], check=False).returncode == 0
    lab.wait_for("the address", lambda: fetch(lab, "10.77.0.2") == "n1")


def test_exec_runs_on_the_node_and_gives_its_status(bare_lab: BareLab) -> None:
    lab = bare_lab(nodes=2)
    run = [*COMMAND, "exec", "--name", lab.layout.name, "n2", "--", "sh", "-c"]
    done = subprocess.run([*run, 'echo "$LOCUM_SOCKET"; exit 7'], check=False, capture_output=True, text=True)
    assert done.returncode == 7
    assert Path(done.stdout.strip()) == lab.control_socket("n2")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fault", "--name", "{}", "n9", "cut"], "n1, n2, n3"),
        (["fault", "--name", "{}", "n1", "fire"], "kill-agent"),
        (["exec", "--name", "{}", "n9", "true"], "n1, n2, n3"),
        (["heal", "--name", "no-such-lab"], "no lab 'no-such-lab'"),
        (["up", "--name", "{}"], "up already"),
        (["up", "--nodes", "0"], "1 to 64"),
        (["up", "--services", "ftp"], "'ftp'"),
        (["probe", "--name", "{}", "--address", "10.77.0.99"], "10.77.0.99"),
    ],
)
def test_mistakes_are_one_line_and_status_2(bare_lab: BareLab, arguments: list[str], words: str) -> None:
    lab = bare_lab()
    done = subprocess.run(
        [*COMMAND, *(word.format(lab.layout.name) for word in arguments)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 2, done
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
