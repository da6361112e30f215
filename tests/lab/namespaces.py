"""Network namespaces, wires between them, and raw probes, for tests that need nothing else of a lab.

What a test asserts comes from ``ip -j``, ``nft -j`` and packets on the wire, never from the code under test.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import select
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_numbers = itertools.count(1)

Answer = TypeVar("Answer")


def wait_for(condition: Callable[[], Answer], what: str, seconds: float = 20.0) -> Answer:
    """The first true value of ``condition``; fails after a generous limit."""
    limit = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < limit, f"waited {seconds} s for: {what}"
        time.sleep(0.005)


class Namespace:
    """A network namespace of this test run."""

    def __init__(self, label: str) -> None:
        self.name = f"locum-test-{os.getpid()}-{next(_numbers)}{label}"
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        self._file = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
        self.run("ip", "link", "set", "lo", "up")

    def delete(self) -> None:
        os.close(self._file)
        subprocess.run(["ip", "netns", "del", self.name], check=False)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Be inside. Sockets and processes made meanwhile stay there."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _libc.setns(self._file, _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            yield
        finally:
            assert _libc.setns(home, _CLONE_NEWNET) == 0
            os.close(home)

    def run(self, *command: str, stdin: str | None = None, check: bool = True) -> str:
        """Run a program inside; its standard output."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, *command], input=stdin, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 or not check, f"{command}: {done.stderr or done.stdout}"
        return done.stdout

    def addresses(self, interface: str | None = None) -> dict[str, dict[str, Any]]:
        """The global addresses as ``ip -j`` tells them, by address; ``ifname`` is added to each."""
        found = {}
        for link in json.loads(self.run("ip", "-j", "addr", "show", *(("dev", interface) if interface else ()))):
            for entry in link.get("addr_info", ()):
                if entry["scope"] == "global":
                    found[entry["local"]] = {**entry, "ifname": link["ifname"]}
        return found

    def sysctl(self, key: str, value: str) -> None:
        self.run("sysctl", "-qw", f"{key}={value}")

    def mac(self, interface: str) -> bytes:
        return bytes.fromhex(json.loads(self.run("ip", "-j", "link", "show", interface))[0]["address"].replace(":", ""))


