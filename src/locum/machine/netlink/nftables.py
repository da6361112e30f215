"""nf_tables over raw netlink: atomic batches of set element changes, and dumps of what is loaded.

This file has layouts and constants of ``include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h``; it does not know
Locum's tables. The ``nft`` program loads rules, from text that an admin can read; only quick changes are made here.

A batch is one transaction: all of it takes effect at once, or none.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from locum.errors import NetlinkError
from locum.machine.netlink import core
from locum.machine.netlink.core import NetlinkSocket, Request

NETLINK_NETFILTER = 12
NFNLGRP_NFTABLES = 7

NFPROTO_INET, NFPROTO_IPV4, NFPROTO_ARP, NFPROTO_NETDEV, NFPROTO_IPV6 = 1, 2, 3, 5, 10

_SUBSYSTEM = 10
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_GETTABLE, _DELTABLE = 1, 2
_NEWTABLE = 0
_GETCHAIN = 4
_GETRULE = 7
_GETSET = 10
_NEWSETELEM, _GETSETELEM, _DELSETELEM = 12, 13, 14
_GETOBJ = 19
#: The type of the message that the kernel sends to the group after every transaction.
NEWGEN_TYPE = (_SUBSYSTEM << 8) | 15

_TABLE_NAME, _TABLE_FLAGS, _TABLE_USERDATA, _TABLE_OWNER = 1, 2, 6, 7
_FLAG_OWNER = 2
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE = 1, 3, 4, 5, 7
_HOOK_NUMBER, _HOOK_PRIORITY, _HOOK_DEVICE, _HOOK_DEVICES = 1, 2, 3, 4
_RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS = 1, 2, 4
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2
_CMP_OP, _CMP_DATA = 2, 3
_CMP_EQUAL = b"\0\0\0\0"
_SET_TABLE, _SET_NAME = 1, 2
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3
_LIST_ELEMENT = 1
_ELEMENT_KEY, _ELEMENT_FLAGS, _ELEMENT_TIMEOUT, _ELEMENT_EXPIRATION = 1, 3, 4, 5
_DATA_VALUE = 1
_ELEMENT_INTERVAL_END = 1
_OBJECT_TABLE, _OBJECT_NAME, _OBJECT_TYPE, _OBJECT_DATA = 1, 2, 3, 4
_OBJECT_COUNTER = 1
_GENERATION_PID, _GENERATION_NAME = 2, 3
_COUNTER_PACKETS = 2

_NFGENMSG = struct.Struct(">BBH")
_BE32 = struct.Struct(">I")
_BE64 = struct.Struct(">Q")

#: Elements in one message: their list is one attribute, and an attribute's length has 16 bits.
_ELEMENTS_PER_MESSAGE = 1000


class Generation(NamedTuple):
    """The author of a transaction: the process's number and name."""

    pid: int
    name: str


def parse_generation(payload: bytes) -> Generation:
    """The message that the kernel sends after a transaction (``nf_tables_fill_gen_info`` in nf_tables_api.c)."""
    attributes = core.parse(payload, _NFGENMSG.size)
    pid = attributes.get(_GENERATION_PID, b"")
    return Generation(_BE32.unpack(pid)[0] if len(pid) == 4 else 0, core.text(attributes.get(_GENERATION_NAME, b"")))


class Element(NamedTuple):
    """An element of a set. ``expires``: milliseconds left, None without a timeout; ``interval_end``: it ends an
    interval, exclusively."""

    key: bytes
    expires: int | None
    interval_end: bool


class Chain(NamedTuple):
    """A chain; ``devices`` are those of a netdev base chain, ``hook`` the (number, priority) of a base chain."""

    table: str
    name: str
    kind: str
    hook: tuple[int, int] | None
    policy: int | None
    devices: tuple[str, ...]


class Rule(NamedTuple):
    """A rule: its chain and the kernel's encoding of its expressions, which the same text always yields."""

    chain: str
    expressions: bytes


