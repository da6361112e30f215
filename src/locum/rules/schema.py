"""The keys of the store and the records behind them.

Keys here are relative to the cluster's prefix. The writers:

=====================  ===========================================  =====================================
key                    record                                       written by
=====================  ===========================================  =====================================
``node/<name>``        :class:`NodeRecord` (durable)                the node, at join and reload
``number/<n>``         :class:`NumberRecord` (durable)              the node, once; makes numbers unique
``admin/<name>``       :class:`AdminRecord` (durable)               admin commands; the node that bans itself
``prefer/<address>``   :class:`PreferRecord` (durable)              ``locum ip move``
``tunable/<name>``     :class:`TunableRecord` (durable)             ``locum tunable set``
``held/<address>``     :class:`HeldRecord` (durable)                the first node that holds the address;
                                                                    the leader deletes it when no node
                                                                    is configured for the address
``member/<name>``      :class:`MemberRecord`                        the node, at join; never modified
``beat/<name>``        :class:`BeatRecord`                          the node, several times per hold
``health/<name>``      :class:`HealthRecord`                        the node, on change
``phase/<name>``       :class:`PhaseRecord`                         the node, as it follows a plan
``leader``             :class:`LeaderRecord`                        the member that takes the lead
``plan``               :class:`PlanRecord`                          the leader
``history``            :class:`HistoryRecord` (durable)             the first node to join; never modified
``claim/<address>``    :class:`ClaimRecord`                         the holder; deleted by it, or by a node that
                                                                    proves that its hold has ended
=====================  ===========================================  =====================================

An *incarnation* is a random name for one membership of a node, from its join to its leaving or expiry; it is
never used again. A claim is free only when its key is absent. Expiring a member deletes its claims in the same
commit, so a ``member`` key deleted by a foreign writer does not free addresses that its node still holds.

Rules of this file: shapes and checks of single records. It knows no relation between keys and no time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from functools import lru_cache
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from locum import hosts
from locum.config.tunables import TUNABLES
from locum.errors import StoreCorrupt
from locum.outside import UNDECODABLE

# Values far outside of anything that Locum writes are rejected: an endless hold would keep the dead alive, an endless
# epoch would leave no room for the next one.
_Seconds = Annotated[float, Meta(ge=0, le=600)]
_Hold = Annotated[float, Meta(gt=0, le=600)]
_Number = Annotated[int, Meta(ge=0, le=999)]
_Count = Annotated[int, Meta(ge=0, le=2**62)]
_UnixTime = Annotated[float, Meta(ge=0, le=1e11)]
_Bits = Annotated[int, Meta(ge=0, le=128)]
# As in the configuration (config/values.py).
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
# The hold page has room for 40 bytes.
_Incarnation = Annotated[str, Meta(min_length=1, max_length=40)]


class HostedAddress(msgspec.Struct, frozen=True, order=True):
    """A public address that a node is configured to host, on the first of ``interfaces`` that has link."""

    address: str
    bits: _Bits
    interfaces: tuple[str, ...]


class NodeRecord(msgspec.Struct, frozen=True):
    """A node as configured; outlives its membership.

    ``wait``: seconds from the last sign of the node's last membership until its hold had certainly ended.
    """

    number: _Number
    private_address: str = ""
    addresses: tuple[HostedAddress, ...] = ()
    wait: _Seconds = 0.0


class NumberRecord(msgspec.Struct, frozen=True):
    """The owner of this number."""

    node: str


class AdminRecord(msgspec.Struct, frozen=True):
    """Decisions of admins (and of repeated failures) about a node; ``banned_until`` is unix time, 0: not banned."""

    disabled: bool = False
    stopped: bool = False
    banned_until: _UnixTime = 0.0
    ban_reason: str = ""


class PreferRecord(msgspec.Struct, frozen=True):
    """An admin moved the address to ``node``: it stays there while that node can host it."""

    node: str


class TunableRecord(msgspec.Struct, frozen=True):
    """A tunable's value for the whole cluster."""

    value: float


class HeldRecord(msgspec.Struct, frozen=True):
    """A node of this cluster has held the address (``node`` was the first). The address is the cluster's: taking it
    needs no probe for other machines."""

    node: str


