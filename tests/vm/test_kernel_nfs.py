"""A Linux client of two nodes whose kernels serve NFS, through all that moves an address or ends a server.

The client has locks of three files during the whole module, and writes to them: ``a`` by NFSv3 and an address, ``b`` by
NFSv3 and a name, ``c`` by NFSv4.2. See :mod:`tests.vm.nfs_guests`. The tests build on each other, in this order.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from locum_lab.nlm import Status
from locum_lab.vm import faults
from locum_lab.vm.machine import Machine
from tests.vm.conftest import MakeVmLab
from tests.vm.nfs_clusters import RESTART_PAUSE, SETTINGS, Locum
from tests.vm.nfs_guests import CLIENT, NAME, PAUSE, STATD_PORT, Client, end_grace, missing, rival, share, states
from tests.vm.nfs_wire import Notified, Rival, Wire, described

#: Rules that keep notifications over UDP from the client's rpc.statd; its lock manager reaches it.
_NO_UDP = f"""table ip no_udp {{
  chain input {{
    type filter hook input priority 0
    iif != lo udp dport {STATD_PORT} drop
  }}
}}
"""


class Scene:
    """The cluster and the client's three locks. ``first`` and ``second``: its IPv4 addresses; ``logs``: file → what its
    writer says."""

    def __init__(self, cluster: Locum) -> None:
        self.cluster, self.lab = cluster, cluster.lab
        self.first, self.second = [one.address for one in self.lab.layout.public_addresses if ":" not in one.address]
        self.client = Client(self.lab, self.second)
        self.client.mount(self.first, "/mnt/1")
        # So that rpc.statd of the client has the server's name, where the client knows one.
        self.client.run("sysctl -q fs.nfs.nsm_use_hostnames=1")
        self.client.mount(NAME, "/mnt/2")
        self.client.mount(self.first, "/mnt/4", version="4.2")
        # In the grace period of their start, the servers would refuse new locks.
        for node in self.lab.layout.node_names:
            end_grace(self.lab.machine(node))
        self.logs = {file: self.client.hold(f"/mnt/{place}/{file}") for file, place in (("a", 1), ("b", 2), ("c", 4))}
        self.client.keep_open("/mnt/4/d")

    def rival(self, node: str, file: str = "a") -> Rival:
        """See :func:`tests.vm.nfs_guests.rival`."""
        return rival(self.lab, node, file)

    def wait_moved(self, address: str, node: str) -> None:
        """Wait until ``node`` serves the address."""
        self.lab.wait_for(f"{address} on {node}", lambda: self.cluster.served().get(address) == node, pause=PAUSE)

    def wait_answer(self, asking: Rival, *wanted: Status) -> None:
        """Wait until a rival has one of these answers."""
        names = [one.name for one in wanted]
        self.lab.wait_for(f"an answer of {names}", lambda: asking.latest() in wanted)

    def end_grace(self) -> None:
        """End the grace period on all nodes, once the client has its NFSv4 state again: tests wait for it only where
        they demand something of its end."""
        node = self.lab.machine(self.cluster.holder(self.first))
        self.lab.wait_for("the lock of c", lambda: "type: lock" in states(node), pause=PAUSE)
        for name in self.lab.layout.node_names:
            if not self.lab.noted_faults(name):
                end_grace(self.lab.machine(name))

    def check_locks(self, *files: str) -> None:
        """Each lock must be at the node that serves its address, and no write may have failed."""
        for file in files:
            server = self.second if file == "b" else self.first
            with self.rival(self.cluster.holder(server), file) as asking:
                self.wait_answer(asking, Status.DENIED, Status.GRANTED)
                assert asking.latest() is Status.DENIED, file
            self.wait_written(file)
            assert not self.client.failed(self.logs[file]), file
        assert self.client.complaints() == ""

    def wait_written(self, *files: str) -> None:
        """Wait until the client has written and synced once more."""
        for file in files:
            before = self.client.synced(self.logs[file])
            self.lab.wait_for(
                f"{file}: another write",
                lambda f=file, n=before: self.client.synced(self.logs[f]) > n,  # type: ignore[misc]
                pause=PAUSE,
            )

    def report(self, title: str, begun: float, wire: Wire, *rivals: Rival) -> None:
        """Print what was seen, for a failed test and for docs/nfs.md."""
        print(f"{title}; seconds since it began:\n{described(begun, wire, *rivals)}")
        for file, log in self.logs.items():
            said = self.client.failed(log) or "none failed"
            print(f"  {file}: writes blocked for {self.client.blocked(log)} s; {said}")


@pytest.fixture(scope="module")
def served(make_vm_lab: MakeVmLab, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    lab = make_vm_lab(nodes=2, clients=1, addresses=4, hold=20.0, settings=SETTINGS, locum=False)
    cluster = Locum(lab)
    cluster.install(share(tmp_path_factory.mktemp("nfs")))
    cluster.start()
    return Scene(cluster)


@pytest.fixture
def scene(served: Scene) -> Iterator[Scene]:
    """The scene with every address served, before the test and after it."""
    served.cluster.wait_settled()
    yield served
    served.cluster.heal()
    served.cluster.wait_settled()


def _both_names(told: list[Notified], source: str, *, tcp: bool) -> bool:
    """Whether both names were told from that address itself, over this transport, with a valid state."""
    found = [one for one in told if one.source == source and one.tcp == tcp]
    return {one.name for one in found} == {source, NAME} and all(one.state % 2 for one in found)


def _pause(machine: Machine) -> float:
    """Seconds between the end of the last stop of the NFS server and the begin of its start."""
    names = ("InactiveEnterTimestampMonotonic", "InactiveExitTimestampMonotonic")
    stopped, started = (int(machine.sh(f"systemctl show --value -p {name} nfs-server")) for name in names)
    return (started - stopped) / 1_000_000


def test_a_planned_move(scene: Scene) -> None:
    """The order of restart, notification and reclaim by packets. No rival gets the lock meanwhile, through any node."""
    old = scene.cluster.holder(scene.first)
    new = scene.cluster.other(old)
    scene.lab.wait_for("the client on record", lambda: scene.cluster.recorded(old).count(CLIENT) >= 2, pause=PAUSE)
    scene.lab.wait_for("a delegation", lambda: "type: deleg" in states(scene.lab.machine(old)), pause=PAUSE)
    with scene.client.wire() as wire, scene.rival(old) as at_old, scene.rival(new) as at_new:
        scene.wait_answer(at_old, Status.DENIED)
        begun = time.monotonic()
        scene.cluster.move(scene.first, new)
        scene.wait_moved(scene.first, new)
        scene.lab.wait_for("both reclaims", lambda: wire.granted(scene.first) and wire.granted(scene.second))
        scene.wait_written("a", "b", "c")
        # Nothing but new locks waits for the end of the grace period.
        assert at_new.latest() is Status.DENIED_GRACE_PERIOD
        scene.end_grace()
        # The nodes do not share their locks here: at the end of its grace period the old holder grants.
        scene.wait_answer(at_old, Status.GRANTED)
        scene.wait_answer(at_new, Status.DENIED)
        scene.report("a planned move", begun, wire, at_old, at_new)
    first = min(one.at for one in wire.notified)
    granted = wire.granted(scene.first)
    assert granted is not None
    for asking in (at_old, at_new):
        ((went, came),) = asking.restarts()
        # Back, and in its grace period, before any client is notified.
        assert came - went >= RESTART_PAUSE
        assert came < first
        assert Status.GRANTED not in asking.within(came, granted)
    # What a rival sees includes the time that stop and start take. systemd knows the pause between them.
    for node in scene.lab.layout.node_names:
        assert _pause(scene.lab.machine(node)) >= RESTART_PAUSE
    # The clients of both addresses: both lock managers have dropped their locks.
    for source in (scene.first, scene.second):
        assert _both_names(wire.notified, source, tcp=False)
    scene.check_locks("a", "b")


def test_a_planned_move_of_nfs_v4(scene: Scene) -> None:
    """After the move before: opens, locks and delegations were reclaimed, from a server that never had them."""
    scene.check_locks("c")
    found = states(scene.lab.machine(scene.cluster.holder(scene.first)))
    print(found)
    assert all(f"type: {kind}" in found for kind in ("open", "lock", "deleg"))


def test_what_was_synced_is_there(scene: Scene) -> None:
    assert not any(missing(scene.lab, scene.client, file, log) for file, log in scene.logs.items())


@pytest.fixture
def no_udp(scene: Scene) -> Iterator[Scene]:
    """Notifications over UDP do not reach the client's rpc.statd."""
    scene.client.run(f"nft '{_NO_UDP}'")
    yield scene
    scene.client.run("nft delete table ip no_udp")


