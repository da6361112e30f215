"""The gate: the kernel lets a public address speak only while this node's hold lasts.

This file keeps three nftables tables (:mod:`locum.machine.gate.gate_rules`) and changes elements of their sets. It
knows slots, seconds and addresses, but no beats, stores or claims. ``docs/enforcement.md`` argues that the promise
(one holder) is kept with every process dead or frozen. No asyncio, no msgspec.

For every beat::

    armed = gate.arm(slot, hold)     # BEFORE the beat is sent: the kernel's timer runs from here
    ...                               # send the beat; the store accepts it
    gate.confirm(armed)              # carries no time: it cannot make anything last longer

For every address: configure it, :meth:`Gate.allow` it, ... :meth:`Gate.deny` it, remove it.

Arming a slot clears its confirmation, so the caller (:mod:`locum.rules.hold`) must not arm the slot that carries the
current hold.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from locum import nft
from locum.errors import LocumError, NetlinkError, PermissionRequired
from locum.machine.gate import gate_rules
from locum.machine.gate.gate_rules import SLOTS, TABLE, Device
from locum.machine.netlink import route
from locum.machine.netlink.nftables import (
    NFPROTO_ARP,
    NFPROTO_INET,
    NFPROTO_IPV4,
    NFPROTO_IPV6,
    NFPROTO_NETDEV,
    Batch,
    NftSocket,
    compared_values,
)

#: The shortest hold, in seconds, that the kernel's timer can keep. Kernels before 6.12 read less than one jiffy (10 ms
#: with HZ=100) as "no timeout", and rounding costs a few jiffies.
SHORTEST_HOLD = 0.05

#: The keys of the slot and ok sets: the constant that every judged packet has in the field that the rules look up.
_SLOT_KEYS = {
    NFPROTO_INET: (bytes([NFPROTO_IPV4]), bytes([NFPROTO_IPV6])),
    NFPROTO_ARP: (b"\x08\x00",),  # ptype: IPv4
    # IPv4, IPv6, ARP, and frames with a tag before any of them
    NFPROTO_NETDEV: (
        b"\x08\x00",
        b"\x86\xdd",
        b"\x08\x06",
        *(kind.to_bytes(2, "big") for kind in gate_rules.TAG_TYPES),
    ),
}

_FAMILY_NAMES = {NFPROTO_INET: "inet", NFPROTO_ARP: "arp", NFPROTO_NETDEV: "netdev"}

#: Addresses in one batch; the largest change of one address takes about 300 bytes of the 200,000 that fit.
_ADDRESSES_PER_BATCH = 500

#: The sets that hold an address: (table family, suffix), per address family.
_SETS4 = ((NFPROTO_INET, "4"), (NFPROTO_ARP, "4"), (NFPROTO_NETDEV, "4"), (NFPROTO_NETDEV, "4_bytes"))
_SETS6 = (
    (NFPROTO_INET, "6"),
    (NFPROTO_INET, "6_target"),
    (NFPROTO_NETDEV, "6"),
    (NFPROTO_NETDEV, "6_target"),
)

#: linux/sockios.h, and the kinds of linux/if_arp.h whose frames begin as Ethernet's do (loopback among them).
_SIOCGIFHWADDR = 0x8927
_ETHERNET = (1, 772)

#: Limit for nft to load the rules, in seconds.
_LOAD_LIMIT = 30

#: The errors of a kernel without nfnetlink (socket(2)), or without nf_tables (nfnetlink_rcv_msg and nfnetlink_rcv_batch
#: in net/netfilter/nfnetlink.c). In a container: the host has not loaded the modules.
_NO_NFTABLES = (errno.EPROTONOSUPPORT, errno.EINVAL, errno.EOPNOTSUPP)


class GateUnavailable(LocumError):
    """There can be no gate here: no ``nft`` program, or a kernel without nf_tables. The message says which."""


class ArmedSlot(NamedTuple):
    """One arming of a slot; only a slot's latest arming can be confirmed."""

    slot: int
    serial: int


