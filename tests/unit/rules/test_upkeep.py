"""An address that is held and that the kernel loses or refuses: restored, told to the scripts, given up."""

from __future__ import annotations

import itertools

from locum.rules.effects import DropHold, Effect, Restore, TakeAddress, TakeAgain
from locum.rules.explain import Situation, why_unserved
from locum.rules.node import Adoption, Node
from locum.rules.obstacles import LONGEST_WARNING, MOST_WARNINGS, Obstacles
from locum.rules.upkeep import CALM, LONGEST_RETAKE_PAUSE, RETAKE_PAUSE, TRIES, Upkeep
from locum.rules.view import View
from tests.unit.rules.rig import Cluster

ADDRESS = "10.0.0.1"


class Serving(Cluster):
    """A cluster that serves one address."""

    def __init__(self, *names: str) -> None:
        super().__init__(*names)
        self.run(8.0)


def test_an_address_that_was_removed_is_restored_at_once_and_told_to_the_scripts() -> None:
    cluster = Serving("n1", "n2")
    holder = cluster.holder
    assert holder is not None
    cluster.seen.clear()
    cluster.tell(holder, "address_removed", ADDRESS, "eth0")
    assert cluster.effects(Restore)[0][0] == holder
    cluster.run(1.0)
    assert [name for name, _ in cluster.effects(TakeAgain)] == [holder]
    assert cluster.holder == holder


def test_scripts_that_fail_when_told_again_give_the_address_to_another_node() -> None:
    cluster = Serving("n1", "n2")
    holder = cluster.holder
    assert holder is not None
    cluster.outcome = lambda name, effect: "50.x failed" if name == holder and isinstance(effect, TakeAgain) else ""
    cluster.tell(holder, "address_removed", ADDRESS, "eth0")
    cluster.run(2.0)
    assert cluster.holder not in (None, holder)


def test_an_address_that_the_kernel_refuses_moves_within_a_second_or_two() -> None:
    cluster = Serving("n1", "n2")
    holder = cluster.holder
    assert holder is not None
    cluster.problem = lambda name: "IPv6 is disabled" if name == holder else ""
    cluster.tell(holder, "address_removed", ADDRESS, "eth0")
    cluster.run(2.0)
    assert len(cluster.effects(Restore)) == TRIES
    assert cluster.holder not in (None, holder)


def test_an_address_that_no_kernel_accepts_is_unserved_and_says_why() -> None:
    cluster = Serving("n1")
    cluster.problem = lambda _: "no room for another address"
    cluster.tell("n1", "address_removed", ADDRESS, "eth0")
    cluster.run(2.0)
    assert cluster.holder is None
    view = cluster.nodes["n1"].view
    assert "no room for another address" in why_unserved(Situation.of(view, 1.7e9), ADDRESS)
    cluster.problem = lambda _: ""
    cluster.run(10.0)
    assert cluster.holder == "n1"


def test_a_lifetime_that_cannot_be_renewed_gives_the_address_up_before_it_ends() -> None:
    cluster = Serving("n1", "n2")
    holder = cluster.holder
    assert holder is not None
    for _ in range(TRIES):
        assert cluster.holder == holder
        cluster.tell(holder, "renewal_failed", ADDRESS, "eth0", "no such device")
        cluster.run(0.5)
    cluster.run(1.0)
    assert cluster.holder not in (None, holder)


def test_what_an_agent_adopts_after_its_hold_has_ended_is_dropped_and_taken_anew() -> None:
    """The guard has removed it: what scripts had attached is gone, whatever the notes say, and no renewal may bring the
    address back."""
    cluster = Serving("n1")
    old = cluster.nodes["n1"]
    adoption = Adoption(
        old.status().incarnation,
        cluster.now - 0.1,
        0,
        old.parts.context.last_beat,
        cluster.now - 60.0,
        {ADDRESS: "eth0"},
    )
    cluster.nodes["n1"] = node = Node(old.status().identity, View(), lambda: f"i{cluster.core.revision}", adoption)
    node.view.reset(cluster.core.snapshot(""))
    cluster.seen.clear()
    cluster.run(5.0)
    kinds = [type(effect) for _, effect in cluster.seen]
    assert kinds.index(DropHold) < kinds.index(TakeAddress)
    assert cluster.holder == "n1"


