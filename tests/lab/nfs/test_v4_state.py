"""What NFSv4 clients had open and locked at the former holder of an address, they have again at the new one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import pytest

from locum import rpc
from locum_lab import nfs4, nfs_service, nlm
from locum_lab.layout import CLIENT_V6
from locum_lab.nfs4 import Nfs4Error, Status
from tests.lab.conftest import MakeLab
from tests.lab.nfs.scene import CLIENT, FILE, LOCUM, OTHER, Rival, Scene, quiet_scene

pytestmark = [pytest.mark.lab, pytest.mark.long]

T = TypeVar("T")
PATH = f"{nfs_service.PSEUDO}/{FILE}"


@pytest.fixture
def scene(make_lab: MakeLab) -> Scene:
    return quiet_scene(make_lab)


class Owner:
    """A client that opens and locks the scene's file; each call is made in the client's namespace. ``begins``: it has
    nothing to reclaim, and says so."""

    def __init__(
        self,
        scene: Scene,
        address: str,
        minor: int,
        name: str = "owner",
        source: str = CLIENT,
        *,
        begins: bool = True,
        verifier: bytes = b"",
    ) -> None:
        self.scene = scene
        name = f"{name} {minor}"
        self.client = nfs4.Client(address, name, minor=minor, source=source, timeout=2.0, verifier=verifier)
        self.do(self.client.establish)
        if begins:
            self.do(self.client.reclaim_complete)

    def do(self, function: Callable[[], T]) -> T:
        """Call it there."""
        return self.scene.inside(function)

    def lock(self, offset: int = 0) -> nfs4.OpenFile:
        """Open and lock the scene's file."""
        file = self.do(lambda: self.client.open(PATH))
        self.do(lambda: self.client.lock(file, offset=offset, length=100))
        return file

    def said(self, function: Callable[[], object]) -> int | None:
        """What the server says to it: OK or an error; None when it cannot be asked."""
        try:
            self.do(function)
        except Nfs4Error as error:
            return error.status
        except rpc.RpcError:
            return None
        return Status.OK

    def wait_forgotten(self) -> int:
        """Renew the lease, as clients do, until a server says that it does not know this client. Returns how."""
        forgotten: list[int] = []

        def asked() -> bool:
            status = self.said(self.client.renew)
            if status in (Status.STALE_CLIENTID, Status.BADSESSION):
                forgotten.append(status)
            else:
                assert status in (Status.OK, None), status
            return bool(forgotten)

        self.scene.lab.wait_for("a server that does not know the client", asked, 60)
        return forgotten[0]

    def reclaim(self, file: nfs4.OpenFile, offset: int = 0) -> None:
        """What a client does in the grace period of a server that has lost its state."""
        self.do(self.client.establish)
        self.do(lambda: self.client.reclaim(file))
        self.do(lambda: self.client.lock(file, reclaim=True, offset=offset, length=100))
        self.do(self.client.reclaim_complete)


def reclaimed_over(
    scene: Scene, minor: int, address: str, change: Callable[[], object], *, dead: bool, source: str = CLIENT
) -> None:
    """A client has a file locked; ``change`` moves its address; it reclaims. A rival (NFSv3) asks for the lock through
    another node all the time: once the host is dead, when ``dead``, because its death gives the lock up."""
    _, elsewhere = scene.apart()
    owner = Owner(scene, address, minor, source=source)
    file = owner.lock()
    rival = Rival(scene.lock_client(elsewhere, "rival", OTHER))
    assert rival.locks.lock() is nlm.Status.DENIED
    if not dead:
        rival.start()
    change()
    begun = time.monotonic()
    if dead:
        rival.start()
    try:
        said = owner.wait_forgotten()
        assert said == (Status.STALE_CLIENTID if minor == 0 else Status.BADSESSION)
        owner.reclaim(file)
        print(f"NFSv4.{minor}: reclaimed {time.monotonic() - begun:.2f} s after the change")
        assert owner.do(lambda: owner.client.read(file)) == b"hello\n"

        def refused_after_grace() -> bool:
            owner.do(owner.client.renew)  # or its lease would be over
            return rival.said(nlm.Status.DENIED_GRACE_PERIOD) and rival.answers[-1][1] is nlm.Status.DENIED

        scene.lab.wait_for("the rival's refusal after grace", refused_after_grace, 60)
    finally:
        rival.end()
    assert not rival.said(nlm.Status.GRANTED), rival.answers
    # The owner gives it back; then the rival has its turn.
    owner.do(lambda: owner.client.unlock(file, length=100))
    assert rival.locks.lock() is nlm.Status.GRANTED


@pytest.mark.parametrize("minor", [0, 1, 2])
def test_state_is_reclaimed_after_a_planned_move(scene: Scene, minor: int) -> None:
    address, elsewhere = scene.apart()
    target = scene.elsewhere(address, elsewhere)
    reclaimed_over(scene, minor, address, lambda: scene.move(address, target), dead=False)


@pytest.mark.parametrize("minor", [0, 1])
def test_state_is_reclaimed_after_the_death_of_the_holder(scene: Scene, minor: int) -> None:
    address, _ = scene.apart()
    node = scene.holder(address)

    def die() -> None:
        scene.die(node)
        scene.lab.wait_for("the address elsewhere", lambda: scene.lab.served().get(address, node) != node, 60)

    reclaimed_over(scene, minor, address, die, dead=True)