class Network:
    """Namespaces on one bridge, each with an interface ``eth0`` (or another name) on it."""

    def __init__(self) -> None:
        self._namespaces: list[Namespace] = []
        self.switch = self.namespace("switch")
        self.switch.run("ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        self.switch.run("ip", "link", "set", "br0", "up")

    def namespace(self, label: str) -> Namespace:
        made = Namespace(label)
        self._namespaces.append(made)
        made.sysctl("net.ipv6.conf.all.accept_dad", "0")
        made.sysctl("net.ipv6.conf.default.accept_dad", "0")
        return made

    def host(self, label: str, *addresses: str, interface: str = "eth0") -> Namespace:
        made = self.namespace(label)
        self.plug(made, interface, *addresses)
        return made

    def plug(self, host: Namespace, interface: str, *addresses: str) -> None:
        """Give ``host`` an interface on the bridge."""
        port = f"p{next(_numbers)}"
        self.switch.run("ip", "link", "add", port, "type", "veth", "peer", "name", interface, "netns", host.name)
        self.switch.run("ip", "link", "set", port, "master", "br0", "up")
        host.run("ip", "link", "set", interface, "up")
        for address in addresses:
            host.run("ip", "addr", "add", address, "dev", interface, *(("nodad",) if ":" in address else ()))
        self._usable(host, interface)

    def _usable(self, host: Namespace, interface: str) -> None:
        def ready() -> bool:
            link = json.loads(host.run("ip", "-j", "addr", "show", "dev", interface))[0]
            return link["operstate"] == "UP" and not any(a.get("tentative") for a in link["addr_info"])

        wait_for(ready, f"{interface} of {host.name} to be usable")

    def delete(self) -> None:
        for namespace in self._namespaces:
            namespace.delete()


@dataclass(frozen=True)
class Seen:
    """A frame on the wire: when the kernel had it (wall clock, nanoseconds), whether it was sent from here, and it."""

    when: int
    outgoing: bool
    frame: bytes


class Tap:
    """A packet socket on an interface, that sends frames and sees all frames with the kernel's own time stamps."""

    def __init__(self, namespace: Namespace, interface: str = "eth0") -> None:
        self.mac = namespace.mac(interface)
        with namespace.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        self._socket.setsockopt(socket.SOL_SOCKET, 35, 1)  # SO_TIMESTAMPNS
        self._socket.bind((interface, 3))
        self.clear()

    def close(self) -> None:
        self._socket.close()

    def send(self, frame: bytes) -> None:
        self._socket.send(frame)

    def clear(self) -> None:
        while select.select([self._socket], [], [], 0)[0]:
            self._socket.recv(65536)

    def receive(self, seconds: float) -> Seen | None:
        """The next frame, if one comes in time."""
        if not select.select([self._socket], [], [], seconds)[0]:
            return None
        data, ancillary, _flags, sender = self._socket.recvmsg(65536, 256)
        when = 0
        for _level, _kind, value in ancillary:
            whole, part = struct.unpack("@ll", value[:16])
            when = whole * 1_000_000_000 + part
        return Seen(when, sender[2] == socket.PACKET_OUTGOING, data)

    def pending(self) -> list[Seen]:
        """All frames that wait."""
        found = []
        while (seen := self.receive(0)) is not None:
            found.append(seen)
        return found

    def collect(self, matches: Callable[[bytes], bool], seconds: float) -> Seen | None:
        """The first frame not sent from here that matches."""
        limit = time.monotonic() + seconds
        while (left := limit - time.monotonic()) > 0:
            seen = self.receive(left)
            if seen is not None and not seen.outgoing and matches(seen.frame):
                return seen
        return None


# -- frames: built and recognised here, independently of locum.machine.announcements ----------------------------------


def _v4(address: str) -> bytes:
    return socket.inet_aton(address)


def _v6(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6, address)


def checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def arp_request(mac: bytes, source: str, target: str) -> bytes:
    return (
        b"\xff" * 6 + mac + b"\x08\x06" + struct.pack("!HHBBH", 1, 0x800, 6, 4, 1)
        + mac + _v4(source) + bytes(6) + _v4(target)
    )  # fmt: skip


def is_arp_from(address: str) -> Callable[[bytes], bool]:
    """ARP, request or reply, in which the sender says that it has ``address``."""
    return lambda frame: frame[12:14] == b"\x08\x06" and frame[28:32] == _v4(address)


def ipv4(mac: bytes, to: bytes, source: str, target: str, protocol: int, body: bytes) -> bytes:
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 7, 0, 64, protocol, 0, _v4(source), _v4(target))
    header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
    return to + mac + b"\x08\x00" + header + body


def ipv6(mac: bytes, to: bytes, source: str, target: str, protocol: int, body: bytes, hops: int = 255) -> bytes:
    return (
        to
        + mac
        + b"\x86\xdd"
        + struct.pack("!IHBB", 6 << 28, len(body), protocol, hops)
        + _v6(source)
        + _v6(target)
        + body
    )


def _sum6(source: str, target: str, protocol: int, body: bytes) -> int:
    return checksum(_v6(source) + _v6(target) + struct.pack("!II", len(body), protocol) + body)


def icmp6(source: str, target: str, kind: int, rest: bytes) -> bytes:
    body = struct.pack("!BBH", kind, 0, 0) + rest
    return body[:2] + struct.pack("!H", _sum6(source, target, 58, body)) + body[4:]


def echo4(mac: bytes, to: bytes, source: str, target: str) -> bytes:
    body = struct.pack("!BBHHH", 8, 0, 0, 77, 1) + b"locum"
    return ipv4(mac, to, source, target, 1, body[:2] + struct.pack("!H", checksum(body)) + body[4:])


def echo6(mac: bytes, to: bytes, source: str, target: str) -> bytes:
    return ipv6(mac, to, source, target, 58, icmp6(source, target, 128, struct.pack("!HH", 77, 1) + b"locum"))


