"""Nodes on a store into which a stranger writes."""

from __future__ import annotations

from locum.rules import schema
from locum.rules.node import Stage
from locum.rules.plan import NodeState, node_state
from locum.rules.schema import Record
from locum.store.base import Put
from tests.unit.rules.rig import Cluster


class Spoiled(Cluster):
    """A cluster in whose store a stranger writes."""

    def __init__(self, *names: str, wall: dict[str, float] | None = None) -> None:
        super().__init__(*names, step=0.1, wall=wall)

    def put(self, key: str, value: bytes | Record) -> None:
        """A stranger (or an admin) writes."""
        raw = value if isinstance(value, bytes) else schema.encode(value)
        self.core.commit((), [Put(key, raw)])

    def get(self, key: str) -> Record | None:
        """What the store has."""
        entry = self.core.get(key)
        return schema.decode(key, entry.value) if entry is not None else None

    def state(self, seen_by: str, node: str) -> NodeState:
        """The state of ``node`` as another sees it."""
        return node_state(self.nodes[seen_by].view, node, self.wall_of(seen_by))

    def settled(self) -> None:
        """Everybody is a member, one node serves the address, nothing is unreadable."""
        for name, node in self.nodes.items():
            assert node.status().stage is Stage.MEMBER, name
            assert node.parts.hold.valid(self.now), name
            assert not node.view.corrupt, node.view.corrupt
        assert len({node.view.leader.record.node for node in self.nodes.values() if node.view.leader}) == 1
        assert [n for n, node in self.nodes.items() if node.parts.serving.local] == [self.server()]

    def server(self) -> str:
        """The node that serves the address."""
        (server,) = self.held().values()
        return server


def started(*names: str, wall: dict[str, float] | None = None) -> Spoiled:
    """A cluster that serves."""
    cluster = Spoiled(*names, wall=wall)
    cluster.run(8.0)
    cluster.settled()
    return cluster
