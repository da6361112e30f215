"""What a node does when its machine lacks something: disk space, descriptors, one of its own processes."""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from locum_lab import namespaces, processes
from locum_lab.lab import Lab
from locum_lab.processes import Process
from tests.lab.clusters import (
    addresses_of,
    check_kernels,
    install_recorder,
    locum,
    node_report,
    seen,
    wait_moved,
    wait_state,
)
from tests.lab.conftest import MakeLab
from tests.lab.hostile import connect, nobody_disturbed, watch

pytestmark = [pytest.mark.lab, pytest.mark.long]


@contextlib.contextmanager
def small_disk(lab: Lab, node: str, name: str) -> Iterator[Path]:
    """A file system of its own, of 512 KiB, for a directory of a node whose daemon does not run yet."""
    place = lab.node_directory(node) / name
    kept = [(path.name, path.read_bytes()) for path in place.iterdir() if path.is_file()]
    namespaces.run(["mount", "-t", "tmpfs", "-o", "size=512k,mode=755", "locum-test", str(place)])
    try:
        for file, content in kept:
            (place / file).write_bytes(content)
        yield place
    finally:
        lab.stop_daemon(node, 60.0)
        namespaces.run(["umount", "--lazy", str(place)])


def fill(place: Path) -> Path:
    """Leave no byte free; returns what takes the room."""
    filler = place / ".filler"
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    with pytest.raises(OSError, match="No space"):
        (place / ".probe").write_bytes(b"x" * 4096)
    (place / ".probe").unlink(missing_ok=True)
    return filler


@pytest.mark.parametrize("which", ["runtime", "state"])
def test_a_full_disk_is_named_and_costs_no_other_node_anything(make_lab: MakeLab, which: str) -> None:
    lab = make_lab(hold=1.0, services=("web",), daemons=False)
    with small_disk(lab, "n1", which) as place:
        lab.start_daemons()
        lab.wait_served()
        agent = lab.agent("n1")
        filler = fill(place)
        with nobody_disturbed(lab):
            done = lab.run("n1", ["timeout", "60", *locum_command("event", "run", "monitor")])
            assert "Traceback" not in done.stderr
            locum(lab, "n1", "status")
        with watch(lab) as watching:
            # Out and in again: what cannot be taken is served elsewhere, what can is served here.
            locum(lab, "n2", "node", "disable", "n1")
            wait_moved(lab, tuple(lab.served()), "n1")
            assert lab.configured("n1") == {}
            fill(place)  # what was removed with the addresses has made room
            locum(lab, "n2", "node", "enable", "n1")
            # Others serve at once; n1 must have tried before there is room again.
            log = lab.daemon_log("n1")
            lab.wait_for("n1 to say what is wrong", lambda: "No space left" in log.read_text())
            lab.wait_for("everything to be served", lambda: len(lab.served()) == lab.layout.addresses)
            lab.wait_for("the kernels to agree", lambda: kernels_agree(lab))
            assert lab.agent("n1") == agent, "the agent did not survive"
            filler.unlink()
            lab.wait_served()
            lab.wait_for("n1 to serve again", lambda: addresses_of(lab, "n1"))
            lab.wait_served()
            locum(lab, "n2", "ip", "move", "10.77.0.2", "n1")
            assert "10.77.0.2" in addresses_of(lab, "n1")
            assert watching.end().violations == 0
        lab.fault("n1", "kill-agent")
        lab.wait_for("the agent of n1", lambda: lab.agent("n1") not in (None, agent))
        lab.wait_served()
    assert "Traceback" not in lab.daemon_log("n1").read_text()