def test_two_moves_in_a_row_over_tcp(no_udp: Scene) -> None:
    """The second move begins when the client has its lock back."""
    scene = no_udp
    there = scene.cluster.holder(scene.first)
    back = scene.cluster.other(there)
    granted: dict[str, float] = {}
    with scene.client.wire() as wire, scene.rival(back) as at_back, scene.rival(there) as at_there:
        scene.wait_answer(at_there, Status.DENIED)
        begun = time.monotonic()
        for node in (back, there):
            told = len(wire.notified)
            scene.cluster.move(scene.first, node)
            scene.wait_moved(scene.first, node)
            scene.lab.wait_for(
                "notifications over TCP",
                lambda told=told: _both_names(wire.notified[told:], scene.first, tcp=True),  # type: ignore[misc]
            )
            since = wire.notified[told].at
            granted[node] = scene.lab.wait_for(
                "the reclaim",
                lambda since=since: wire.granted(scene.first, since=since) or 0.0,  # type: ignore[misc]
            )
        scene.end_grace()
        scene.wait_answer(at_there, Status.DENIED)
        scene.report("two moves in a row", begun, wire, at_back, at_there)
    for number, (node, asking) in enumerate(((back, at_back), (there, at_there))):
        (_, came) = asking.restarts()[number]
        assert came < granted[node]
        assert Status.GRANTED not in asking.within(came, granted[node])
    scene.check_locks("a", "b", "c")