def compared_values(expressions: bytes) -> list[bytes]:
    """The constants that fields of a packet must equal for the rule (``nft_cmp_dump``, net/netfilter/nft_cmp.c)."""
    found = []
    for _, expression in core.iterate(expressions):
        parts = core.parse(expression)
        if core.text(parts.get(_EXPRESSION_NAME, b"")) != "cmp":
            continue
        data = core.parse(parts.get(_EXPRESSION_DATA, b""))
        if data.get(_CMP_OP) == _CMP_EQUAL:
            found.append(core.parse(data.get(_CMP_DATA, b"")).get(_DATA_VALUE, b""))
    return found


class Batch:
    """Changes of set elements, carried out together by :meth:`NftSocket.commit`."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def flush(self, family: int, table: str, name: str) -> Batch:
        """Remove every element of a set. Accepts an empty set, and expired elements that still wait for the kernel's
        garbage collector (deleting such an element by its key would fail)."""
        return self._change(_DELSETELEM, family, table, name, ())

    def add(self, family: int, table: str, name: str, keys: Iterable[bytes], *, timeout: int | None = None) -> Batch:
        """Add elements, ``timeout`` in milliseconds. An existing element keeps its old timeout."""
        extra = b"" if timeout is None else core.attribute(_ELEMENT_TIMEOUT, _BE64.pack(timeout))
        return self._change(_NEWSETELEM, family, table, name, [_element(key, extra) for key in keys])

    def add_below(self, family: int, table: str, name: str, limit: bytes) -> Batch:
        """Add to an interval set the interval from zero up to and not including ``limit``."""
        end = core.attribute(_ELEMENT_FLAGS, _BE32.pack(_ELEMENT_INTERVAL_END))
        return self._change(_NEWSETELEM, family, table, name, [_element(bytes(len(limit)), b""), _element(limit, end)])

    def delete(self, family: int, table: str, name: str, keys: Iterable[bytes]) -> Batch:
        """Delete elements (without timeouts); absent ones are accepted.

        Kernels before Linux 6.3 refuse to delete an absent element. So each is added first, which does nothing when it
        is present. Nothing observes the addition: the batch takes effect as a whole.
        """
        elements = [_element(key, b"") for key in keys]
        if elements:
            self._change(_NEWSETELEM, family, table, name, elements)
            self._change(_DELSETELEM, family, table, name, elements)
        return self

    def delete_table(self, family: int, table: str) -> Batch:
        """Delete a table with its contents; an absent table is accepted (it is added first, as above)."""
        payload = _NFGENMSG.pack(family, 0, 0) + core.string(_TABLE_NAME, table)
        for kind in (_NEWTABLE, _DELTABLE):
            self.requests.append(Request((_SUBSYSTEM << 8) | kind, 0, payload))
        return self

    def own_table(self, family: int, table: str) -> Batch:
        """Create a table that belongs to the socket (``NFT_TABLE_F_OWNER``, since Linux 5.12): no other socket can
        change or flush it, and it ends with the socket. An existing table of that name is an error: EEXIST, or EPERM
        when it has another owner."""
        payload = _NFGENMSG.pack(family, 0, 0) + core.string(_TABLE_NAME, table)
        payload += core.attribute(_TABLE_FLAGS, _BE32.pack(_FLAG_OWNER))
        flags = core.NLM_F_CREATE | core.NLM_F_EXCL
        self.requests.append(Request((_SUBSYSTEM << 8) | _NEWTABLE, flags, payload))
        return self

    def _change(self, kind: int, family: int, table: str, name: str, elements: Sequence[bytes]) -> Batch:
        flags = core.NLM_F_CREATE if kind == _NEWSETELEM else 0
        head = _NFGENMSG.pack(family, 0, 0) + core.string(_LIST_TABLE, table) + core.string(_LIST_SET, name)
        if not elements and kind == _DELSETELEM:  # without a list the kernel would delete every element
            self.requests.append(Request((_SUBSYSTEM << 8) | kind, flags, head))
        for start in range(0, len(elements), _ELEMENTS_PER_MESSAGE):
            part = core.nested(_LIST_ELEMENTS, *elements[start : start + _ELEMENTS_PER_MESSAGE])
            self.requests.append(Request((_SUBSYSTEM << 8) | kind, flags, head + part))
        return self


def _element(key: bytes, extra: bytes) -> bytes:
    value = core.nested(_ELEMENT_KEY, core.attribute(_DATA_VALUE, key))
    return core.nested(_LIST_ELEMENT, value, extra)


class NftSocket:
    """Transactions and dumps on the nf_tables of the network namespace in which the object was created."""

    def __init__(self) -> None:
        self._netlink = NetlinkSocket(NETLINK_NETFILTER)
        self.port: int = self._netlink.socket.getsockname()[0]

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._netlink.close()

    def commit(self, batch: Batch, what: str) -> None:
        """Carry out ``batch``, whole or not at all; ``what`` names the attempt in errors.

        A batch is one ``sendmsg``, which the default send buffer limits to some 200,000 bytes.

        When this returns, all later packets see the change. Raises NetlinkError (ENOENT: no such table or set) and
        PermissionRequired, both meaning that nothing was changed; NetlinkError with ENOBUFS or ETIMEDOUT when the
        kernel's answer was lost.
        """
        if not batch.requests:
            return
        sock = self._netlink
        first = sock.next_sequence(len(batch.requests) + 2)
        last = first + len(batch.requests)
        frame = _NFGENMSG.pack(0, 0, _SUBSYSTEM)
        parts = [core.pack(Request(_BATCH_BEGIN, 0, frame), first)]
        for number, request in enumerate(batch.requests, first + 1):
            # One acknowledgement suffices: the kernel reports every error before the acknowledgement that is last in
            # the list (nfnetlink_rcv_batch in net/netfilter/nfnetlink.c), and one error undoes the batch.
            flags = request.flags | (core.NLM_F_ACK if number == last else 0)
            parts.append(core.pack(Request(request.type, flags, request.payload), number))
        parts.append(core.pack(Request(_BATCH_END, 0, frame), last + 1))
        sock.drain()
        sock.send(b"".join(parts))
        failure: Exception | None = None
        while True:
            for message in sock.receive():
                if message.type != core.NLMSG_ERROR or not first <= message.sequence <= last:
                    continue
                number, detail = core.acknowledgement(message)
                if number and failure is None:
                    failure = core.error(number, what, detail)
                if failure is not None and (message.sequence in (first, last)):
                    raise failure
                if message.sequence == last:
                    return

    def table_comment(self, family: int, table: str) -> str | None:
        """The comment of a table, "" without one; None without such a table."""
        attributes = self._table(family, table)
        if attributes is None:
            return None
        data = attributes.get(_TABLE_USERDATA, b"")
        # libnftnl's own encoding: type (0 is the comment), length, zero-terminated text.
        return core.text(data[2 : 2 + data[1]]) if len(data) >= 2 and data[0] == 0 else ""

    def table_owner(self, family: int, table: str) -> int | None:
        """The netlink port that owns a table, usually the number of a process; None without such a table or without an
        owner."""
        owner = (self._table(family, table) or {}).get(_TABLE_OWNER)
        return None if owner is None else int(_BE32.unpack(owner)[0])

    def _table(self, family: int, table: str) -> dict[int, bytes] | None:
        payload = _NFGENMSG.pack(family, 0, 0) + core.string(_TABLE_NAME, table)
        try:
            answer = self._netlink.get((_SUBSYSTEM << 8) | _GETTABLE, payload, f"cannot read nftables table {table!r}")
        except NetlinkError as problem:
            if problem.errno in (errno.ENOENT, errno.EAFNOSUPPORT):
                return None
            raise
        return core.parse(answer.payload, _NFGENMSG.size)

    def chains(self, family: int, table: str) -> list[Chain]:
        """The chains of a table, in the kernel's order."""
        found = []
        for attributes in self._list(_GETCHAIN, family, b"", "chains"):
            if core.text(attributes.get(_CHAIN_TABLE, b"")) != table:
                continue
            hook: tuple[int, int] | None = None
            devices: tuple[str, ...] = ()
            if _CHAIN_HOOK in attributes:
                inner = core.parse(attributes[_CHAIN_HOOK])
                number, priority = (_BE32.unpack(inner[k])[0] for k in (_HOOK_NUMBER, _HOOK_PRIORITY))
                hook = (number, priority - (1 << 32) if priority & 0x80000000 else priority)
                if _HOOK_DEVICES in inner:
                    devices = tuple(core.text(value) for _, value in core.iterate(inner[_HOOK_DEVICES]))
                elif _HOOK_DEVICE in inner:
                    devices = (core.text(inner[_HOOK_DEVICE]),)
            policy = attributes.get(_CHAIN_POLICY)
            found.append(
                Chain(
                    table,
                    core.text(attributes.get(_CHAIN_NAME, b"")),
                    core.text(attributes.get(_CHAIN_TYPE, b"")),
                    hook,
                    None if policy is None else _BE32.unpack(policy)[0],
                    devices,
                )
            )
        return found

    def rules(self, family: int, table: str) -> list[Rule]:
        """The rules of a table, in their order within each chain."""
        wanted = core.string(_RULE_TABLE, table)
        return [
            Rule(core.text(attributes.get(_RULE_CHAIN, b"")), attributes.get(_RULE_EXPRESSIONS, b""))
            for attributes in self._list(_GETRULE, family, wanted, "rules")
            if core.text(attributes.get(_RULE_TABLE, b"")) == table
        ]

    def sets(self, family: int, table: str) -> list[str]:
        """The names of a table's sets. Raises NetlinkError (ENOENT) without such a table."""
        return [
            core.text(attributes.get(_SET_NAME, b""))
            for attributes in self._list(_GETSET, family, core.string(_SET_TABLE, table), "sets")
        ]

    def elements(self, family: int, table: str, name: str) -> list[Element]:
        """The elements of a set. Raises NetlinkError (ENOENT) without such a set."""
        wanted = core.string(_LIST_TABLE, table) + core.string(_LIST_SET, name)
        found = []
        for attributes in self._list(_GETSETELEM, family, wanted, f"elements of set {name!r}"):
            for _, element in core.iterate(attributes.get(_LIST_ELEMENTS, b"")):
                parts = core.parse(element)
                key = core.parse(parts.get(_ELEMENT_KEY, b"")).get(_DATA_VALUE, b"")
                flags = _BE32.unpack(parts[_ELEMENT_FLAGS])[0] if _ELEMENT_FLAGS in parts else 0
                # The timeout is present unless it is the set's own; the time left always is.
                left = parts.get(_ELEMENT_EXPIRATION)
                expires = None if left is None else _BE64.unpack(left)[0]
                found.append(Element(key, expires, bool(flags & _ELEMENT_INTERVAL_END)))
        return found

    def counter_packets(self, family: int, table: str, name: str) -> int:
        """Packets that a named counter has counted. Raises NetlinkError (ENOENT)."""
        payload = (
            _NFGENMSG.pack(family, 0, 0)
            + core.string(_OBJECT_TABLE, table)
            + core.string(_OBJECT_NAME, name)
            + core.attribute(_OBJECT_TYPE, _BE32.pack(_OBJECT_COUNTER))
        )
        answer = self._netlink.get((_SUBSYSTEM << 8) | _GETOBJ, payload, f"cannot read nftables counter {name!r}")
        data = core.parse(core.parse(answer.payload, _NFGENMSG.size).get(_OBJECT_DATA, b""))
        return int(_BE64.unpack(data[_COUNTER_PACKETS])[0]) if _COUNTER_PACKETS in data else 0

    def _list(self, kind: int, family: int, wanted: bytes, subject: str) -> list[dict[int, bytes]]:
        payload = _NFGENMSG.pack(family, 0, 0) + wanted
        answer = self._netlink.dump((_SUBSYSTEM << 8) | kind, payload, f"cannot list nftables {subject}")
        return [core.parse(message.payload, _NFGENMSG.size) for message in answer]
