"""What the monitor of links and addresses knows when the kernel's list and its news cross."""

from __future__ import annotations

import socket
import struct
from typing import cast

from locum.machine import kernel_monitor
from locum.machine.kernel_monitor import AddressAdded, AddressRemoved, KernelEvent, KernelMonitor, Present, Resync
from locum.machine.netlink import route
from locum.machine.netlink.subscription import Subscription

INDEX, BITS = 7, 24


def message(kind: int, address: str) -> bytes:
    """RTM_NEWADDR or RTM_DELADDR as the kernel sends it."""
    packed = socket.inet_aton(address)
    attributes = b"".join(struct.pack("=HH", 8, name) + packed for name in (1, 2))
    payload = struct.pack("=BBBBI", socket.AF_INET, BITS, 0, 0, INDEX) + attributes
    return struct.pack("=IHHII", 16 + len(payload), kind, 0, 0, 0) + payload


class News:
    """The kernel's multicast messages; None: some were lost."""

    def __init__(self) -> None:
        self.waiting: list[bytes | None] = []

    def news(self) -> list[bytes | None]:
        waiting, self.waiting = self.waiting, []
        return waiting


class Scene:
    def __init__(self, *present: str) -> None:
        self.heard: list[KernelEvent] = []
        self.monitor = KernelMonitor(self.heard.append)
        self.kernel = News()
        self.monitor._news = cast(Subscription, self.kernel)
        self.monitor.expect()
        self.monitor.learn(self.list_of(*present))

    def list_of(self, *addresses: str) -> Present:
        found = route.parse_address(message(route.RTM_NEWADDR, "10.0.0.1")[16:])
        assert found is not None
        return Present([], [found._replace(address=a) for a in addresses])

    def news(self, *messages: bytes | None) -> None:
        self.kernel.waiting += messages
        self.monitor._readable()


def added(address: str) -> AddressAdded:
    return AddressAdded(address, BITS, f"#{INDEX}")


def removed(address: str) -> AddressRemoved:
    return AddressRemoved(address, BITS, f"#{INDEX}")


def test_what_changed_after_the_kernel_made_its_list_is_known() -> None:
    scene = Scene("10.0.0.1")
    scene.news(None)
    assert scene.heard == [Resync()]
    scene.monitor.expect()
    stale = scene.list_of("10.0.0.1")
    scene.news(message(route.RTM_DELADDR, "10.0.0.1"), message(route.RTM_NEWADDR, "10.0.0.2"))
    scene.monitor.learn(stale)
    assert scene.heard[1:] == [removed("10.0.0.1"), added("10.0.0.2")]
    scene.news(message(route.RTM_NEWADDR, "10.0.0.1"), message(route.RTM_DELADDR, "10.0.0.2"))
    assert scene.heard[3:] == [added("10.0.0.1"), removed("10.0.0.2")], "as it could not be after a stale list"


def test_what_the_list_has_already_is_no_news() -> None:
    scene = Scene()
    scene.monitor.expect()
    scene.news(message(route.RTM_NEWADDR, "10.0.0.1"))
    scene.monitor.learn(scene.list_of("10.0.0.1"))
    assert scene.heard == []


def test_news_counts_when_the_kernel_could_not_be_asked() -> None:
    scene = Scene("10.0.0.1")
    scene.monitor.expect()
    scene.news(message(route.RTM_DELADDR, "10.0.0.1"))
    assert scene.heard == []
    scene.monitor.learn(None)
    assert scene.heard == [removed("10.0.0.1")]


def test_news_that_cannot_all_be_kept_leads_to_another_list() -> None:
    scene = Scene("10.0.0.1")
    scene.monitor.expect()
    scene.news(*[message(route.RTM_DELADDR, "10.0.0.9")] * (kernel_monitor.MOST_KEPT + 1))
    assert scene.heard == [Resync()]