def test_an_agent_that_starts_anew_moves_nothing_before_the_kernel_has_told_its_links() -> None:
    cluster = Serving("n1", "n2")
    holder = cluster.holder
    assert holder is not None
    old = cluster.nodes[holder]
    said = old.view.health[holder].record
    adoption = Adoption(
        old.status().incarnation,
        cluster.now + 1.5,
        0,
        old.parts.context.last_beat,
        cluster.now - 60.0,
        {ADDRESS: "eth0"},
    )
    cluster.nodes[holder] = node = Node(old.status().identity, View(), lambda: f"i{cluster.core.revision}", adoption)
    cluster.tell(holder, "store_read", cluster.core.snapshot(""), 0)
    assert node.status().incarnation == old.status().incarnation
    cluster.tell(holder, "tick")
    assert node.parts.serving.links.down() == said.down == ()
    node.view.reset(cluster.core.snapshot(""))
    assert node.view.health[holder].record == said
    # A link that has gone meanwhile counts as soon as it is told.
    cluster.links[holder] = False
    cluster.run(2.0)
    assert cluster.holder not in (None, holder)


def test_single_failures_far_apart_cost_nothing() -> None:
    cluster = Serving("n1", "n2")
    holder = cluster.holder
    assert holder is not None
    for _ in range(2 * TRIES):
        cluster.tell(holder, "renewal_failed", ADDRESS, "eth0", "no buffer space")
        cluster.run(8.0)
    assert cluster.holder == holder


def test_nothing_is_restored_where_there_is_no_link_until_it_is_back() -> None:
    cluster = Serving("n1")
    cluster.links["n1"] = False
    cluster.tell("n1", "links_changed", {"eth0": False})
    cluster.seen.clear()
    cluster.tell("n1", "address_removed", ADDRESS, "eth0")
    assert not cluster.effects(Restore)
    cluster.links["n1"] = True
    cluster.run(5.0)
    assert cluster.holder == "n1"


def test_a_link_that_was_away_makes_scripts_hear_of_the_addresses_again() -> None:
    """Switching an interface off removes every route through it."""
    cluster = Serving("n1")
    cluster.seen.clear()
    # So short that no plan comes in between.
    cluster.tell("n1", "links_changed", {"eth0": False})
    cluster.tell("n1", "links_changed", {"eth0": True})
    cluster.run(5.0)
    again = [effect for _, effect in cluster.seen if type(effect).__name__ in ("TakeAgain", "TakeAddress")]
    assert again
    assert cluster.holder == "n1"


def test_an_address_that_can_be_neither_removed_nor_muted_keeps_its_claim() -> None:
    cluster = Serving("n1", "n2")
    holder = cluster.holder
    assert holder is not None
    stuck = True

    def fails(name: str, effect: Effect) -> str:
        if stuck and name == holder and type(effect).__name__ == "ReleaseAddress":
            cluster.nodes[name].still_here(ADDRESS, "the kernel does not answer", cluster.now, 1.7e9 + cluster.now)
        return ""

    cluster.outcome = fails
    cluster.tell(holder, "address_unfit", ADDRESS, "eth0", "it does not work")
    cluster.run(5.0)
    assert cluster.holder is None
    assert cluster.nodes[holder].view.claim_holder(ADDRESS) == holder
    stuck = False
    cluster.run(3.0)
    assert cluster.holder not in (None, holder)


def test_a_gate_that_fails_for_half_a_hold_makes_the_node_serve_nothing() -> None:
    cluster = Serving("n1", "n2")
    holder = cluster.holder
    assert holder is not None
    cluster.tell(holder, "gate_changed", "the kernel's gate cannot be armed: no memory")
    cluster.run(0.5)
    assert cluster.holder == holder
    cluster.run(3.0)
    assert cluster.holder not in (None, holder)
    cluster.tell(holder, "gate_changed", "")
    cluster.run(1.0)
    health = cluster.nodes[holder].view.health[holder].record
    assert not health.unable


def test_warnings_are_published_and_bounded() -> None:
    cluster = Serving("n1", "n2")
    cluster.tell("n1", "warnings_changed", "audit", ("eth1 answers for what eth2 has",))
    cluster.run(0.5)
    assert cluster.nodes["n2"].view.health["n1"].record.warnings == ("eth1 answers for what eth2 has",)
    obstacles = Obstacles(2.0)
    obstacles.warn("audit", tuple("x" * 1000 for _ in range(50)))
    assert len(obstacles.warnings()) == MOST_WARNINGS
    assert max(len(text) for text in obstacles.warnings()) == LONGEST_WARNING


def test_scripts_hear_less_often_of_an_address_that_is_removed_again_and_again() -> None:
    upkeep = Upkeep()
    now, told = 0.0, []
    while now < CALM:
        upkeep.lost(ADDRESS, now)
        upkeep.to_restore(now, lambda _: True)
        upkeep.restored(ADDRESS, now)
        if upkeep.retakes_due(now):
            told.append(now)
            upkeep.retaken(ADDRESS, now)
        now += 0.5
    gaps = [after - before for before, after in itertools.pairwise(told)]
    assert gaps[0] == RETAKE_PAUSE
    assert gaps[-1] >= LONGEST_RETAKE_PAUSE
    assert len(told) < 15