def test_a_log_on_a_full_disk_costs_nothing(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=2, addresses=4, hold=1.0, services=("web",), daemons=False)
    place = lab.node_directory("n1") / "logs"
    place.mkdir()
    namespaces.run(["mount", "-t", "tmpfs", "-o", "size=64k", "locum-test", str(place)])
    try:
        log = place / "daemon.log"
        lab.start_daemon("n2")
        with log.open("ab") as output:
            command = [*locum_command("daemon", "--config"), str(lab.node_directory("n1") / "config.toml")]
            daemon = subprocess.Popen(
                lab.command("n1", command),
                env={**os.environ, **lab.command_environment("n1"), "LOCUM_LAB_PART": "daemon"},
                stdout=output,
                stderr=output,
            )
        lab.wait_served()
        fill(place)
        for _ in range(2):
            locum(lab, "n1", "node", "disable", "n1")
            locum(lab, "n1", "node", "enable", "n1")
            lab.wait_served()
        daemon.terminate()
        assert daemon.wait(60) == 0
        assert lab.configured("n1") == {}
    finally:
        namespaces.run(["umount", "--lazy", str(place)])


def locum_command(*arguments: str) -> list[str]:
    """A command line of ``locum``."""
    return [sys.executable, "-m", "locum.cli.main", *arguments]


def kernels_agree(lab: Lab) -> bool:
    """As check_kernels, as a question."""
    try:
        check_kernels(lab)
    except AssertionError:
        return False
    return True


def descriptors(process: Process) -> int:
    """How many the process has open."""
    return len(os.listdir(f"/proc/{process.pid}/fd"))


def test_no_free_descriptors_in_the_agent(make_lab: MakeLab) -> None:
    """Nobody can connect; what is open goes on, and so do scripts: the runner starts them. So nothing fails, and nobody
    is banned, for what is the daemon's trouble and not that of a service."""
    lab = make_lab(hold=1.0, services=("web",))
    lab.wait_served()
    locum(lab, "n2", "tunable", "set", "MonitorInterval", "1")
    agent = lab.agent("n1")
    assert agent is not None
    before = resource.prlimit(agent.pid, resource.RLIMIT_NOFILE)
    count = descriptors(agent)
    with watch(lab) as watching:
        resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (count, before[1]))
        waiting = [connect(lab.control_socket("n1")) for _ in range(5)]
        target = "n3" if lab.status("n2").addresses[0].node != "n3" else "n2"
        locum(lab, "n2", "ip", "move", lab.status("n2").addresses[0].address, target)
        # Monitor runs and finds what there is to find, the addresses leave, and they come back.
        processes.kill_all(lambda: lab.service_processes("n1"))
        lab.wait_for("n1 to be UNHEALTHY", lambda: state_of_n1(lab) == "UNHEALTHY")
        lab.wait_for("n1 to have released all", lambda: lab.configured("n1") == {})
        lab.wait_for("everything to be served", lambda: all(a.state == "served" for a in lab.status("n2").addresses))
        report = node_report(lab, "n1", asked="n2")
        assert report is not None
        assert report.reason.startswith("50.web failed")
        lab.start_services("n1")
        lab.wait_for(
            "n1 to serve again", lambda: [a for a in lab.status("n2").addresses if a.node == "n1" and a.serving]
        )
        assert state_of_n1(lab) == "OK"
        assert watching.end().violations == 0
    assert "Too many open files" in lab.daemon_log("n1").read_text()
    assert "bann" not in lab.daemon_log("n1").read_text()
    assert lab.agent("n1") == agent, "the agent did not survive"
    resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, before)
    for sock in waiting:
        sock.close()
    lab.wait_for("n1 to answer again", lambda: node_report(lab, "n1", asked="n1"))
    lab.wait_served()
    locum(lab, "n1", "ip", "move", "10.77.0.2", "n1", "--wait", "60")
    assert "Traceback" not in lab.daemon_log("n1").read_text()
    lab.wait_for("nothing left open", lambda: descriptors(agent) <= count + 6)


def state_of_n1(lab: Lab) -> str:
    """Its state as n2 sees it."""
    return next(node.state for node in lab.status("n2").nodes if node.name == "n1")


def children(lab: Lab, node: str) -> dict[str, Process]:
    """The node's processes by what they are."""
    found: dict[str, Process] = {}
    for process in lab.ours(node):
        command = processes.command_of(process.pid)
        name = processes.name_of(process.pid)
        kind = "store" if "locum.store.server" in command else "runner" if "runner/entry.py" in command else name
        # Parents come first: what the runner has forked for scripts to come looks like it.
        found.setdefault(kind, process)
    return found