def syn4(mac: bytes, to: bytes, source: str, target: str, port: int) -> bytes:
    body = struct.pack("!HHIIBBHHH", 40000, port, 1, 0, 5 << 4, 2, 1000, 0, 0)
    total = checksum(_v4(source) + _v4(target) + struct.pack("!HH", 6, len(body)) + body)
    return ipv4(mac, to, source, target, 6, body[:16] + struct.pack("!H", total) + body[18:])


def syn6(mac: bytes, to: bytes, source: str, target: str, port: int) -> bytes:
    body = struct.pack("!HHIIBBHHH", 40000, port, 1, 0, 5 << 4, 2, 1000, 0, 0)
    return ipv6(mac, to, source, target, 6, body[:16] + struct.pack("!H", _sum6(source, target, 6, body)) + body[18:])


def solicitation(mac: bytes, source: str, target: str) -> bytes:
    low = _v6(target)[13:]
    group = socket.inet_ntop(socket.AF_INET6, _v6("ff02::1:ff00:0")[:13] + low)
    body = icmp6(source, group, 135, bytes(4) + _v6(target) + b"\x01\x01" + mac)
    return ipv6(mac, b"\x33\x33\xff" + low, source, group, 58, body)


def is_advertisement_of(target: str) -> Callable[[bytes], bool]:
    """A neighbour advertisement, from whatever source, about ``target``."""
    return lambda frame: (
        frame[12:14] == b"\x86\xdd" and frame[20] == 58 and frame[54] == 136 and frame[62:78] == _v6(target)
    )


def is_ip_from(address: str, protocol: int | None = None) -> Callable[[bytes], bool]:
    """An IP packet whose source is ``address``."""
    if ":" in address:
        return lambda frame: (
            frame[12:14] == b"\x86\xdd" and frame[22:38] == _v6(address) and (protocol is None or frame[20] == protocol)
        )
    return lambda frame: (
        frame[12:14] == b"\x08\x00" and frame[26:30] == _v4(address) and (protocol is None or frame[23] == protocol)
    )


class Client:
    """Asks a node for an address in every way there is, by hand-made frames: no neighbour table is involved."""

    def __init__(self, namespace: Namespace, v4: str, v6: str, interface: str = "eth0") -> None:
        self.tap = Tap(namespace, interface)
        self.v4, self.v6 = v4, v6

    def close(self) -> None:
        self.tap.close()

    def questions(self, address: str, to: bytes) -> dict[str, tuple[bytes, Callable[[bytes], bool]]]:
        """By protocol: the frame to send, and what recognises an answer."""
        mac = self.tap.mac
        if ":" in address:
            return {
                "nd": (solicitation(mac, self.v6, address), is_advertisement_of(address)),
                "ping6": (echo6(mac, to, self.v6, address), lambda f: is_ip_from(address, 58)(f) and f[54] == 129),
                "tcp6": (syn6(mac, to, self.v6, address, 9), is_ip_from(address, 6)),
            }
        return {
            "arp": (arp_request(mac, self.v4, address), is_arp_from(address)),
            "ping": (echo4(mac, to, self.v4, address), is_ip_from(address, 1)),
            "tcp": (syn4(mac, to, self.v4, address, 9), is_ip_from(address, 6)),
        }

    def answered(self, address: str, to: bytes, patience: float = 5.0) -> set[str]:
        """Which protocols are answered. Asks for ``patience`` seconds those that are not."""
        questions = self.questions(address, to)
        self.tap.clear()
        found: set[str] = set()
        limit = time.monotonic() + patience
        again = 0.0
        while len(found) < len(questions) and (now := time.monotonic()) < limit:
            if now >= again:
                again = now + 0.1
                for name, (frame, _) in questions.items():
                    if name not in found:
                        self.tap.send(frame)
            seen = self.tap.receive(min(limit, again) - now)
            if seen is not None and not seen.outgoing:
                found |= {name for name, (_, matches) in questions.items() if matches(seen.frame)}
        return found
