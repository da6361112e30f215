"""Views for tests: a small cluster that is healthy and settled, to be changed record by record."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from locum.rules import schema
from locum.rules.schema import (
    RECOVERED,
    ClaimRecord,
    HealthRecord,
    HostedAddress,
    LeaderRecord,
    MemberRecord,
    NodeRecord,
    NumberRecord,
    PhaseRecord,
    PlanRecord,
    Record,
)
from locum.rules.view import View
from locum.store.base import Batch, Change, Delete, Operation, Put

#: Unix time in all these tests, in seconds.
WALL = 1_800_000_000.0

A, B, C = "192.0.2.1", "192.0.2.2", "2001:db8::3"
BITS = {A: 24, B: 24, C: 64}


def put(view: View, key: str, record: Record | bytes) -> None:
    """Somebody commits ``record`` at ``key``."""
    value = record if isinstance(record, bytes) else schema.encode(record)
    revision = view.revision + 1
    view.apply(Batch(revision, (Change(key, value, revision),)))


def delete(view: View, *keys: str) -> None:
    """Somebody deletes ``keys`` in one commit."""
    revision = view.revision + 1
    view.apply(Batch(revision, tuple(Change(key, None, revision) for key in keys)))


def commit(view: View, operations: Iterable[Operation]) -> None:
    """The store accepts ``operations``, and the view sees it."""
    revision = view.revision + 1
    changes = [Change(o.key, o.value if isinstance(o, Put) else None, revision) for o in operations]
    view.apply(Batch(revision, tuple(changes)))
    assert all(isinstance(o, Put | Delete) for o in operations)


def hosted(addresses: Sequence[str] = (A, B, C), interfaces: tuple[str, ...] = ("eth1",)) -> tuple[HostedAddress, ...]:
    """Addresses as a node record has them."""
    return tuple(HostedAddress(address, BITS.get(address, 24), interfaces) for address in addresses)


def healthy(node: str, **changes: object) -> HealthRecord:
    """The health record of a node that may serve, with ``changes``."""
    fields: dict[str, object] = {"incarnation": f"{node}-1", "started": True, "earned": True, "healthy": True}
    return HealthRecord(**{**fields, **changes})  # type: ignore[arg-type]


def add_node(view: View, name: str, number: int, addresses: Sequence[str] = (A, B, C)) -> None:
    """A member that is healthy and has followed the plan of epoch 4."""
    put(view, f"node/{name}", NodeRecord(number, f"10.0.0.{number + 1}", hosted(addresses)))
    put(view, f"number/{number}", NumberRecord(name))
    put(view, f"member/{name}", MemberRecord(f"{name}-1", 2.0, 0.03, "host", "0.1.0"))
    put(view, f"health/{name}", healthy(name))
    put(view, f"phase/{name}", PhaseRecord(f"{name}-1", 4, RECOVERED))


def serve(view: View, address: str, node: str, *, serving: bool = True) -> None:
    """``node`` claims ``address``."""
    put(view, f"claim/{address}", ClaimRecord(node, f"{node}-1", "eth1", serving))


def plan(view: View, assignment: dict[str, str], *, epoch: int = 4, prepare: bool = False, cause: str = "") -> None:
    """The leader writes a plan for all members."""
    who = {name: member.record.incarnation for name, member in view.members.items()}
    put(view, "plan", PlanRecord(epoch, assignment, who, cause or "n3 joined", prepare))


def die(view: View, node: str) -> None:
    """``node`` is expired by the leader."""
    claims = [f"claim/{address}" for address, claim in view.claims.items() if claim.record.node == node]
    delete(view, *(f"{kind}/{node}" for kind in ("member", "beat", "health", "phase")), *claims)


def cluster() -> View:
    """Three nodes that host three addresses and serve one each; n1 leads; plan 4 is settled."""
    view = View()
    view.loaded = True
    for number, name in enumerate(("n1", "n2", "n3")):
        add_node(view, name, number)
    put(view, "leader", LeaderRecord("n1", "n1-1"))
    plan(view, {A: "n1", B: "n2", C: "n3"})
    for address, name in ((A, "n1"), (B, "n2"), (C, "n3")):
        serve(view, address, name)
    return view
