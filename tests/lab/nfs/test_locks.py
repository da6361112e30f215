"""Locks survive moves: grace everywhere first, notification from the address, reclaim, and no thief in between."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from locum import rpc
from locum.nfs import callout
from locum_lab import nfs_service
from locum_lab.layout import CLIENT_V6
from locum_lab.nlm import Status
from tests.lab.conftest import MakeLab
from tests.lab.nfs.scene import CLIENT, LOCUM, OTHER, Rival, Scene, quiet_scene, receiving

pytestmark = [pytest.mark.lab, pytest.mark.long]


@pytest.fixture
def scene(make_lab: MakeLab) -> Scene:
    return quiet_scene(make_lab)


def reclaim_when_told(scene: Scene, address: str, change: object) -> Rival:
    """A client has a lock through ``address``; ``change`` is called; the client reclaims the lock when it is notified,
    and not earlier. Returns the rival that tried for the lock through another node all the time."""
    _, elsewhere = scene.apart()
    owner = scene.lock_client(address, "owner")
    assert owner.lock() is Status.GRANTED
    scene.lab.wait_for("the client to be recorded", lambda: CLIENT in scene.registered().get(address, ()))
    rival = Rival(scene.lock_client(elsewhere, "rival", OTHER))
    assert rival.locks.lock() is Status.DENIED
    with receiving(scene) as received:
        rival.start()
        try:
            change()  # type: ignore[operator]
            scene.lab.wait_for("a notification", lambda: any(one.name == address for one in received), 60)
            assert not rival.said(Status.GRANTED)
            # In its grace period the new holder grants what is reclaimed.
            scene.lab.wait_for("the lock back", lambda: owner.lock(reclaim=True) is Status.GRANTED, 10)
            scene.lab.wait_for("both names", lambda: len({one.name for one in received}) > 1, 10)
            # The grace period passes; the rival is refused during it, and after it because the lock is held.
            scene.lab.wait_for(
                "the rival's refusal after grace",
                lambda: rival.said(Status.DENIED_GRACE_PERIOD) and rival.answers[-1][1] is Status.DENIED,
                60,
            )
        finally:
            rival.end()
        assert {one.sender for one in received} == {address}
        assert {one.name for one in received} == {address, nfs_service.HOST_NAME}
        assert {one.state % 2 for one in received} == {1}
    assert not rival.said(Status.GRANTED), rival.answers
    # The rightful owner ends it, then the rival has its turn.
    assert owner.unlock() is Status.GRANTED
    assert rival.locks.lock() is Status.GRANTED
    return rival


def test_lock_is_reclaimed_after_a_planned_move(scene: Scene) -> None:
    address, elsewhere = scene.apart()
    target = scene.elsewhere(address, elsewhere)
    reclaim_when_told(scene, address, lambda: scene.move(address, target))
    assert scene.holder(address) == target


def test_lock_is_reclaimed_after_the_death_of_the_holder(scene: Scene) -> None:
    address, _ = scene.apart()
    dead = scene.holder(address)
    # The file system takes the dead host's locks away when the host is known to be dead, which is when others take its
    # addresses; here that is as soon as its server is killed, so the rival is asked to begin only then.
    owner = scene.lock_client(address, "owner")
    assert owner.lock() is Status.GRANTED
    scene.lab.wait_for("the client to be recorded", lambda: CLIENT in scene.registered().get(address, ()))
    _, elsewhere = scene.apart()
    with receiving(scene) as received:
        scene.lab.fault(dead, "cut")
        other = next(node for node in scene.lab.layout.node_names if node != dead)
        scene.lab.wait_for(
            "the plan without it",
            lambda: any(a.assigned and a.assigned != dead for a in scene.lab.status(other).addresses),
        )
        scene.lab.wait_for("the address elsewhere", lambda: scene.lab.served().get(address, dead) != dead, 60)
        rival = Rival(scene.lock_client(elsewhere, "rival", OTHER))
        scene.lab.fault(dead, "service")
        rival.start()
        try:
            scene.lab.wait_for("a notification", lambda: any(one.name == address for one in received), 60)
            scene.lab.wait_for("the lock back", lambda: owner.lock(reclaim=True) is Status.GRANTED, 10)
            scene.lab.wait_for(
                "refusal after grace", lambda: rival.answers and rival.answers[-1][1] is Status.DENIED, 60
            )
        finally:
            rival.end()
        assert {one.sender for one in received} == {address}
    assert rival.said(Status.DENIED_GRACE_PERIOD)
    assert not rival.said(Status.GRANTED), rival.answers


def test_lock_is_reclaimed_after_a_clean_stop_of_the_holder(scene: Scene) -> None:
    """Samba bug 15858: locks must not be free between the stop of a node and the grace period of the others."""
    address, _ = scene.apart()
    node = scene.holder(address)
    reclaim_when_told(scene, address, lambda: scene.lab.stop_daemon(node))


def test_lock_that_nobody_reclaims_is_free_after_the_grace_period(scene: Scene) -> None:
    """And not before, through whatever node."""
    address, elsewhere = scene.apart()
    assert scene.lock_client(address, "owner").lock() is Status.GRANTED
    rival = Rival(scene.lock_client(elsewhere, "rival", OTHER))
    assert rival.locks.lock() is Status.DENIED
    rival.start()
    try:
        scene.move(address, scene.elsewhere(address, elsewhere))
        scene.lab.wait_for("the lock for the rival", lambda: rival.said(Status.GRANTED), 60)
    finally:
        rival.end()
    answers = [answer for _, answer in rival.answers if answer is not None]
    assert answers == [Status.DENIED, Status.DENIED_GRACE_PERIOD, Status.GRANTED]
    times = dict(reversed([(answer, at) for at, answer in rival.answers]))
    waited = times[Status.GRANTED] - times[Status.DENIED_GRACE_PERIOD]
    assert waited > nfs_service.GRACE - 0.5, waited


def test_notification_is_repeated_until_acknowledged(scene: Scene) -> None:
    address, elsewhere = scene.apart()
    assert scene.lock_client(address, "owner").lock() is Status.GRANTED
    scene.lab.wait_for("the client to be recorded", lambda: CLIENT in scene.registered().get(address, ()))
    with receiving(scene, acknowledge=lambda count: count >= 3) as received:
        scene.move(address, scene.elsewhere(address, elsewhere))
        scene.lab.wait_for("repetitions of both", lambda: len(received) >= 5, 60)
        assert len({one.state for one in received}) == 1
    assert CLIENT in scene.registered()[address]


def test_state_number_grows_with_every_move(scene: Scene) -> None:
    address, elsewhere = scene.apart()
    assert scene.lock_client(address, "owner").lock() is Status.GRANTED
    scene.lab.wait_for("the client to be recorded", lambda: CLIENT in scene.registered().get(address, ()))
    first, second = scene.elsewhere(address, elsewhere), scene.holder(address)
    with receiving(scene) as received:
        scene.move(address, first)
        scene.lab.wait_for("two notifications", lambda: len(received) >= 2, 60)
        before = received[-1].state
        scene.move(address, second)
        scene.lab.wait_for("two more", lambda: len(received) >= 4, 60)
        assert received[-1].state > before
        assert received[-1].state % 2 == 1


def test_every_node_enters_its_grace_period(make_lab: MakeLab) -> None:
    """Also those that neither give nor take an address, and those that serve none, before and after."""
    lab = make_lab(nodes=4, addresses=2, services=["nfs"])
    lab.wait_served()
    scene = Scene(lab)
    address = next(address for address in lab.served() if ":" not in address)
    scene.wait_grace_over(address)
    before = {node: scene.graces(node) for node in lab.layout.node_names}
    scene.move(address, scene.elsewhere(*lab.served()))
    lab.wait_for("grace everywhere", lambda: all(scene.graces(node) > count for node, count in before.items()), 30)


def test_nothing_moved_no_grace(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=3, addresses=2, services=["nfs"])
    lab.wait_served()
    scene = Scene(lab)
    scene.wait_grace_over(next(address for address in lab.served() if ":" not in address))
    # A node without addresses leaves: there is a new plan, and nothing moves.
    idle = scene.elsewhere(*lab.served())
    others = [node for node in lab.layout.node_names if node != idle]
    before = {node: scene.graces(node) for node in others}
    epoch = lab.status(others[0]).epoch
    lab.stop_daemon(idle)
    lab.wait_for("a new plan", lambda: (s := lab.status(others[0])).epoch > epoch and s.progress == "settled")
    assert {node: scene.graces(node) for node in others} == before


def test_unlocked_clients_are_not_on_the_list(scene: Scene) -> None:
    address, _ = scene.apart()
    # For a while after addresses left a node, what its server says of the end of locks means nothing.
    place = callout.directory(str(scene.lab.node_directory(scene.holder(address)) / "state"))
    scene.lab.wait_for("the end of that while", lambda: not callout.is_kept(place), 60)
    owner = scene.lock_client(address, "owner")
    assert owner.lock() is Status.GRANTED
    scene.lab.wait_for("the client to be recorded", lambda: CLIENT in scene.registered().get(address, ()))
    assert owner.unlock() is Status.GRANTED
    # The end of its monitoring is noted first, and monitor removes the record later.
    limit = callout.NOTED + 60
    scene.lab.wait_for("the client to be forgotten", lambda: CLIENT not in scene.registered().get(address, ()), limit)


def test_lock_taken_while_the_store_is_away_is_recorded_later(scene: Scene) -> None:
    address, _ = scene.apart()
    node = scene.holder(address)
    lab = scene.lab
    owner = scene.lock_client(address, "owner")
    scene.inside(owner._file)
    journal = lab.node_directory(node) / "state" / "statd" / "journal"
    lab.store.cut(lab.state.nodes[node].path)
    try:
        assert owner.lock() in (Status.GRANTED, None)
        lab.wait_for("the journal", lambda: journal.exists() and journal.stat().st_size > 0, 20)
    finally:
        lab.store.heal(lab.state.nodes[node].path)
    lab.wait_served()
    lab.run(node, [*LOCUM, "event", "run", "monitor"])
    lab.wait_for("the journal's delivery", lambda: journal.stat().st_size == 0, 30)


@contextlib.contextmanager
def client_statd(scene: Scene, without: str) -> Iterator[Path]:
    """rpcbind and rpc.statd of the client, on a machine that lacks a transport. Yields what they write."""
    room = scene.lab.directory / "client-nfs"
    for name in ("run", "var/sm", "var/sm.bak"):
        (room / name).mkdir(parents=True)
    lines = Path("/etc/netconfig").read_text().splitlines(keepends=True)
    (room / "netconfig").write_text("".join(line for line in lines if not (without and line.startswith(without))))
    # The room itself is below /run.
    mounts = {"var": "/var/lib/nfs", "netconfig": "/etc/netconfig", "run": "/run"}
    enter = "mount --make-rprivate /" + "".join(f" && mount --bind {room}/{a} {b}" for a, b in mounts.items())
    started = []
    output = room / "statd.log"
    try:
        with output.open("wb") as file:
            for command in ("rpcbind -f -w", "rpc.statd -F -d -L -p 32765 -P /var/lib/nfs"):
                argv = scene.lab.command("client", ["unshare", "--mount", "sh", "-c", f"{enter} && exec {command}"])
                started.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file))
                time.sleep(0.5)  # rpc.statd gives up when there is no port mapper yet
        scene.lab.wait_for(
            "rpc.statd of the client", lambda: b"Waiting for client connections" in output.read_bytes(), 20
        )
        yield output
    finally:
        for process in started:
            process.kill()
            process.wait()


def is_registered(program: int, host: str, *, tcp: bool) -> bool:
    try:
        return rpc.port_of(host, program, 1, tcp=tcp, timeout=2.0) != 0
    except rpc.RpcError:
        return False


@pytest.mark.parametrize("without", ["", "udp"], ids=["udp", "tcp"])
def test_a_real_statd_is_notified(scene: Scene, without: str) -> None:
    """rpc.statd and rpcbind of a client, which have their own say in what they accept: of all, or nothing but TCP."""
    lab = scene.lab
    address, elsewhere = scene.apart()
    with client_statd(scene, without) as output:
        for tcp, known in ((True, True), (False, not without)):
            registered = scene.inside(lambda: is_registered(rpc.STATD, CLIENT, tcp=tcp))  # noqa: B023
            assert registered is known, output.read_text(errors="replace")
        assert scene.lock_client(address, "owner").lock() is Status.GRANTED
        lab.wait_for("the client to be recorded", lambda: CLIENT in scene.registered().get(address, ()))
        scene.move(address, scene.elsewhere(address, elsewhere))
        lab.wait_for("SM_NOTIFY", lambda: b"SM_NOTIFY" in output.read_bytes(), 30)
        logs = [
            lab.node_directory(node) / "state" / "scripts" / "60.nfs" / "notify.log" for node in lab.layout.node_names
        ]
        # Both names were acknowledged, or the round would go on until its end.
        lab.wait_for("the end of the round", lambda: any(log.exists() and log.read_text() for log in logs), 60)
        said = "".join(log.read_text() for log in logs if log.exists())
        assert "clients notified" in said
        assert "did not answer" not in said, said + output.read_text(errors="replace")


def test_client_over_ipv6_is_notified(scene: Scene) -> None:
    lab = scene.lab
    address, node = next((a, n) for a, n in sorted(lab.served().items()) if ":" in a)
    owner = scene.lock_client(address, "owner", CLIENT_V6)
    lab.wait_for("the lock", lambda: owner.lock() is Status.GRANTED)
    lab.wait_for("the client to be recorded", lambda: CLIENT_V6 in scene.registered().get(address, ()))
    with receiving(scene, CLIENT_V6) as received:
        scene.move(address, next(name for name in lab.layout.node_names if name != node))
        lab.wait_for("both names", lambda: len({one.name for one in received}) > 1, 60)
        assert {one.sender for one in received} == {address}
        lab.wait_for("the lock back", lambda: owner.lock(reclaim=True) is Status.GRANTED, 10)


@pytest.mark.parametrize("faults", [["cut"], ["cut", "kill-agent"], ["freeze"]], ids="-".join)
def test_node_that_was_isolated_gives_up_its_locks(scene: Scene, faults: list[str]) -> None:
    """Its server lived on with them while its addresses were taken elsewhere."""
    lab = scene.lab
    address, elsewhere = scene.apart()
    node = scene.holder(address)
    owner = scene.lock_client(address, "owner")
    assert owner.lock() is Status.GRANTED
    for fault in faults:
        lab.fault(node, fault)
    lab.wait_for("the address elsewhere", lambda: lab.served().get(address, node) != node, 60)
    lab.heal(node)
    lab.wait_served()
    # Nobody reclaims it. Were the lock still there, it would be refused for ever.
    rival = scene.lock_client(elsewhere, "rival", OTHER)
    lab.wait_for("the lock for another", lambda: rival.lock() is Status.GRANTED, 60)