def test_no_free_descriptors_in_the_runner(make_lab: MakeLab) -> None:
    """No script can be started: the node is not healthy, and others serve. Afterwards an admin puts it right."""
    lab = make_lab(hold=1.0, services=("web",))
    lab.wait_served()
    locum(lab, "n2", "tunable", "set", "MonitorInterval", "1")
    runner = children(lab, "n1")["runner"]
    before = resource.prlimit(runner.pid, resource.RLIMIT_NOFILE)
    with watch(lab) as watching:
        # Children that it has forked ahead are used up first.
        resource.prlimit(runner.pid, resource.RLIMIT_NOFILE, (4, before[1]))
        report = wait_state(lab, "n1", "UNHEALTHY", "BANNED")
        assert "Too many open files" in report.reason
        lab.wait_for("n1 to have released all", lambda: lab.configured("n1") == {})
        lab.wait_for("everything to be served", lambda: len(lab.served()) == lab.layout.addresses)
        resource.prlimit(runner.pid, resource.RLIMIT_NOFILE, before)
        locum(lab, "n2", "node", "unban", "n1")
        lab.wait_served()
        assert watching.end().violations == 0
    assert children(lab, "n1")["runner"] == runner
    assert "Traceback" not in lab.daemon_log("n1").read_text()


def test_no_free_descriptors_in_the_guard(make_lab: MakeLab) -> None:
    """It goes on, or ends and says why and is started by its service manager: in both cases it is silent in time."""
    lab = make_lab(hold=1.0, services=("web",))
    lab.wait_served()
    guard = lab.state.nodes["n1"].daemon
    assert guard is not None
    before = resource.prlimit(guard.pid, resource.RLIMIT_NOFILE)
    mine = addresses_of(lab, "n1")
    with watch(lab) as watching:
        resource.prlimit(guard.pid, resource.RLIMIT_NOFILE, (descriptors(guard), before[1]))
        lab.fault("n1", "kill-agent")
        # An agent that is forked now inherits the limit, and ends: the hold is over, and others serve.
        wait_moved(lab, mine, "n1")
        lab.wait_for("n1 to have no address", lambda: lab.configured("n1") == {})
        if processes.alive(guard):
            resource.prlimit(guard.pid, resource.RLIMIT_NOFILE, before)
        lab.start_daemon("n1")
        lab.wait_served()
        assert watching.end().violations == 0
    assert "Too many open files" in lab.daemon_log("n1").read_text()
    check_kernels(lab)