class SlotState(NamedTuple):
    """A slot in the kernel: ``left`` is the time in seconds until its timer or its wall-clock deadline ends, whichever
    is sooner (0: it has ended)."""

    left: float
    confirmed: bool


class GateState(NamedTuple):
    """The gate in the kernel now.

    ``installed``: tables inet and arp exist in this version. ``egress``: the public interfaces whose packet sockets are
    covered; ``egress_missing``: existing interfaces that are not (kernels before 5.16, or
    :meth:`Gate.ensure_interfaces` is due). ``open_for``: seconds until the gate closes unless a beat is confirmed, 0
    when closed. ``refused``: packets dropped, per table family.
    """

    installed: bool
    egress: tuple[str, ...] = ()
    egress_missing: tuple[str, ...] = ()
    slots: tuple[SlotState, ...] = ()
    open_for: float = 0.0
    public: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    refused: tuple[tuple[str, int], ...] = ()


class _Egress(NamedTuple):
    """The egress chain of an interface. ``judged``: the constants in its own rules, among them the hardware addresses
    whose frames they judge."""

    chain: str
    judged: frozenset[str]


class Gate:
    """The gate of the network namespace in which the object was created. One thread at a time may use it.

    ``nft`` is the program that loads rules, None: the system's. Raises at creation: GateUnavailable, NetlinkError.
    """

    def __init__(self, nft: str | None = None) -> None:
        self._nft = nft
        try:
            self._netfilter = NftSocket()
        except NetlinkError as problem:
            raise _unavailable(problem) from problem
        self._public: frozenset[str] = frozenset()
        self._interfaces: tuple[str, ...] = ()
        self._held: set[str] = set()
        self._families: tuple[int, ...] = (NFPROTO_INET, NFPROTO_ARP)
        self._fingerprint: object = None
        self._serials = [0] * SLOTS
        self._pending = [False] * SLOTS

        #: The latest processes that loaded rules for this object; a watch of other programs' changes ignores them.
        self.loaders: deque[int] = deque(maxlen=8)

    def close(self) -> None:
        """Close the socket; the kernel's tables stay. Idempotent."""
        self._netfilter.close()

    @property
    def port(self) -> int:
        """The netlink port of this object's transactions; a watch of other programs' changes ignores it."""
        return self._netfilter.port

    # -- the tables ------------------------------------------------------------------------------------------------

    def install(self, public: Iterable[str], interfaces: Iterable[str]) -> None:
        """Load the tables in place of any others: gate closed, no address held.

        ``public`` are all public addresses that this node could ever host, ``interfaces`` the names of their
        interfaces, which need not exist (see :meth:`ensure_interfaces`). One transaction: the rules are never absent.
        Raises GateUnavailable, PermissionRequired, NetlinkError, ValueError (not an address).
        """
        addresses = frozenset(route.canonical(address) for address in public)
        names = tuple(dict.fromkeys(interfaces))
        public4, public6 = _by_family(addresses)
        base = gate_rules.ruleset(public4, public6, names)
        devices = _existing(names)
        try:
            self._load(base + gate_rules.egress_ruleset(public4, public6, devices))
            families: tuple[int, ...] = (NFPROTO_INET, NFPROTO_ARP, NFPROTO_NETDEV)
        except GateUnavailable:
            # The kernel has no egress hook, or an interface has just disappeared: the other tables are needed anyway.
            self._load(base)
            families = (NFPROTO_INET, NFPROTO_ARP)
            self._delete_table(NFPROTO_NETDEV)
        self._public, self._interfaces, self._families = addresses, names, families
        self._held.clear()
        self._forget_armed()
        self._fingerprint = self._take_fingerprint()

    def adopt(self, public: Iterable[str], interfaces: Iterable[str]) -> bool:
        """Take over the tables of an earlier process of this node unchanged: an open slot stays open until its
        deadline, held addresses stay held. Slots that the earlier process armed can no longer be confirmed. False,
        without any change, if the tables are absent or of another version. Raises GateUnavailable (a kernel without
        nf_tables), NetlinkError, PermissionRequired.
        """
        try:
            comments = {family: self._netfilter.table_comment(family, TABLE) for family in _FAMILY_NAMES}
        except NetlinkError as problem:
            raise _unavailable(problem) from problem
        present = [family for family, comment in comments.items() if comment is not None]
        if NFPROTO_INET not in present or NFPROTO_ARP not in present:
            return False
        if any(comments[family] != gate_rules.identity() for family in present):
            return False
        self._families = tuple(present)
        self._interfaces = tuple(dict.fromkeys(interfaces))
        try:
            self._public = frozenset(self._addresses("public"))
            self._held = set(self._addresses("held"))
            self._fingerprint = self._take_fingerprint()
        except NetlinkError as problem:
            if problem.errno == errno.ENOENT:
                return False
            raise
        self._forget_armed()
        self.configure(public, self._interfaces)
        return True

    def judged(self) -> tuple[str, ...]:
        """The public addresses of the tables in the kernel, of any version and from any process; () without tables.
        Raises NetlinkError, PermissionRequired."""
        try:
            return tuple(self._addresses("public"))
        except NetlinkError as problem:
            if problem.errno == errno.ENOENT or problem.errno in _NO_NFTABLES:
                return ()
            raise

    def let_through(self) -> frozenset[str]:
        """The addresses that every table in the kernel lets through while the gate is open, from any process.
        Raises NetlinkError (ENOENT: the tables are gone), PermissionRequired."""
        found: frozenset[str] | None = None
        for family in (NFPROTO_INET, NFPROTO_ARP):
            version = {socket.AF_INET: "4", socket.AF_INET6: "6"} if family == NFPROTO_INET else {socket.AF_INET: "4"}
            for number, suffix in version.items():
                keys = {e.key for e in self._netfilter.elements(family, TABLE, "held" + suffix)}
                addresses = frozenset(socket.inet_ntop(number, key) for key in keys)
                if family == NFPROTO_INET:
                    found = addresses if found is None else found | addresses
                elif found is not None:
                    # ARP knows only IPv4.
                    found = frozenset(a for a in found if ":" in a or a in addresses)
        return found or frozenset()

    def uncovered(self, interfaces: Iterable[str]) -> tuple[str, ...]:
        """The existing ``interfaces`` without an egress chain, or with one for an earlier hardware address.

        Raises NetlinkError, PermissionRequired.
        """
        egress = self._egress()
        return tuple(device.name for device in _existing(interfaces) if not _is_covered(device, egress))

    def configure(self, public: Iterable[str], interfaces: Iterable[str]) -> None:
        """Change which addresses are public and where; those that stay are not disturbed. An address that leaves the
        set is no longer judged: remove it from the machine first. Raises NetlinkError, PermissionRequired."""
        addresses = frozenset(route.canonical(address) for address in public)
        names = tuple(dict.fromkeys(interfaces))
        what = "cannot change the gate's public addresses"
        gone = self._public - addresses
        self._held -= gone
        self._edit("public", addresses, what, add=True)
        self._edit("held", gone, what, add=False)
        self._edit("public", gone, what, add=False)
        batch = Batch().flush(NFPROTO_INET, TABLE, "interfaces")
        if names:
            batch.add(NFPROTO_INET, TABLE, "interfaces", [name.encode().ljust(16, b"\0") for name in names])
        self._netfilter.commit(batch, what)
        self._public, self._interfaces = addresses, names
        self.ensure_interfaces()

    def ensure_interfaces(self) -> None:
        """Give every existing public interface its egress chain, for its present hardware address. Call it whenever an
        interface appears: before Linux 6.16 the kernel drops the chain together with an interface. Raises
        NetlinkError."""
        if NFPROTO_NETDEV not in self._families:
            return
        egress = self._egress()
        for device in _existing(self._interfaces):
            if _is_covered(device, egress):
                continue
            try:
                if device.name not in egress:
                    self._load(gate_rules.egress_addition(device))
                else:
                    self._load(gate_rules.egress_hardware(egress[device.name].chain, device))
            except GateUnavailable:
                if _existing([device.name]):
                    raise

    def restore(self) -> None:
        """Load the tables again after another program removed or changed them: closed until a beat is armed and
        confirmed from now on, with the same addresses held. Raises as :meth:`install`."""
        held = set(self._held)
        self.install(self._public, self._interfaces)
        self.allow(held)

    def verify(self) -> tuple[str, ...]:
        """What is wrong with the tables in the kernel, one line each; () when they are as this object left them."""
        try:
            present = self._take_fingerprint()
            if present != self._fingerprint:
                return (f"the rules of nftables table {TABLE!r} were changed",)
            problems = []
            for what, expected in (("public", self._public), ("held", self._held)):
                if not self._addresses_agree(what, expected):
                    problems.append(f"the {what!r} addresses in nftables table {TABLE!r} were changed")
            return tuple(problems)
        except NetlinkError as problem:
            if problem.errno == errno.ENOENT:
                return (f"nftables table {TABLE!r} is gone",)
            raise

    def remove(self) -> None:
        """Delete the tables: packets are no longer judged. Remove the public addresses first."""
        for family in _FAMILY_NAMES:
            self._delete_table(family)
        self._held.clear()
        self._fingerprint = None

    # -- the hold --------------------------------------------------------------------------------------------------

    def arm(self, slot: int, hold: float) -> ArmedSlot:
        """Before a beat is sent: clear ``slot`` and start its kernel timer of ``hold`` seconds.

        The slot opens only when the result is confirmed, and closes no later than ``hold`` after this call began. It
        may close two jiffies (8 ms with HZ=250) and a millisecond early, never late. Raises NetlinkError (ENOENT: the
        tables are gone), PermissionRequired, ValueError; the beat must not be confirmed then.
        """
        if not 0 <= slot < SLOTS:
            raise ValueError(f"invalid slot {slot}")
        if not hold >= SHORTEST_HOLD:
            raise ValueError(f"a hold of {hold} s is below {SHORTEST_HOLD} s, which the kernel's timer cannot keep")
        deadline = time.clock_gettime_ns(time.CLOCK_REALTIME) + int(hold * 1_000_000_000)
        self._serials[slot] += 1
        self._pending[slot] = False
        batch = Batch()
        for family in self._families:
            batch.flush(family, TABLE, f"ok_{slot}")
            batch.flush(family, TABLE, f"slot_{slot}")
            batch.flush(family, TABLE, f"until_{slot}")
            batch.add(family, TABLE, f"slot_{slot}", _SLOT_KEYS[family], timeout=int(hold * 1000))
            batch.add_below(family, TABLE, f"until_{slot}", deadline.to_bytes(8, "big"))
        self._netfilter.commit(batch, "cannot arm the gate")
        self._pending[slot] = True
        return ArmedSlot(slot, self._serials[slot])

    def confirm(self, armed: ArmedSlot) -> bool:
        """After the store accepted the beat: open the slot for the rest of its timer, if any.

        False, without any change, when the slot was armed again in between, or the gate was shut or loaded anew.
        Raises NetlinkError, PermissionRequired.
        """
        slot = armed.slot
        if not self._pending[slot] or self._serials[slot] != armed.serial:
            return False
        batch = Batch()
        for family in self._families:
            batch.add(family, TABLE, f"ok_{slot}", _SLOT_KEYS[family])
        self._netfilter.commit(batch, "cannot open the gate")
        return True

    def shut(self) -> None:
        """Close the gate at once; a beat sent before can no longer open it."""
        self._forget_armed()
        batch = Batch()
        for family in self._families:
            for slot in range(SLOTS):
                batch.flush(family, TABLE, f"ok_{slot}")
                batch.flush(family, TABLE, f"slot_{slot}")
        self._netfilter.commit(batch, "cannot shut the gate")

    def allow(self, addresses: Iterable[str]) -> None:
        """Let these addresses speak while the gate is open. Idempotent. Raises NetlinkError, PermissionRequired; of up
        to 500 addresses, a failed call let none through."""
        wanted = {route.canonical(address) for address in addresses}
        self._edit("held", wanted, "cannot let addresses through the gate", add=True)
        self._held |= wanted

    def deny(self, addresses: Iterable[str]) -> None:
        """Mute these addresses. Idempotent. Raises as :meth:`allow`; even then :meth:`restore` does not let them
        through again."""
        unwanted = {route.canonical(address) for address in addresses}
        self._held -= unwanted
        self._edit("held", unwanted, "cannot shut addresses out at the gate", add=False)

    @property
    def held(self) -> frozenset[str]:
        """The addresses that may speak while the gate is open, as this object knows them (after :meth:`adopt`: as read
        from the kernel)."""
        return frozenset(self._held)

    def state(self) -> GateState:
        """Read the gate's state from the kernel. Raises NetlinkError, PermissionRequired."""
        existing = _existing(self._interfaces)
        comments = {family: self._netfilter.table_comment(family, TABLE) for family in _FAMILY_NAMES}
        if comments[NFPROTO_INET] != gate_rules.identity() or comments[NFPROTO_ARP] != gate_rules.identity():
            return GateState(installed=False, egress_missing=tuple(device.name for device in existing))
        families = [family for family, comment in comments.items() if comment == gate_rules.identity()]
        egress = self._egress() if NFPROTO_NETDEV in families else {}
        covered = {device.name for device in existing if _is_covered(device, egress)}
        slots = tuple(self._slot(families, slot) for slot in range(SLOTS))
        return GateState(
            installed=True,
            egress=tuple(device.name for device in existing if device.name in covered),
            egress_missing=tuple(device.name for device in existing if device.name not in covered),
            slots=slots,
            open_for=max((slot.left for slot in slots if slot.confirmed), default=0.0),
            public=tuple(sorted(self._addresses("public"))),
            held=tuple(sorted(self._addresses("held"))),
            refused=tuple(
                (_FAMILY_NAMES[family], self._netfilter.counter_packets(family, TABLE, "refused"))
                for family in families
            ),
        )

    # -- inside ----------------------------------------------------------------------------------------------------

    def _egress(self) -> dict[str, _Egress]:
        """Interface → its egress chain in the kernel, from any process."""
        judged: dict[str, set[str]] = {}
        for rule in self._netfilter.rules(NFPROTO_NETDEV, TABLE):
            if gate_rules.is_egress_chain(rule.chain):
                values = {value.hex(":") for value in compared_values(rule.expressions)}
                judged.setdefault(rule.chain, set()).update(values)
        # Since Linux 6.16 a chain outlives its interface, and its name has the number of the first one.
        return {
            name: _Egress(chain.name, frozenset(judged.get(chain.name, ())))
            for chain in self._netfilter.chains(NFPROTO_NETDEV, TABLE)
            for name in chain.devices
        }

    def _delete_table(self, family: int) -> None:
        try:
            what = f"cannot remove nftables table {_FAMILY_NAMES[family]} {TABLE}"
            self._netfilter.commit(Batch().delete_table(family, TABLE), what)
        except NetlinkError as problem:
            # A kernel without this family has no such table.
            if problem.errno not in (errno.ENOENT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
                raise

    def _forget_armed(self) -> None:
        self._pending = [False] * SLOTS

    def _edit(self, name: str, addresses: Iterable[str], what: str, *, add: bool) -> None:
        """Add addresses to, or delete them from, the sets of that name in every table."""
        ordered = sorted(addresses)
        for start in range(0, len(ordered), _ADDRESSES_PER_BATCH):
            batch = Batch()
            for sets, group in zip(
                (_SETS4, _SETS6), _by_family(ordered[start : start + _ADDRESSES_PER_BATCH]), strict=True
            ):
                keys = [route.packed(address) for address in group]
                for family, suffix in sets:
                    if keys and family in self._families:
                        (batch.add if add else batch.delete)(family, TABLE, name + suffix, keys)
            self._netfilter.commit(batch, what)

    def _addresses(self, what: str) -> list[str]:
        found = []
        for version, suffix in ((socket.AF_INET, "4"), (socket.AF_INET6, "6")):
            elements = self._netfilter.elements(NFPROTO_INET, TABLE, what + suffix)
            found += [socket.inet_ntop(version, element.key) for element in elements]
        return found

    def _addresses_agree(self, what: str, expected: Iterable[str]) -> bool:
        for sets, group in zip((_SETS4, _SETS6), _by_family(expected), strict=True):
            keys = {route.packed(address) for address in group}
            for family, suffix in sets:
                if family in self._families:
                    elements = self._netfilter.elements(family, TABLE, what + suffix)
                    if {element.key for element in elements} != keys:
                        return False
        return True

    def _slot(self, families: Iterable[int], slot: int) -> SlotState:
        left, confirmed = [], True
        for family in families:
            timers = self._netfilter.elements(family, TABLE, f"slot_{slot}")
            left += [0.0] * (len(_SLOT_KEYS[family]) - len(timers))
            left += [(timer.expires or 0) / 1000 for timer in timers]
            ends = [e.key for e in self._netfilter.elements(family, TABLE, f"until_{slot}") if e.interval_end]
            now = time.clock_gettime_ns(time.CLOCK_REALTIME)
            left.append(max(0.0, (int.from_bytes(ends[0], "big") - now) / 1e9) if ends else 0.0)
            allowed = self._netfilter.elements(family, TABLE, f"ok_{slot}")
            confirmed = confirmed and len(allowed) == len(_SLOT_KEYS[family])
        return SlotState(left=min(left), confirmed=confirmed)

    def _take_fingerprint(self) -> object:
        """The tables' structure as read from the kernel, without the chains of interfaces, which come and go."""
        structure = []
        for family in self._families:
            if self._netfilter.table_comment(family, TABLE) != gate_rules.identity():
                raise NetlinkError(f"nftables table {_FAMILY_NAMES[family]} {TABLE} is gone", errno.ENOENT)
            chains = [c for c in self._netfilter.chains(family, TABLE) if not gate_rules.is_egress_chain(c.name)]
            rules = [r for r in self._netfilter.rules(family, TABLE) if not gate_rules.is_egress_chain(r.chain)]
            structure.append((family, tuple(chains), tuple(rules), tuple(self._netfilter.sets(family, TABLE))))
        return tuple(structure)

    def _load(self, text: str) -> None:
        """Let nft load ``text`` in one transaction. Raises GateUnavailable with nft's message."""
        try:
            complaint = nft.load(text, _LOAD_LIMIT, program=self._nft, started=self.loaders.append)
        except nft.CannotRun as problem:
            raise GateUnavailable(f"{problem}; install the package nftables") from problem
        if complaint:
            first = complaint.splitlines()[0]
            if os.strerror(errno.EPERM) in complaint:
                raise PermissionRequired(f"nft may not load Locum's rules: {first}; this needs root, or CAP_NET_ADMIN")
            raise GateUnavailable(f"nft refused Locum's rules: {first}")


def _unavailable(problem: NetlinkError) -> LocumError:
    """``problem``, or GateUnavailable when it means that the kernel has no nf_tables."""
    if problem.errno in _NO_NFTABLES:
        return GateUnavailable(f"this kernel has no nf_tables: {problem}")
    return problem


def _by_family(addresses: Iterable[str]) -> tuple[list[str], list[str]]:
    ordered = sorted(addresses)
    return [a for a in ordered if ":" not in a], [a for a in ordered if ":" in a]


def _is_covered(device: Device, egress: Mapping[str, _Egress]) -> bool:
    """Whether the device has an egress chain for its present hardware address."""
    found = egress.get(device.name)
    return found is not None and (not device.hardware or device.hardware in found.judged)


def _existing(names: Iterable[str]) -> list[Device]:
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        for name in names:
            try:
                found.append(Device(socket.if_nametoindex(name), name, _hardware_address(asker, name)))
            except OSError:
                continue
    return found


def _hardware_address(asker: socket.socket, name: str) -> str:
    """The Ethernet address of an interface, "" for another kind. Raises OSError."""
    request = name.encode()[:15].ljust(32, b"\0")
    answer = fcntl.ioctl(asker, _SIOCGIFHWADDR, request)
    kind, raw = int.from_bytes(answer[16:18], sys.byteorder), answer[18:24]
    return raw.hex(":") if kind in _ETHERNET else ""
