"""Whatever a stranger writes to the store, a running node goes on or joins anew: it never ends, and never raises."""

from __future__ import annotations

from random import Random

import pytest

from locum.rules import schema
from locum.rules.node import Stage
from locum.rules.schema import Record
from locum.store.base import Delete
from tests.unit.rules.spoiled import Spoiled, started

NAMES = ("n1", "n2", "ghost", "", "²", "../../etc", "n1/n2", "\x1b[31m", "ｎ1", "x" * 300)
NUMBERS = (0, 1, 2, 7, 500, 999)
ADDRESSES = ("10.0.0.1", "10.0.0.2", "fd00::1", "::ffff:10.0.0.1", "4711", "")
LIVES = ("life", "other", "x" * 40)
DEEP = b'{"incarnation":"a","sequence":1,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
GARBAGE = (b"", b"garbage", b"null", b"[]", b"{}", b"\xff\xfe", b"1e999", DEEP, b'{"node":' + b"9" * 10_000 + b"}")


def value(random: Random, kind: str) -> Record:
    """A record of ``kind`` that decodes, with members of anybody's."""
    name, life, address = random.choice(NAMES), random.choice(LIVES), random.choice(ADDRESSES)
    number, small = random.choice(NUMBERS), random.choice((0.001, 0.3, 2.0, 5.0))
    epoch = random.choice((0, 1, 5, 10**6, 2**62))
    made: dict[str, Record] = {
        "node": schema.NodeRecord(number, name, (), small),
        "number": schema.NumberRecord(name),
        "admin": schema.AdminRecord(False, False, random.choice((0.0, 1.0)), name),
        "prefer": schema.PreferRecord(name),
        "tunable": schema.TunableRecord(small),
        "member": schema.MemberRecord(life, small, small / 10, random.choice(("", "elsewhere", "machine of n1")), name),
        "beat": schema.BeatRecord(life, epoch),
        "health": schema.HealthRecord(life, True, True, True, name, (name,), {address: name}, False, (name,)),
        "phase": schema.PhaseRecord(life, epoch, random.choice(schema.PHASES), name),
        "leader": schema.LeaderRecord(name, life),
        "plan": schema.PlanRecord(epoch, {address: name}, {name: life}, name, random.random() < 0.5),
        "claim": schema.ClaimRecord(name, life, name, True),
        "history": schema.HistoryRecord(life),
        "held": schema.HeldRecord(name),
    }
    return made[kind]


def key(random: Random, kind: str) -> str:
    """A key of ``kind``: a node's, an address's, a number, or something that Locum would not write."""
    if kind in schema.SINGLES:
        return kind
    if kind in ("claim", "prefer"):
        return f"{kind}/{random.choice(ADDRESSES)}"
    if kind == "number":
        return f"number/{random.choice((*NUMBERS, '²', '007', '9' * 5000))}"
    return f"{kind}/{random.choice(('n1', 'n2', 'n1', 'n2', *NAMES))}"


def strike(cluster: Spoiled, random: Random) -> None:
    """Write or delete a few keys."""
    for _ in range(random.choice((1, 2, 2, 4))):
        kind = random.choice(tuple(schema.RECORDS))
        at = key(random, kind)
        chance = random.random()
        if chance < 0.65:
            cluster.put(at, value(random, kind))
        elif chance < 0.85:
            cluster.put(at, random.choice(GARBAGE))
        else:
            cluster.core.commit((), [Delete(at)])


def clean(cluster: Spoiled, known: set[str]) -> None:
    """The stranger's keys go; an admin decides anew about the nodes."""
    for entry in cluster.core.snapshot("").entries:
        kind, name = schema.split_key(entry.key)
        ours = kind in ("claim", "beat", "health", "phase") and name in (*cluster.nodes, "10.0.0.1")
        if entry.key not in known and not ours:
            cluster.core.commit((), [Delete(entry.key)])
    for name in cluster.nodes:
        cluster.put(f"admin/{name}", schema.AdminRecord())


@pytest.mark.parametrize("seed", range(24))
def test_values_of_a_stranger_end_no_node_and_the_cluster_serves_again(seed: int) -> None:
    random = Random(seed)
    cluster = started("n1", "n2")
    known = {entry.key for entry in cluster.core.snapshot("").entries}
    for _ in range(6):
        strike(cluster, random)
        cluster.run(random.choice((0.2, 1.0, 5.0)))
        if random.random() < 0.2:
            cluster.start(random.choice(("n1", "n2")))
        assert all(node.status().stage is not Stage.LEFT for node in cluster.nodes.values())
    clean(cluster, known)
    cluster.run(40.0)
    clean(cluster, known)
    cluster.run(10.0)
    cluster.settled()


def test_a_member_of_another_machine_that_beats_once_ends_nobody() -> None:
    cluster = started("n1", "n2")
    cluster.put("member/n1", schema.MemberRecord("forged", 2.0, 0.1, "elsewhere"))
    for sequence in range(5):
        cluster.put("beat/n1", schema.BeatRecord("forged", sequence))
        cluster.run(0.5)
    cluster.run(15.0)
    cluster.settled()


def test_a_number_that_names_a_ghost_ends_nobody() -> None:
    cluster = started("n1", "n2")
    for number in ("0", "1"):
        cluster.put(f"number/{number}", schema.NumberRecord("ghost"))
    for name in ("n1", "n2"):
        cluster.core.commit((), [Delete(f"member/{name}")])
        cluster.start(name)
    cluster.run(15.0)
    cluster.settled()
