"""Other clusters in the same store: which of them live, which of two goes, and what is deleted of the dead."""

from __future__ import annotations

from locum.config.model import HOLD_BOUNDS
from locum.machine.gate.lifetimes import margin_without_gate
from locum.rules import schema
from locum.rules.hold import margin_for
from locum.rules.rivals import UNREADABLE_WAIT, Inspection, refusal
from locum.rules.schema import BeatRecord, HostedAddress, MemberRecord, NodeRecord, Record
from locum.store.base import Condition, Entry

HOLD, MARGIN = 2.0, 0.1


class Contents:
    """A store's contents, with the revision of each key."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.revision = 0

    def put(self, key: str, record: Record | bytes) -> None:
        self.revision += 1
        value = record if isinstance(record, bytes) else schema.encode(record)
        self.entries[key] = Entry(key, value, self.revision)

    def node(self, cluster: str, name: str, *addresses: str, member: bool = True) -> None:
        hosted = tuple(HostedAddress(address, 24, ("eth1",)) for address in addresses)
        self.put(f"{cluster}/node/{name}", NodeRecord(1, "", hosted))
        if member:
            self.put(f"{cluster}/member/{name}", MemberRecord(f"of-{name}", HOLD, MARGIN))
            self.beat(cluster, name)

    def beat(self, cluster: str, name: str) -> None:
        self.put(f"{cluster}/beat/{name}", BeatRecord(f"of-{name}", self.revision))

    def all(self) -> tuple[Entry, ...]:
        return tuple(self.entries.values())


def inspection(*addresses: str, node: str = "n9", allowed: tuple[str, ...] = ()) -> Inspection:
    return Inspection("mine", node, addresses, allowed)


def test_a_living_cluster_with_the_same_addresses_is_named_with_them() -> None:
    contents = Contents()
    contents.node("other", "n1", "10.0.0.1", "10.0.0.2")
    contents.node("other", "n2", "10.0.0.9")
    look = inspection("10.0.0.2", "10.0.0.1", "10.0.0.7")
    look.read(contents.all(), 0.0)
    assert look.undecided(0.0)
    contents.beat("other", "n1")
    look.read(contents.all(), 0.3)
    assert not look.undecided(0.3)
    [rival] = look.rivals()
    assert (rival.cluster, rival.nodes, rival.addresses) == ("other", ("n1",), ("10.0.0.1", "10.0.0.2"))
    assert rival.first
    assert look.expiries(0.3) == []
    text = refusal("mine", [rival])
    for part in ("'other'", "'mine'", "10.0.0.1, 10.0.0.2", "n1", "same_addresses_as"):
        assert part in text


def test_other_addresses_other_keys_and_allowed_clusters_are_no_rivals() -> None:
    contents = Contents()
    contents.node("other", "n1", "10.0.0.9")
    contents.node("site-b", "n1", "10.0.0.1")
    contents.put("other.bulk/connections/10.0.0.1", b"{}")
    contents.put("10.0.0.1", b"a key of nobody's")
    look = inspection("10.0.0.1", allowed=("site-b",))
    look.read(contents.all(), 0.0)
    assert not look.undecided(0.0)
    assert look.rivals() == []


def test_node_records_without_a_member_are_what_is_left_of_a_cluster() -> None:
    contents = Contents()
    contents.node("other", "n1", "10.0.0.1", member=False)
    look = inspection("10.0.0.1")
    look.read(contents.all(), 0.0)
    assert not look.undecided(0.0)
    assert look.rivals() == []


def test_i1_a_silent_member_is_dead_only_after_its_hold_and_margin_and_ends_by_the_beat_that_was_seen() -> None:
    contents = Contents()
    contents.node("other", "n1", "10.0.0.1")
    look = inspection("10.0.0.1")
    look.read(contents.all(), 10.0)
    look.read(contents.all(), 12.09)
    assert look.undecided(12.09)
    assert look.expiries(12.09) == []
    look.read(contents.all(), 12.2)
    assert not look.undecided(12.2)
    assert look.rivals() == []
    [(cluster, node, commit)] = look.expiries(12.2)
    assert (cluster, node) == ("other", "n1")
    member, beat = (contents.entries[f"other/{kind}/n1"] for kind in ("member", "beat"))
    assert commit.conditions == (
        Condition("other/member/n1", member.revision),
        Condition("other/beat/n1", beat.revision),
    )
    assert [operation.key for operation in commit.operations] == ["other/member/n1", "other/beat/n1"]


def test_a_member_that_joins_anew_meanwhile_is_waited_for_from_then_on() -> None:
    contents = Contents()
    contents.node("other", "n1", "10.0.0.1")
    look = inspection("10.0.0.1")
    look.read(contents.all(), 10.0)
    contents.node("other", "n1", "10.0.0.1")
    look.read(contents.all(), 12.2)
    assert look.undecided(12.2)
    assert look.expiries(12.2) == []


def test_of_two_living_clusters_the_one_whose_oldest_living_member_joined_first_stays() -> None:
    contents = Contents()
    contents.node("mine", "n9", "10.0.0.1")
    contents.node("other", "n1", "10.0.0.1")
    for own, rest, node, first in (("mine", "other", "n9", False), ("other", "mine", "n1", True)):
        look = Inspection(own, node, ["10.0.0.1"])
        look.read(contents.all(), 0.0)
        contents.beat(rest, "n1" if rest == "other" else "n9")
        look.read(contents.all(), 0.3)
        assert [rival.first for rival in look.rivals()] == [first]


def test_dead_members_of_this_cluster_do_not_make_it_older() -> None:
    """The power failed in a cluster; meanwhile another, misspelt, has taken its addresses."""
    contents = Contents()
    contents.node("mine", "n1", "10.0.0.1")
    contents.node("other", "n1", "10.0.0.1")
    look = inspection("10.0.0.1")
    look.read(contents.all(), 0.0)
    contents.beat("other", "n1")
    look.read(contents.all(), 0.3)
    assert look.undecided(0.3), "this cluster's member may live"
    look.read(contents.all(), 2.2)
    assert not look.undecided(2.2)
    [rival] = look.rivals()
    assert rival.first
    assert look.expiries(2.2) == [], "this cluster's own leader expires its members"


def test_what_cannot_be_read_is_waited_for_and_named_by_nothing() -> None:
    contents = Contents()
    contents.node("other", "n1", "10.0.0.1")
    contents.put("other/member/n1", b"nonsense")
    contents.put("other/node/n2", b"nonsense")
    contents.put("other/member/n2", b"nonsense")
    look = inspection("10.0.0.1")
    look.read(contents.all(), 0.0)
    look.read(contents.all(), 120.0)
    assert look.undecided(120.0)
    look.read(contents.all(), 126.0)
    assert not look.undecided(126.0)
    assert [node for _, node, _ in look.expiries(126.0)] == ["n1"]


def test_i1_a_member_that_cannot_be_read_is_waited_for_as_long_as_any_configuration_may_promise() -> None:
    hold = HOLD_BOUNDS[1]
    assert hold + margin_for(hold) + margin_without_gate(hold) <= UNREADABLE_WAIT