class MemberRecord(msgspec.Struct, frozen=True):
    """One membership. ``hold`` and ``margin`` in seconds: observers wait for their sum after the last beat seen.

    ``machine`` identifies the place where the daemon runs (boot, network namespace, runtime directory): a new
    daemon that has the lock of the same place knows that the old one has ended.
    """

    incarnation: _Incarnation
    hold: _Hold
    margin: _Seconds
    machine: str = ""
    version: str = ""


class BeatRecord(msgspec.Struct, frozen=True):
    """A sign of life. ``sequence`` distinguishes the beats of an incarnation."""

    incarnation: str
    sequence: _Count


class HealthRecord(msgspec.Struct, frozen=True):
    """A node's report about itself.

    ``started``: ``startup`` succeeded. ``earned``: a ``monitor`` has passed since (I6). ``healthy``: the last one
    passed. ``down``: configured interfaces without link. ``refused``: address → why it could not be taken. ``leaving``:
    the node wants to stop. ``handles``: the events that need a phase and that its scripts handle. ``warning``: a fact
    for the admin, such as a hold that the kernel cannot enforce; ``warnings``: more of them. ``unable``: why it can
    serve no address, whatever its scripts say, or "". ``unsteady``: interfaces whose link returned too recently to
    count; ``settling``: the same of the node's health, in words, or "" (:mod:`locum.rules.damping`). ``waits``: the
    node may not claim anything yet, because holds of another history of the store may last. ``occupied``: address →
    evidence of another machine or cluster that has it; this is not a fault of this node.
    """

    incarnation: str
    started: bool = False
    earned: bool = False
    healthy: bool = False
    reason: str = ""
    down: tuple[str, ...] = ()
    refused: dict[str, str] = {}
    leaving: bool = False
    handles: tuple[str, ...] = ()
    warning: str = ""
    warnings: tuple[str, ...] = ()
    unable: str = ""
    unsteady: tuple[str, ...] = ()
    settling: str = ""
    occupied: dict[str, str] = {}
    waits: bool = False


class LeaderRecord(msgspec.Struct, frozen=True):
    """The node that plans; void without its member key."""

    node: str
    incarnation: str


class PlanRecord(msgspec.Struct, frozen=True):
    """The planned server of each address. ``participants``: name → incarnation of the nodes that must follow.

    ``prepare``: some participant has a script for an event that precedes every release, so nothing moves until
    all have run it.
    """

    epoch: _Count
    assignment: dict[str, str]
    participants: dict[str, str]
    cause: str
    prepare: bool = False


#: The steps of a participant through one epoch, in order. DIRTY: addresses changed again after SETTLED.
PREPARED, SETTLED, RECOVERED, DIRTY = "prepared", "settled", "recovered", "dirty"
PHASES = (PREPARED, SETTLED, RECOVERED, DIRTY)


class PhaseRecord(msgspec.Struct, frozen=True):
    """A node's progress with the plan of ``epoch``; ``why`` explains DIRTY."""

    incarnation: str
    epoch: _Count
    phase: str
    why: str = ""

    def reached(self, epoch: int, phase: str) -> bool:
        """Whether this is at least ``phase`` of ``epoch`` (a later epoch has passed all phases of earlier ones)."""
        if self.epoch != epoch:
            return self.epoch > epoch
        return PHASES.index(self.phase) >= PHASES.index(phase)


class HistoryRecord(msgspec.Struct, frozen=True):
    """The random name of the store's history, by which an emptied and refilled store differs from the old one.

    A copy of the store has the same name; revisions tell it apart (:class:`locum.rules.view.View`).
    """

    name: Annotated[str, Meta(min_length=1, max_length=40)]


class ClaimRecord(msgspec.Struct, frozen=True):
    """The right to hold an address. ``interface``: where it is served. ``serving``: ``takeip`` has succeeded."""

    node: str
    incarnation: str
    interface: str
    serving: bool = False


Record = (
    NodeRecord
    | NumberRecord
    | AdminRecord
    | PreferRecord
    | TunableRecord
    | HeldRecord
    | MemberRecord
    | BeatRecord
    | HealthRecord
    | PhaseRecord
    | LeaderRecord
    | PlanRecord
    | HistoryRecord
    | ClaimRecord
)

#: Kinds with a single key, without a second part.
SINGLES = ("leader", "plan", "history")