def test_a_restart_of_the_service_by_an_administrator(scene: Scene) -> None:
    """rpc.statd notifies no client then; monitor notices it. The node stays healthy: no address moves."""
    node, before = scene.cluster.holder(scene.second), scene.lab.status()
    with scene.client.wire() as wire, scene.rival(node, "b") as asking:
        scene.wait_answer(asking, Status.DENIED)
        begun = time.monotonic()
        scene.lab.machine(node).sh("systemctl restart nfs-server")
        granted = scene.lab.wait_for("the reclaim", lambda: wire.granted(scene.second) or 0.0)
        scene.end_grace()
        scene.report("a restart by an administrator", begun, wire, asking)
    assert _both_names(wire.notified, scene.second, tcp=False)
    assert Status.GRANTED not in asking.within(begun, granted)
    # No plan was made, so no address has moved.
    assert scene.lab.status().epoch == before.epoch
    scene.check_locks("a", "b", "c")
    assert not any(missing(scene.lab, scene.client, file, log) for file, log in scene.logs.items())


def test_a_node_that_is_cut_off(scene: Scene) -> None:
    _lost(scene, "cut", scene.cluster.holder(scene.first))
    scene.check_locks("a", "b", "c")
    _returned(scene)
    scene.check_locks("a", "b", "c")


def test_a_loss_of_power(scene: Scene) -> None:
    _lost(scene, "power-cut", scene.cluster.holder(scene.first))
    scene.check_locks("a", "b", "c")
    _returned(scene)
    scene.check_locks("a", "b", "c")
    assert not any(missing(scene.lab, scene.client, file, log) for file, log in scene.logs.items())


def _lost(scene: Scene, fault: str, old: str) -> None:
    new = scene.cluster.other(old)
    with scene.client.wire() as wire, scene.rival(new) as asking:
        scene.wait_answer(asking, Status.GRANTED)
        begun = time.monotonic()
        faults.apply(scene.lab, old, fault)
        scene.lab.wait_for("the reclaim", lambda: wire.granted(scene.first))
        scene.end_grace()
        scene.wait_answer(asking, Status.DENIED)
        scene.report(fault, begun, wire, asking)
    (_, came) = asking.restarts()[0]
    # 61.nfstickle: a client that waits for the lost node's answer connects again at once.
    assert [at for at, source in wire.tickled if source == scene.first and at > begun]
    first = min(one.at for one in wire.notified_by(scene.first))
    granted = wire.granted(scene.first)
    assert granted is not None
    assert came < first < granted
    assert Status.GRANTED not in asking.within(came, float("inf"))


def _returned(scene: Scene) -> None:
    """The node is back, and so is its address, which an administrator had moved there."""
    with scene.client.wire() as wire:
        begun = time.monotonic()
        scene.cluster.heal()
        scene.cluster.wait_settled()

        def reclaimed(address: str) -> bool:
            told = wire.notified_by(address)
            return bool(told) and wire.granted(address, since=told[0].at) is not None

        scene.lab.wait_for("both reclaims", lambda: reclaimed(scene.first) and reclaimed(scene.second))
        scene.end_grace()
        scene.report("the node is back", begun, wire)
