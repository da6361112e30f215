"""How long an address may be unserved, fault by fault; and by how much the machine was late."""

from __future__ import annotations

from locum.clock import boottime
from locum.config.tunables import Tunables
from locum_lab.torture import bounds, machine
from locum_lab.torture.schedule import Act, Round, Shape

SHAPE = Shape(("n1", "n2", "n3"), ("10.77.0.2", "fd77::2"), "embedded-file", hold=2.0)


def round_of(*acts: Act, fit: tuple[str, ...] = ("n3",), disturbed: bool = False) -> Round:
    return Round(0, acts, fit, disturbed)


def standing(storm: Round, election: float = 0.0) -> float:
    return round(bounds.standing(storm, SHAPE, slack=5.0, election=election).seconds, 3)


def healed(storm: Round) -> float:
    return round(bounds.healed(storm, SHAPE, slack=5.0, election=0.0).seconds, 3)


def test_a_silent_host_costs_the_hold() -> None:
    assert standing(round_of(Act(0, "freeze", "n1", None))) == 7.1


def test_a_store_that_was_away_costs_another_hold_and_etcd_its_elections() -> None:
    assert standing(round_of(Act(0, "freeze-store", "n1", 1.0), disturbed=True)) == 9.2
    assert standing(round_of(Act(0, "kill-etcd", "n1", 1.0), disturbed=True), election=0.5) == 10.2


def test_hanging_scripts_cost_their_time_limits() -> None:
    assert standing(round_of(Act(0, "hang-script", "n1", None, detail="releaseip"))) == 7.1 + 2 * 4
    both = (Act(0, "hang-script", "n1", 1.0, detail="releaseip"), Act(3, "hang-script", "n2", None, detail="takeip"))
    assert standing(round_of(*both)) == 7.1 + 2 * 2 * 4
    assert standing(round_of(Act(0, "hang-script", "n1", None, detail="recovered"))) == 7.1 + 4
    assert standing(round_of(Act(0, "fail-script", "n1", None, detail="releaseip"))) == 7.1


def test_announcements_that_nobody_hears_cost_the_age_of_an_entry() -> None:
    assert standing(round_of(Act(0, "mute-public", "n1", 2.0))) == 7.1 + 53
    assert standing(round_of(Act(0, "deaf-public", "n1", 2.0))) == 7.1


def test_what_only_monitor_finds_costs_its_interval_and_limit() -> None:
    assert standing(round_of(Act(0, "hang", "n1", None))) == 7.1 + 3 + 5
    assert standing(round_of(Act(0, "hang-script", "n1", None, detail="monitor"))) == 7.1 + 3 + 5


def test_after_healing_daemons_start_and_more_when_nobody_was_well() -> None:
    assert healed(round_of(Act(0, "kill-all", "n1", None))) == 17.1
    assert healed(round_of(Act(0, "kill-all", "n1", None), fit=())) == 17.1 + 8
    assert healed(round_of(Act(0, "fail-script", "n1", None, detail="startup"), fit=())) == 17.1 + 8 + 30
    assert healed(round_of(Act(0, "fail-script", "n1", None, detail="recovered"), fit=())) == 17.1 + 8 + 10


def test_a_node_that_is_damped_may_delay_the_settling() -> None:
    gone_back = Round(0, (), (), True, went_back=True)
    assert bounds.settled(gone_back) == bounds.SETTLED + Tunables().damping_longest
    assert bounds.settled(round_of()) > 5 * bounds.longest("DampingLongest")
    assert bounds.longest("DampingLongest") >= max(bounds.longest("HealthyDelay"), bounds.longest("LinkUpDelay"))


def test_parts_are_named() -> None:
    assert (
        bounds.standing(round_of(), SHAPE, slack=5.0, election=0.0).words() == "7.1 s = hold and margin 2.1 + slack 5.0"
    )


def test_waiting_is_counted_between_two_moments() -> None:
    start = boottime()
    with machine.Lateness() as late:
        assert late.known
        while boottime() < start + 0.3:
            pass
        end = boottime()
        found = late.between(start, end)
    assert 0.0 <= found <= end - start + 0.5
    assert late.between(end, start) == 0.0