#: First part of the key → record type.
RECORDS: dict[str, type[Record]] = {
    "node": NodeRecord,
    "number": NumberRecord,
    "admin": AdminRecord,
    "prefer": PreferRecord,
    "tunable": TunableRecord,
    "held": HeldRecord,
    "member": MemberRecord,
    "beat": BeatRecord,
    "health": HealthRecord,
    "phase": PhaseRecord,
    "leader": LeaderRecord,
    "plan": PlanRecord,
    "history": HistoryRecord,
    "claim": ClaimRecord,
}

_encoder = msgspec.json.Encoder()
_decoders: dict[str, msgspec.json.Decoder[Record]] = {kind: msgspec.json.Decoder(t) for kind, t in RECORDS.items()}


def split_key(key: str) -> tuple[str, str]:
    """``"member/n1"`` → ``("member", "n1")``; ``"plan"`` → ``("plan", "")``."""
    kind, _, name = key.partition("/")
    return kind, name


def only_beats(keys: Collection[str]) -> bool:
    """Whether ``keys`` are beats only, as in most batches of a watch."""
    for key in keys:
        if not key.startswith("beat/"):
            return False
    return bool(keys)


def encode(record: Record) -> bytes:
    """The record as stored: JSON, readable with any tool for the store."""
    return _encoder.encode(record)


def decode(key: str, value: bytes) -> Record | None:
    """The record behind ``key``; None for keys of kinds that Locum does not read.

    Raises StoreCorrupt with the key and the problem.
    """
    kind, name = split_key(key)
    decoder = _decoders.get(kind)
    if decoder is None:
        return None
    if bool(name) == (kind in SINGLES):
        raise StoreCorrupt(f"store key {key!r}: not a key that Locum writes; delete it")
    try:
        record = decoder.decode(value)
    except UNDECODABLE as error:
        raise StoreCorrupt(f"store key {key!r}: {error}; delete or correct it") from error
    check = _CHECKS.get(kind)
    if check is not None and (problem := check(record, name)) is not None:
        raise StoreCorrupt(f"store key {key!r}: {problem}; delete or correct it")
    return record


@lru_cache(maxsize=4096)
def _is_address(text: str) -> bool:
    """Whether ``text`` is an address in canonical form: another spelling would be another address of the cluster."""
    try:
        return hosts.address(text) == text
    except ValueError:
        return False


@lru_cache(maxsize=4096)
def _strange(node: str) -> str | None:
    """Why ``node`` is not a valid node name, None when it is: scripts use it in paths and commands."""
    return None if _NODE.fullmatch(node) else f"{node!r} is not the name of a node"


def _own(_: Record, name: str) -> str | None:
    return _strange(name)


def _configured(record: NodeRecord, name: str) -> str | None:
    unfit = (f"{h.address!r} is not an IP address" for h in record.addresses if not _is_address(h.address))
    return _strange(name) or next(unfit, None)


def _phase(record: PhaseRecord, name: str) -> str | None:
    if record.phase not in PHASES:
        return _strange(name) or f"phase {record.phase!r} is none of {', '.join(PHASES)}"
    return _strange(name)


def _names_node(record: NumberRecord | LeaderRecord, _: str) -> str | None:
    return _strange(record.node)


def _of_address(record: ClaimRecord | PreferRecord, name: str) -> str | None:
    return _strange(record.node) if _is_address(name) else f"{name!r} is not an IP address"


def _planned(record: PlanRecord, _: str) -> str | None:
    nodes = (*record.assignment.values(), *record.participants)
    return next((problem for node in nodes if (problem := _strange(node)) is not None), None)


def _tunable(record: TunableRecord, name: str) -> str | None:
    expected = TUNABLES[name].problem(record.value) if name in TUNABLES else None
    return f"found {record.value:g}; expected {expected}" if expected is not None else None


#: First part of the key → a check of a record of the right shape, given the ``name`` in its key; the check returns the
#: problem or None.
_CHECKS: dict[str, Callable[[Any, str], str | None]] = {
    "node": _configured,
    "number": _names_node,
    "admin": _own,
    "prefer": _of_address,
    "tunable": _tunable,
    "member": _own,
    "beat": _own,
    "health": _own,
    "phase": _phase,
    "leader": _names_node,
    "plan": _planned,
    "claim": _of_address,
}