def test_no_free_descriptors_in_the_store(make_lab: MakeLab) -> None:
    """Those who are connected stay so; who comes later waits, and finds it when there is room again."""
    lab = make_lab(hold=1.0, services=("web",))
    lab.wait_served()
    (store,) = lab.state.store_processes
    before = resource.prlimit(store.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(store.pid, resource.RLIMIT_NOFILE, (descriptors(store), before[1]))
    with watch(lab) as watching:
        locum(lab, "n2", "ip", "move", "10.77.0.2", "n1")
        locum(lab, "n2", "ip", "move", "10.77.0.2", "n3")
        waiting = [connect(lab.directory / "store.sock") for _ in range(5)]
        locum(lab, "n2", "ip", "move", "10.77.0.2", "n2")
        # An agent that is killed leaves room for itself; it may be taken by those who wait already.
        lab.fault("n3", "kill-agent")
        lab.wait_for("another agent", lambda: lab.agent("n3") is not None)
        for sock in waiting:
            sock.close()
        resource.prlimit(store.pid, resource.RLIMIT_NOFILE, before)
        lab.wait_served()
        assert watching.end().violations == 0
    assert "Too many open files" in (lab.directory / "store.log").read_text()
    check_kernels(lab)


def test_a_killed_runner_is_replaced_and_moves_nothing(make_lab: MakeLab) -> None:
    lab = make_lab(hold=1.0, services=("web",))
    lab.wait_served()
    agent = lab.agent("n1")
    with nobody_disturbed(lab):
        for _ in range(3):
            runner = children(lab, "n1")["runner"]
            processes.send(runner, signal.SIGKILL)
            locum(lab, "n1", "event", "run", "monitor")
            lab.wait_for("another runner", functools.partial(replaced, lab, "runner", runner))
    assert lab.agent("n1") == agent


def replaced(lab: Lab, kind: str, old: Process) -> bool:
    """Whether another process of that kind runs on n1."""
    return children(lab, "n1").get(kind) not in (None, old)


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_a_store_of_one_node_that_is_killed(make_lab: MakeLab, store: str) -> None:
    """It comes back. One with a file forgets nothing; one in memory forgets all, and the node begins anew."""
    lab = make_lab(nodes=1, addresses=4, hold=1.0, services=("web",), daemons=False)
    install_recorder(lab)
    url = "memory:" if store == "memory" else f"sqlite:{lab.node_directory('n1')}/state/store.db"
    # The relay of the lab listens at another name than the guard's store.
    config = lab.node_directory("n1") / "config.toml"
    lines = [f'store = "{url}"' if line.startswith("store = ") else line for line in config.read_text().splitlines()]
    config.write_text("\n".join(lines) + "\n")
    lab.start_daemons()
    lab.wait_served()
    locum(lab, "n1", "tunable", "set", "TickleCount", "6")
    before = node_report(lab, "n1")
    agent = lab.agent("n1")
    takes = len(seen(lab, "n1", "takeip"))
    old = children(lab, "n1")["store"]
    processes.send(old, signal.SIGKILL)
    lab.wait_for("another store", lambda: children(lab, "n1").get("store") not in (None, old))

    def back() -> bool:
        report = node_report(lab, "n1")
        if report is None or report.state != "OK":
            return False
        return store == "sqlite" or (before is not None and report.incarnation != before.incarnation)

    lab.wait_for("n1 to be OK", back)
    lab.wait_served()
    after = node_report(lab, "n1")
    assert after is not None
    assert before is not None
    value = locum(lab, "n1", "tunable", "get", "TickleCount")
    if store == "sqlite":
        assert "6" in value
        assert after.incarnation == before.incarnation
        assert len(seen(lab, "n1", "takeip")) == takes, "an address was taken again without need"
    else:
        assert "6" not in value
    assert lab.agent("n1") == agent
    check_kernels(lab)


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_a_killed_guard_takes_the_store_of_its_node_along(make_lab: MakeLab, store: str) -> None:
    lab = make_lab(nodes=1, addresses=4, hold=1.0, services=("web",), daemons=False)
    url = "memory:" if store == "memory" else f"sqlite:{lab.node_directory('n1')}/state/store.db"
    config = lab.node_directory("n1") / "config.toml"
    lines = [f'store = "{url}"' if line.startswith("store = ") else line for line in config.read_text().splitlines()]
    config.write_text("\n".join(lines) + "\n")
    lab.start_daemons()
    lab.wait_served()
    everything = lab.ours("n1")
    guard = lab.state.nodes["n1"].daemon
    assert guard is not None
    processes.send(guard, signal.SIGKILL)
    left = processes.wait_gone(everything, 30.0)
    assert [processes.command_of(process.pid) for process in left] == []
    lab.start_daemon("n1")
    lab.wait_served()
    check_kernels(lab)
    lab.stop_daemon("n1")
    assert lab.ours("n1") == ()
    assert lab.configured("n1") == {}
    assert "Traceback" not in lab.daemon_log("n1").read_text()


def test_kill_of_each_process_in_turn_ends_with_everything_served(make_lab: MakeLab) -> None:
    lab = make_lab(hold=1.0, services=("web",))
    lab.wait_served()
    with watch(lab) as watching:
        for node, kind in (("n1", "runner"), ("n2", "locum-agent"), ("n3", "locum-guard")):
            victim = children(lab, node)[kind]
            processes.send(victim, signal.SIGKILL)
            if kind == "locum-guard":
                wait_state(lab, node, "DISCONNECTED")
                lab.wait_for("the others to end", lambda node=node: lab.ours(node) == ())  # type: ignore[misc]
                lab.start_daemon(node)
            lab.wait_served()
        assert watching.end().violations == 0
    check_kernels(lab)
