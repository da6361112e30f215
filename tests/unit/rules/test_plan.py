"""States, eligibility and plans: what the leader decides from a view."""

from __future__ import annotations

from locum.config.tunables import Tunables
from locum.rules import schema
from locum.rules.plan import NodeState, hostable, next_plan, node_state
from locum.rules.schema import (
    DIRTY,
    AdminRecord,
    ClaimRecord,
    HealthRecord,
    HostedAddress,
    MemberRecord,
    NodeRecord,
    PhaseRecord,
    PlanRecord,
    PreferRecord,
    Record,
)
from locum.rules.view import View
from locum.store.base import Batch, Change

ADDRESSES = ("10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2")
DEFAULTS = Tunables()


class Cluster:
    """A view that tests write records into."""

    def __init__(self, *nodes: str) -> None:
        self.view = View()
        self._revision = 0
        for number, name in enumerate(nodes):
            hosted = tuple(HostedAddress(a, 24 if "." in a else 64, ("eth0", "eth1")) for a in ADDRESSES)
            self.put(f"node/{name}", NodeRecord(number, "", hosted))
            self.put(f"member/{name}", MemberRecord(f"inc-{name}", 2.0, 0.1))
            self.health(name)

    def put(self, key: str, record: Record) -> None:
        self._revision += 1
        self.view.apply(Batch(self._revision, (Change(key, schema.encode(record), self._revision),)))

    def delete(self, key: str) -> None:
        self._revision += 1
        self.view.apply(Batch(self._revision, (Change(key, None, self._revision),)))

    def health(self, name: str, **fields: object) -> None:
        settings: dict[str, object] = {"started": True, "earned": True, "healthy": True, **fields}
        self.put(f"health/{name}", HealthRecord(f"inc-{name}", **settings))  # type: ignore[arg-type]

    def plan(self, tunables: Tunables = DEFAULTS) -> PlanRecord | None:
        plan = next_plan(self.view, tunables, wall=1000.0)
        if plan is not None:
            self.put("plan", plan)
        return plan

    def assignment(self, tunables: Tunables = DEFAULTS) -> dict[str, str]:
        self.plan(tunables)
        assert self.view.plan is not None
        return self.view.plan.record.assignment


def test_addresses_are_spread_and_a_second_look_changes_nothing() -> None:
    cluster = Cluster("n1", "n2")
    counts = list(cluster.assignment().values())
    assert sorted(counts.count(n) for n in ("n1", "n2")) == [2, 2]
    assert cluster.plan() is None


def test_i6_a_node_without_a_passed_monitor_serves_nothing() -> None:
    cluster = Cluster("n1", "n2")
    cluster.health("n2", earned=False, healthy=False)
    assert set(cluster.assignment().values()) == {"n1"}


def test_i6_even_when_no_node_is_healthy_one_that_never_was_serves_nothing() -> None:
    cluster = Cluster("n1", "n2")
    cluster.health("n1", healthy=False)
    cluster.health("n2", earned=False, healthy=False)
    assert set(cluster.assignment().values()) == {"n1"}


def test_when_no_node_is_healthy_the_tunable_decides() -> None:
    cluster = Cluster("n1")
    cluster.health("n1", healthy=False)
    assert len(cluster.assignment()) == 4
    assert cluster.assignment(Tunables(no_ip_host_on_all_disabled=1)) == {}


def test_an_admins_disable_is_obeyed_even_when_no_other_node_is_there() -> None:
    cluster = Cluster("n1")
    cluster.put("admin/n1", AdminRecord(disabled=True))
    assert cluster.assignment() == {}


def test_health_of_an_earlier_incarnation_counts_for_nothing() -> None:
    cluster = Cluster("n1", "n2")
    cluster.put("member/n2", MemberRecord("new", 2.0, 0.1))
    assert set(cluster.assignment().values()) == {"n1"}


def test_a_stopped_node_takes_no_part() -> None:
    cluster = Cluster("n1", "n2")
    cluster.put("admin/n2", AdminRecord(stopped=True))
    plan = cluster.plan()
    assert plan is not None
    assert set(plan.participants) == {"n1"}


def test_a_ban_ends_with_its_time() -> None:
    cluster = Cluster("n1")
    cluster.put("admin/n1", AdminRecord(banned_until=2000.0))
    assert node_state(cluster.view, "n1", 1999.0) is NodeState.BANNED
    assert node_state(cluster.view, "n1", 2000.0) is NodeState.OK


def test_a_lost_link_costs_only_the_addresses_that_have_no_other_interface() -> None:
    cluster = Cluster("n1", "n2")
    hosted = (HostedAddress("10.0.0.1", 24, ("eth0",)), HostedAddress("10.0.0.2", 24, ("eth0", "eth1")))
    cluster.put("node/n1", NodeRecord(0, "", hosted))
    cluster.health("n1", down=("eth0",))
    assert hostable(cluster.view, DEFAULTS, 1000.0)["n1"] == {"10.0.0.2"}
    assert node_state(cluster.view, "n1", 1000.0) is NodeState.PARTIALLYONLINE


def test_what_a_node_refused_goes_to_another_and_the_plan_says_why() -> None:
    cluster = Cluster("n1", "n2")
    first = cluster.assignment()
    address = next(a for a, n in first.items() if n == "n1")
    cluster.health("n1", refused={address: "takeip: 60.nfs failed"})
    plan = cluster.plan()
    assert plan is not None
    assert plan.assignment[address] == "n2"
    assert address in plan.cause