def test_state_is_reclaimed_after_a_clean_stop_of_the_holder(scene: Scene) -> None:
    address, _ = scene.apart()
    node = scene.holder(address)
    reclaimed_over(scene, 1, address, lambda: scene.lab.stop_daemon(node), dead=False)


def test_clients_of_other_addresses_keep_what_they_have(scene: Scene) -> None:
    """One that leaves is called as Linux calls itself for NFSv4.0; its name is in no directory's name as it is."""
    address, elsewhere = scene.apart()
    node = scene.holder(address)
    for one in (elsewhere, address):
        scene.move(one, node)
    assert scene.holder(elsewhere) == scene.holder(address) == node
    scene.wait_grace_over(address)
    stays = Owner(scene, elsewhere, 0, f"Linux NFSv4.0 other/{elsewhere}", OTHER)
    locked = stays.lock()
    # Not the server's address, by which the server itself would find it.
    owner = Owner(scene, address, 0, f"Linux NFSv4.0 {CLIENT}/name")
    file = owner.lock(200)
    scene.move(address, scene.elsewhere(address))
    owner.wait_forgotten()
    owner.reclaim(file, 200)
    assert stays.said(stays.client.renew) == Status.OK
    assert stays.do(lambda: stays.client.read(locked)) == b"hello\n"


def test_state_is_reclaimed_over_ipv6(scene: Scene) -> None:
    """Its address is written in one way in the server's records and in another on the list of connections."""
    address, node = next((a, n) for a, n in sorted(scene.lab.served().items()) if ":" in a)
    _, elsewhere = scene.apart()
    target = next(name for name in scene.lab.layout.node_names if name not in (node, scene.holder(elsewhere)))
    reclaimed_over(scene, 1, address, lambda: scene.move(address, target), dead=False, source=CLIENT_V6)


@pytest.mark.parametrize("minor", [0, 1])
def test_only_who_was_there_may_reclaim(scene: Scene, minor: int) -> None:
    """In the grace period no file is opened anew, and nobody reclaims what the former holder had not given."""
    address, elsewhere = scene.apart()
    stays = Owner(scene, elsewhere, minor, "stays", OTHER)
    locked = stays.lock()
    owner = Owner(scene, address, minor)
    file = owner.lock(200)
    scene.move(address, scene.elsewhere(address, elsewhere))
    owner.wait_forgotten()
    stranger = Owner(scene, address, minor, "stranger", begins=False)
    # Its file is one that the owner has told it of: the handle is right, the claim is not.
    claimed = nfs4.OpenFile(file.handle, b"stranger")
    assert stranger.said(lambda: stranger.client.reclaim(claimed)) == Status.NO_GRACE
    stranger.do(stranger.client.reclaim_complete)
    assert stranger.said(lambda: stranger.client.open(PATH)) == Status.GRACE
    # Clients of addresses that stay keep what they have, also at the nodes that gave or took.
    assert stays.said(stays.client.renew) == Status.OK
    assert stays.said(lambda: stays.client.read(locked)) == Status.OK
    owner.reclaim(file, 200)


def test_address_that_comes_back_at_once(scene: Scene) -> None:
    """The old state must not be there any more, or be in the way."""
    address, elsewhere = scene.apart()
    node = scene.holder(address)
    owner = Owner(scene, address, 1)
    file = owner.lock()
    for target in (scene.elsewhere(address, elsewhere), node):
        scene.move(address, target)
        owner.wait_forgotten()
        owner.reclaim(file)
    assert owner.do(lambda: owner.client.read(file)) == b"hello\n"


def test_holder_that_dies_before_its_new_clients_have_reclaimed(scene: Scene) -> None:
    """They are on record with the first one, and with the second as those that it was given."""
    address, elsewhere = scene.apart()
    first, second, third = scene.holder(address), scene.elsewhere(address, elsewhere), scene.holder(elsewhere)
    owner = Owner(scene, address, 1)
    file = owner.lock()
    scene.move(address, second)
    # The first one knows them still. The third one has never heard of them.
    assert scene.lab.run(first, [*LOCUM, "node", "disable", first]).returncode == 0
    scene.lab.wait_for("rest", lambda: scene.lab.status(third).progress == "settled")
    assert scene.holder(address) == second
    scene.die(second)
    scene.lab.wait_for("the address elsewhere", lambda: scene.lab.served().get(address, second) != second, 60)
    assert scene.holder(address) == third
    owner.wait_forgotten()
    owner.reclaim(file)


def test_client_with_two_addresses_loses_nothing(scene: Scene) -> None:
    """A server knows it once, and gives up all that it has when one of its addresses leaves; it reclaims there, too."""
    lab = scene.lab
    address, elsewhere = scene.apart()
    node = scene.holder(address)
    for one in (elsewhere, address):
        scene.move(one, node)
    assert scene.holder(elsewhere) == scene.holder(address) == node
    scene.wait_grace_over(address)
    owner = Owner(scene, elsewhere, 0)
    file = owner.lock()
    same = Owner(scene, address, 0, source=CLIENT, verifier=owner.client.verifier)
    lab.wait_for("its connection on the list", lambda: CLIENT in scene.connected(address))
    scene.move(address, scene.elsewhere(address))
    assert owner.said(owner.client.renew) == Status.STALE_CLIENTID
    owner.reclaim(file)
    assert same.wait_forgotten() == Status.STALE_CLIENTID
    same.do(same.client.establish)
    assert owner.do(lambda: owner.client.read(file)) == b"hello\n"
