"""I2: the next holder takes an address only after the last one has released it, or after its hold has ended."""

from __future__ import annotations

from locum.rules.effects import ReleaseAddress, TakeAddress
from locum.rules.schema import AdminRecord, ClaimRecord, decode, encode
from locum.store.base import Put
from tests.unit.rules.rig import Cluster
from tests.unit.rules.test_upkeep import ADDRESS, Serving

#: Seconds. The second is what others add to the first before they count it as over.
HOLD, MARGIN = 2.0, 0.034


def claimed_by(cluster: Cluster) -> str | None:
    """The node whose claim on the address is in the store."""
    key = f"claim/{ADDRESS}"
    entries = [entry for entry in cluster.core.snapshot("claim/").entries if entry.key == key]
    if not entries:
        return None
    record = decode(key, entries[0].value)
    assert isinstance(record, ClaimRecord)
    return record.node


def takes(cluster: Cluster) -> list[str]:
    """The nodes that were asked to take the address, in this order."""
    return [name for name, _ in cluster.effects(TakeAddress)]


def test_i2_nothing_is_taken_while_the_release_goes_on_however_long() -> None:
    cluster = Serving("n1", "n2")
    old = cluster.holder
    assert old is not None
    new = "n2" if old == "n1" else "n1"
    cluster.seen.clear()
    cluster.outcome = lambda _, effect: None if isinstance(effect, ReleaseAddress) else ""
    cluster.core.commit((), (Put(f"admin/{old}", encode(AdminRecord(disabled=True))),))
    cluster.run(20 * HOLD)
    release = [effect for name, effect in cluster.effects(ReleaseAddress) if name == old]
    assert len(release) == 1
    assert takes(cluster) == []
    assert claimed_by(cluster) == old
    assert isinstance(release[0], ReleaseAddress)
    cluster.tell(old, "activity_done", release[0].request, True, "")
    cluster.run(1.0)
    assert takes(cluster) == [new]
    assert claimed_by(cluster) == new


def test_i2_the_address_of_a_silent_holder_is_taken_after_its_hold_and_margin_and_not_before() -> None:
    cluster = Serving("n1", "n2")
    old = cluster.holder
    assert old is not None
    new = "n2" if old == "n1" else "n1"
    cluster.seen.clear()
    deadline = cluster.nodes[old].status().deadline
    cluster.frozen = {old}
    while claimed_by(cluster) == old:
        assert takes(cluster) == []
        began = cluster.now
        assert began < deadline + 10 * HOLD, "never expired"
        cluster.run(0.002, step=0.002)
    assert began >= deadline + MARGIN
    cluster.run(1.0)
    assert takes(cluster) == [new]