def test_a_node_that_could_not_take_an_address_keeps_what_it_serves_and_gets_no_others() -> None:
    cluster = Cluster("n1", "n2", "n3")
    first = cluster.assignment()
    for address, node in first.items():
        cluster.put(f"claim/{address}", ClaimRecord(node, f"inc-{node}", "eth0", serving=True))
    served = {a for a, n in first.items() if n == "n2"}
    refused = next(a for a, n in first.items() if n == "n1")
    cluster.health("n2", refused={refused: "takeip: 60.nfs failed"})
    cluster.put("admin/n1", AdminRecord(disabled=True))
    assert {a for a, n in cluster.assignment().items() if n == "n2"} == served


def test_a_node_that_could_not_take_an_address_gets_those_that_nobody_serves_and_nobody_else_can() -> None:
    cluster = Cluster("n1", "n2")
    hosted = tuple(HostedAddress(a, 24, ("eth0",)) for a in ADDRESSES)
    cluster.put("node/n2", NodeRecord(1, "", hosted[1:]))
    alone, refused = ADDRESSES[0], ADDRESSES[1]
    cluster.health("n1", refused={refused: "takeip: 60.nfs failed"})
    able = hostable(cluster.view, DEFAULTS, 1000.0)
    assert able["n1"] == {alone}, "what n2 can be given as well is for n2"
    cluster.put(f"claim/{alone}", ClaimRecord("n2", "inc-n2", "eth0", serving=True))
    assert hostable(cluster.view, DEFAULTS, 1000.0)["n1"] == frozenset(), "somebody serves it"


def test_a_node_that_may_not_claim_yet_gets_nothing_that_another_serves_or_could_serve_at_once() -> None:
    cluster = Cluster("n1", "n2")
    served, free = ADDRESSES[0], ADDRESSES[1]
    cluster.put(f"claim/{served}", ClaimRecord("n1", "inc-n1", "eth0", serving=True))
    cluster.health("n2", waits=True)
    assert hostable(cluster.view, DEFAULTS, 1000.0)["n2"] == frozenset()
    assert set(cluster.assignment().values()) == {"n1"}
    cluster.health("n1", waits=True)
    able = hostable(cluster.view, DEFAULTS, 1000.0)
    assert served not in able["n2"]
    assert free in able["n2"], "where all have to wait, each gets its share at once"


def test_what_a_node_was_given_while_all_waited_stays_its_own_when_another_may_claim_first() -> None:
    cluster = Cluster("n1", "n2")
    for node in ("n1", "n2"):
        cluster.health(node, waits=True)
    plan = cluster.plan()
    assert plan is not None
    cluster.put("plan", plan)
    cluster.health("n1")
    assert cluster.assignment() == plan.assignment


def test_the_only_node_gets_all_but_what_it_could_not_take() -> None:
    cluster = Cluster("n1")
    cluster.health("n1", refused={ADDRESSES[1]: "takeip: 60.nfs failed"})
    assert set(cluster.assignment()) == set(ADDRESSES) - {ADDRESSES[1]}


def test_i3_addresses_that_changed_after_the_plan_had_settled_make_a_new_one() -> None:
    cluster = Cluster("n1", "n2")
    first = cluster.plan()
    assert first is not None
    cluster.put("phase/n1", PhaseRecord("inc-n1", first.epoch, DIRTY, "its hold ended"))
    second = cluster.plan()
    assert second is not None
    assert second.epoch == first.epoch + 1
    assert second.assignment == first.assignment
    assert "its hold ended" in second.cause


def test_a_moved_address_stays_where_the_admin_wants_it_while_that_node_can() -> None:
    cluster = Cluster("n1", "n2")
    cluster.assignment()
    for address in ADDRESSES:
        cluster.put(f"prefer/{address}", PreferRecord("n2"))
    assert set(cluster.assignment().values()) == {"n2"}
    cluster.health("n2", healthy=False)
    assert set(cluster.assignment().values()) == {"n1"}
    cluster.health("n2")
    assert set(cluster.assignment().values()) == {"n2"}


def test_no_failback_leaves_addresses_where_they_are() -> None:
    cluster = Cluster("n1", "n2")
    cluster.health("n2", healthy=False)
    sticky = Tunables(no_ip_failback=1)
    assert set(cluster.assignment(sticky).values()) == {"n1"}
    cluster.health("n2")
    assert set(cluster.assignment(sticky).values()) == {"n1"}
    assert set(cluster.assignment().values()) == {"n1", "n2"}


def test_no_takeover_takes_nothing_and_still_releases() -> None:
    cluster = Cluster("n1", "n2")
    before = cluster.assignment()
    cluster.health("n2", healthy=False)
    after = cluster.assignment(Tunables(no_ip_takeover=1))
    assert after == {a: n for a, n in before.items() if n == "n1"}


def test_the_epoch_grows_even_over_a_plan_that_cannot_be_read() -> None:
    cluster = Cluster("n1")
    cluster.plan()
    cluster.delete("plan")
    plan = next_plan(cluster.view, DEFAULTS, 1000.0, epoch_floor=41)
    assert plan is not None
    assert plan.epoch == 42


def test_preparation_is_asked_for_only_when_a_script_handles_it() -> None:
    cluster = Cluster("n1", "n2")
    first = cluster.plan()
    assert first is not None
    assert not first.prepare
    cluster.health("n2", handles=("monitor", "startipreallocate"), down=("eth0", "eth1"))
    second = cluster.plan()
    assert second is not None
    assert second.prepare
