"""Other machines on a real network: asked before the first take, heard while an address is held."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Iterator

import pytest

from locum.machine import wire_watch
from locum.machine.announcements import frames, question
from locum.machine.wire_watch import WireWatch
from tests.lab.namespaces import Namespace, Network, Tap, arp_request, solicitation

pytestmark = pytest.mark.lab

A4, B4, A6, B6 = "10.77.0.100", "10.77.0.101", "fd77::100", "fd77::101"


def in_a_loop(test: Callable[..., Coroutine[object, object, None]]) -> Callable[..., None]:
    """A test that runs in an event loop of its own."""

    @functools.wraps(test)
    def run(**arguments: object) -> None:
        asyncio.run(test(**arguments))

    return run


class Place:
    """A node that watches, and another machine on the same network."""

    def __init__(self) -> None:
        self.network = Network()
        self.node = self.network.host("node", "10.77.0.1/24", "fd77::1/64")
        self.other = self.network.host("other", "10.77.0.2/24", "fd77::2/64")
        self.tap = Tap(self.other)
        self.mac = self.other.mac("eth0").hex(":")
        self.changes = 0
        self.defended: list[tuple[str, str]] = []
        self.logged: list[str] = []

    def watch(self, *ignored: str, at: Namespace | None = None) -> WireWatch:
        """One that listens; call it where an event loop runs."""
        with (at or self.node).entered():
            made = WireWatch(self._changed, lambda text, _: self.logged.append(text))
            made.on_defence = lambda interface, address: self.defended.append((interface, address))
            made.configure([A4, B4, A6, B6], ignored)
            made.start(asyncio.get_running_loop())
        return made

    def _changed(self) -> None:
        self.changes += 1

    def takes(self, address: str) -> None:
        bits, flags = ("64", ("nodad",)) if ":" in address else ("24", ())
        self.other.run("ip", "addr", "add", f"{address}/{bits}", "dev", "eth0", *flags)

    def says(self, address: str) -> None:
        for frame in frames(address, self.tap.mac):
            self.tap.send(frame)


@pytest.fixture(name="place")
def place_fixture() -> Iterator[Place]:
    made = Place()
    yield made
    made.tap.close()
    made.network.delete()


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in the kernel
            await asyncio.sleep(0.01)


async def heard_everything(place: Place, watch: WireWatch) -> None:
    """Until all that was sent before has been heard: a message about an address that nothing was said of comes last."""
    watch.holds(B4, "eth0")
    place.says(B4)
    await until(lambda: any(B4 in line for line in watch.warnings()))
    watch.gone(B4)


@in_a_loop
async def test_a_machine_that_has_the_address_is_found_with_its_hardware_address(place: Place) -> None:
    place.takes(A4)
    place.takes(A6)
    watch = place.watch()
    found = await watch.probe([(a, "eth0") for a in (A4, B4, A6, B6)])
    assert found == dict.fromkeys((A4, A6), f"hardware address {place.mac} answers for it on eth0")
    assert place.logged == []
    watch.close()


@in_a_loop
async def test_i1_a_probe_claims_nothing(place: Place) -> None:
    """No neighbour learns anything from it, and no frame of it has one of the addresses as its sender."""
    watch = place.watch()
    place.tap.clear()
    await watch.probe([(A4, "eth0"), (A6, "eth0")])
    seen = [s.frame for s in place.tap.pending() if s.frame[6:12] == place.node.mac("eth0")]
    arp = [frame for frame in seen if frame[12:14] == b"\x08\x06"]
    nd = [frame for frame in seen if frame[12:14] == b"\x86\xdd" and frame[54] in (135, 136)]
    assert len(arp) == len(nd) == wire_watch.PROBES
    assert all(frame[28:32] == bytes(4) for frame in arp)
    assert all(frame[54] == 135 and frame[22:38] == bytes(16) for frame in nd)
    for address in (A4, A6):
        assert "lladdr" not in place.other.run("ip", "neigh", "show", address)
    watch.close()


@in_a_loop
async def test_many_addresses_take_no_longer_than_one(place: Place) -> None:
    """They are asked for side by side: each gets its questions within the time of one."""
    watch = place.watch()
    many = [(f"10.77.0.{n}", "eth0") for n in range(100, 164)]
    watch.configure([address for address, _ in many], ())
    loop = asyncio.get_running_loop()
    began = loop.time()
    probes = [watch.probe(many), watch.probe([(A4, "eth0")])]
    await asyncio.gather(*probes)
    # Less than two after one another would take at least.
    assert loop.time() - began < 2 * (wire_watch.PROBES * wire_watch.PROBE_INTERVAL + 0.06) + 1
    watch.close()


@in_a_loop
async def test_two_that_want_the_same_address_at_once_see_each_other(place: Place) -> None:
    """Two clusters that know nothing of each other start at the same instant."""
    first, second = place.watch(), place.watch(at=place.other)
    items = [(A4, "eth0"), (A6, "eth0")]
    await asyncio.gather(first.probe(items), second.probe(items))
    # One that was slow is heard by the other after its probe, and before it takes anything.
    for watch, mac in ((first, place.mac), (second, place.node.mac("eth0").hex(":"))):
        for address in (A4, A6):
            await until(lambda w=watch, a=address: w.occupant(a) is not None)  # type: ignore[misc]
            assert watch.occupant(address) == f"hardware address {mac} also wants it on eth0"
    first.close()
    second.close()


@in_a_loop
async def test_what_is_heard_between_the_probe_and_the_take_counts(place: Place) -> None:
    watch = place.watch()
    assert await watch.probe([(A4, "eth0")]) == {}
    place.tap.send(question(A4, place.tap.mac))
    await until(lambda: watch.occupant(A4) is not None)
    watch.gone(A4)
    assert watch.occupant(A4) is None
    watch.close()


@in_a_loop
async def test_a_proxy_that_answers_for_everything_can_be_ignored(place: Place) -> None:
    place.takes(A4)
    watch = place.watch(place.mac.upper())
    assert await watch.probe([(A4, "eth0")]) == {}
    watch.holds(A4, "eth0")
    place.says(A4)
    watch.configure([A4, B4], ())
    assert watch.warnings() == ()
    await heard_everything(place, watch)
    watch.close()


@pytest.mark.parametrize("address", [A4, A6])
@in_a_loop
async def test_a_foreign_claim_of_a_held_address_is_told_and_defended_once(place: Place, address: str) -> None:
    watch = place.watch()
    watch.holds(address, "eth0")
    for _ in range(5):
        place.says(address)
    await heard_everything(place, watch)
    [line] = watch.warnings()
    assert address in line
    assert place.mac in line
    assert [a for _, a in place.defended if a == address] == [address], "RFC 5227, section 2.4: once in ten seconds"
    assert len([text for text in place.logged if address in text]) == 1
    watch.gone(address)
    assert watch.warnings() == ()
    watch.close()


@in_a_loop
async def test_defences_go_on_every_ten_seconds(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(wire_watch, "boottime", lambda: now[0])
    watch = place.watch()
    watch.holds(A4, "eth0")
    for seconds, expected in ((0.0, 1), (9.9, 1), (0.2, 2), (5.0, 2), (300.0, 3)):
        now[0] += seconds
        place.says(A4)
        await heard_everything(place, watch)
        assert len([a for _, a in place.defended if a == A4]) == expected
    watch.close()


@in_a_loop
async def test_ordinary_questions_probes_and_what_this_machine_says_itself_are_no_conflict(place: Place) -> None:
    """Also its own frames that come back, and those of its macvlans and bonds."""
    place.node.run("ip", "link", "add", "inner", "link", "eth0", "type", "macvlan", "mode", "bridge")
    own = [place.node.mac(name) for name in ("eth0", "inner")]
    watch = place.watch()
    watch.holds(A4, "eth0")
    watch.holds(A6, "eth0")
    place.tap.send(arp_request(place.tap.mac, "10.77.0.2", A4))
    place.tap.send(solicitation(place.tap.mac, "fd77::2", A6))
    for address in (A4, A6):
        place.tap.send(question(address, place.tap.mac))
        for mac in own:
            for frame in frames(address, mac):
                place.tap.send(frame)
    await heard_everything(place, watch)
    assert watch.warnings() == ()
    assert {a for _, a in place.defended} <= {B4}
    watch.close()


@in_a_loop
async def test_what_another_node_said_before_the_take_is_no_conflict(place: Place) -> None:
    """The old holder announced it a moment ago, and this process has not read that yet."""
    watch = place.watch()
    place.says(A4)
    watch.holds(A4, "eth0")
    await heard_everything(place, watch)
    assert watch.warnings() == ()
    watch.close()


@in_a_loop
async def test_another_network_with_the_same_addresses_is_none_of_our_business(place: Place) -> None:
    place.network.plug(place.node, "eth1")
    watch = place.watch()
    watch.holds(A4, "eth1")
    place.node.run("ip", "link", "set", "eth1", "down")
    place.says(A4)
    await heard_everything(place, watch)
    assert watch.warnings() == ()
    watch.close()


@in_a_loop
async def test_a_flood_is_read_in_portions(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_watch, "PAUSE", 0.05)
    watch = place.watch()
    watch.holds(A4, "eth0")
    for _ in range(20):
        for _ in range(20):
            place.says(A4)
        await asyncio.sleep(0)
    await heard_everything(place, watch)
    assert len(watch.warnings()) == 1
    watch.close()


@in_a_loop
async def test_an_interface_that_is_not_there_answers_nothing(place: Place) -> None:
    watch = place.watch()
    assert await watch.probe([(A4, "eth7"), (A6, "eth7")]) == {}
    watch.close()
