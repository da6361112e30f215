"""NFS servers that die, hang or lose their exports, and transfers that are interrupted by moves."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from locum.clock import boottime
from locum_lab import nfs_service, processes
from tests.lab.conftest import MakeLab
from tests.lab.nfs.scene import CLIENT, LOCUM, Scene, fill, same

pytestmark = [pytest.mark.lab, pytest.mark.long]

MEGABYTES = 300


@pytest.fixture
def scene(make_lab: MakeLab) -> Scene:
    lab = make_lab(nodes=3, addresses=4, hold=1.0, services=["nfs", "nfstickle"])
    lab.wait_served()
    return Scene(lab)


def node_state(scene: Scene, node: str) -> tuple[str, str]:
    """State and reason of a node, as another one sees it."""
    witness = next(name for name in scene.lab.layout.node_names if name != node)
    found = next(item for item in scene.lab.status(witness).nodes if item.name == node)
    return found.state, found.reason


def url(scene: Scene, address: str, version: int, name: str) -> str:
    path = scene.export if version == 3 else Path(nfs_service.PSEUDO)
    # After a reset libnfs 4 may go on with half of an answer to the old connection, and wait for the rest for ever: it
    # connects again by itself only where that is what the test is about.
    again = "" if version == 3 else "&autoreconnect=0"
    return f"nfs://{address}{path}/{name}?version={version}{again}"


# -- transfers -----------------------------------------------------------------------------------------------------


def interrupted(scene: Scene, version: int, fault: object, tmp_path: Path) -> int:
    """Copy a file by nfs-cp while ``fault(address)`` happens. An ordinary user tries again when it fails: returns how
    often the copy was begun, without those that waited for ever (see :func:`url`)."""
    address, _ = scene.apart()
    fill(scene.export / "big", MEGABYTES)
    scene.wait_grace_over(address)  # NFSv4 opens no file before
    target = tmp_path / "big"
    begun = stuck = 0
    faulted = False
    said = b""
    since = 0.0
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        begun += 1
        target.unlink(missing_ok=True)  # nfs-cp overwrites nothing
        copy = scene.copy(url(scene, address, version, "big"), target)
        if not faulted:
            scene.lab.wait_for("the copy's beginning", lambda: target.exists() and target.stat().st_size > 1 << 20)
            # Not faster than the fault.
            copy.send_signal(signal.SIGSTOP)
            # Who has just come is on nobody's list when the host dies, and is told by nobody.
            scene.lab.wait_for("its connection on the list", lambda: CLIENT in scene.connected(address))
            since = time.monotonic()
            fault(address)  # type: ignore[operator]
            copy.send_signal(signal.SIGCONT)
            faulted = True
        try:
            copy.wait(30)
        except subprocess.TimeoutExpired:
            copy.kill()
            copy.wait()
            stuck += 1
        if copy.returncode == 0 and same(scene.export / "big", target):
            took = time.monotonic() - since
            print(f"NFSv{version}: attempt {begun}, {stuck} got stuck, {took:.1f} s after the fault; {said!r}")
            return begun - stuck
        said = copy.stdout.read() if copy.stdout is not None else b""
        time.sleep(0.5)
    raise AssertionError(f"not copied after {begun} attempts: {said!r}")


@pytest.mark.parametrize("version", [3, 4])
def test_transfer_and_planned_move(scene: Scene, version: int, tmp_path: Path) -> None:
    def move(address: str) -> None:
        scene.move(address, scene.elsewhere(*scene.apart()))

    attempts = interrupted(scene, version, move, tmp_path)
    if version == 3:
        # NFSv3 has no state: the client connects again and goes on where it was.
        assert attempts == 1


@pytest.mark.parametrize("version", [3, 4])
def test_transfer_and_dead_host(scene: Scene, version: int, tmp_path: Path) -> None:
    def die(address: str) -> None:
        node = scene.holder(address)
        scene.die(node)
        scene.lab.wait_for("the address elsewhere", lambda: scene.lab.served().get(address, node) != node)

    attempts = interrupted(scene, version, die, tmp_path)
    if version == 3:
        assert attempts == 1


def test_write_through_one_node_is_read_through_another(scene: Scene, tmp_path: Path) -> None:
    one, other = scene.apart()
    # NFS-Ganesha answers "try again later" to some writes of NFSv3 in its grace period; libnfs does not try.
    scene.wait_grace_over(one)
    fill(tmp_path / "new", 1)
    (scene.export / "sub").mkdir(mode=0o777)
    done = scene.lab.run("client", ["nfs-cp", str(tmp_path / "new"), url(scene, one, 3, "sub/new")])
    assert done.returncode == 0, done.stdout + done.stderr
    done = scene.lab.run("client", ["nfs-cp", url(scene, other, 3, "sub/new"), str(tmp_path / "back")])
    assert done.returncode == 0, done.stdout + done.stderr
    assert same(tmp_path / "new", tmp_path / "back")


# -- servers -------------------------------------------------------------------------------------------------------


def test_death_of_the_server_is_noticed_by_its_socket(scene: Scene) -> None:
    address, _ = scene.apart()
    node = scene.holder(address)
    begun = boottime()
    assert processes.send(scene.ganesha(node), signal.SIGKILL)
    scene.lab.wait_for("unhealthy", lambda: node_state(scene, node)[0] != "OK")
    noticed = boottime() - begun
    print(f"noticed after {noticed:.3f} s")
    # Polling would need MonitorInterval, 15 s; a machine that is slow needs some of it.
    assert noticed < 5
    scene.lab.wait_for("the address elsewhere", lambda: scene.lab.served().get(address, node) != node)
    # It is started again once its addresses are elsewhere, and comes back.
    scene.lab.wait_served(60)


def test_server_that_hangs_is_found_by_monitor(scene: Scene) -> None:
    address, _ = scene.apart()
    node = scene.holder(address)
    hanging = scene.ganesha(node)
    assert processes.send(hanging, signal.SIGSTOP)
    # What the timer would do some seconds later.
    done = scene.lab.run(node, [*LOCUM, "event", "run", "monitor"])
    assert "no answer within" in done.stdout + done.stderr
    scene.lab.wait_for("unhealthy", lambda: node_state(scene, node)[0] != "OK")
    scene.lab.wait_for("the address elsewhere", lambda: scene.lab.served().get(address, node) != node)
    # It does not wake up with the locks that it had.
    scene.lab.wait_for("its end", lambda: not processes.alive(hanging))
    scene.lab.wait_served(60)


def test_statd_that_dies_is_started_again(scene: Scene) -> None:
    node = "n1"
    name = scene.lab.layout.namespace(node)
    from locum_lab import namespaces  # noqa: PLC0415

    def statd() -> processes.Process | None:
        for pid in namespaces.inhabitants([name])[name]:
            if processes.name_of(pid) == "rpc.statd":
                return processes.find(pid)
        return None

    before = statd()
    assert before is not None
    processes.send(before, signal.SIGKILL)
    scene.lab.wait_for("its end", lambda: not processes.alive(before))
    scene.lab.run(node, [*LOCUM, "event", "run", "monitor"])
    scene.lab.wait_for("another rpc.statd", lambda: (now := statd()) is not None and now != before)
    assert node_state(scene, node)[0] == "OK"


def test_export_that_disappears(scene: Scene) -> None:
    address, _ = scene.apart()
    node = scene.holder(address)
    shared = scene.lab.node_directory(node) / "shared"
    gone = shared.with_name("shared.gone")
    shared.rename(gone)
    try:
        scene.lab.run(node, [*LOCUM, "event", "run", "monitor"])
        scene.lab.wait_for("unhealthy", lambda: node_state(scene, node)[0] != "OK")
        assert str(shared) in node_state(scene, node)[1]
        scene.lab.wait_for("the address elsewhere", lambda: scene.lab.served().get(address, node) != node)
    finally:
        gone.rename(shared)
    scene.lab.run(node, [*LOCUM, "event", "run", "monitor"])
    scene.lab.wait_served(60)
