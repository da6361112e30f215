"""What random seeds found, each as a short history of its own that keeps its meaning."""

from __future__ import annotations

from locum.rules import schema
from locum.rules.admin import AdminRequest
from locum.rules.schema import HostedAddress, PlanRecord
from locum.store.base import Delete, Put
from locum_sim.checks import STRANGER
from locum_sim.convergence import unrest
from locum_sim.faults.draw import WEIGHTS, Faults
from locum_sim.scenario import Scenario, shape_of
from locum_sim.scripts import Trouble
from locum_sim.world import World

#: Seconds within which small undisturbed clusters come to rest.
SOON = 60.0


def scenario(nodes: int, hosts: tuple[int, ...], hold: float = 2.0, seed: int = 1, addresses: int = 1) -> Scenario:
    """A calm cluster: node number ``i`` can host the addresses if ``i`` is among ``hosts``."""
    pool = tuple(HostedAddress(f"10.0.0.{n + 1}", 24, ("eth0",)) for n in range(addresses))
    return shape_of(seed, nodes=nodes, addresses=addresses, hold=hold)._replace(
        holds=(hold,) * nodes,
        hosted=tuple(pool if i in hosts else () for i in range(nodes)),
        interfaces=("eth0",),
        network=(0.0002, 0.002),
        usual=(0.005, 0.1),
        history=10_000,
        tunables={"EventTimeout": 5.0, "MonitorInterval": 3.0},
    )


def at_rest(made: Scenario) -> tuple[World, Faults]:
    """A world that has come to rest, and the faults that can be done to it."""
    world = World(made)
    faults = Faults(world, without=tuple(WEIGHTS))
    world.start()
    rest(world)
    return world, faults


def rest(world: World) -> None:
    """Come to rest, with every address served and every change closed."""
    assert world.run_until(lambda: unrest(world) is None, SOON), unrest(world)


def plan(world: World) -> PlanRecord:
    """The plan in the store."""
    entry = world.store.core.get("plan")
    assert entry is not None
    record = schema.decode("plan", entry.value)
    assert isinstance(record, PlanRecord)
    return record


def test_i3_recovered_waits_for_the_release_of_a_node_that_is_stopped() -> None:
    world, faults = at_rest(scenario(2, hosts=(1,)))
    world.machines["n2"].behaviour.trouble["releaseip"] = Trouble("slow", 1.0)
    faults.admins.command(AdminRequest("stop", node="n2"))
    world.run_for(1.0)
    rest(world)
    assert not world.machines["n2"].kernel.addresses


def test_an_outage_in_which_beats_queue_up_kills_nobody() -> None:
    for hold in (0.25, 0.5, 2.0):
        world, _ = at_rest(scenario(6, hosts=(0, 1), hold=hold))
        for tenths in range(9, 18):
            world.store.up = False
            world.run_for(hold * tenths / 10)
            world.store.start_again()
            rest(world)
            world.run_for(2 * hold)
        assert world.checks.expired == 0


def test_epochs_go_on_over_a_plan_that_nobody_can_read() -> None:
    world, _ = at_rest(scenario(3, hosts=(0, 1, 2)))
    before = plan(world).epoch
    lost = [Delete(f"phase/{name}") for name in world.machines]
    world.store.commit(STRANGER, (), (Put("plan", b"garbage"), *lost))
    for machine in world.machines.values():
        machine.kill_agent()
    world.run_for(1.0)
    rest(world)
    assert plan(world).epoch > before


def test_i1_the_note_of_an_earlier_membership_brings_no_address_back() -> None:
    """A node loses its membership, its agent dies before it has released; it joins anew, and its agent dies again."""
    for moment in range(1, 40):
        world, faults = at_rest(scenario(2, hosts=(0, 1)))
        holder = next(m for m in world.machines.values() if m.kernel.speaks("10.0.0.1"))
        holder.behaviour.trouble["*"] = Trouble("slow", 1.0)
        holder.agent_trap.set(moment, holder.kill_agent)
        world.store.commit(STRANGER, (), (Delete(f"member/{holder.name}"),))
        faults.admins.command(AdminRequest("disable", node=holder.name))
        world.run_for(8.0)
        holder.agent_trap.clear()
        holder.kill_agent()
        world.run_for(1.0)
        holder.behaviour.trouble.clear()
        rest(world)


def test_i1_a_take_that_failed_leaves_no_note_of_an_earlier_one() -> None:
    """The hold runs out; while one address is still being released it comes back, so that another is taken again."""
    for seed in range(6):
        world, _ = at_rest(scenario(2, hosts=(0, 1), seed=seed, addresses=6))
        holder = world.machines["n1"]
        holder.behaviour.trouble["releaseip"] = Trouble("slow", 1.0)
        holder.behaviour.trouble["takeip"] = Trouble("fail", 1.0)
        world.store.up = False
        world.run_for(1.1 * holder.identity.hold)
        world.store.start_again()
        world.run_for(6.0)
        holder.kill_agent()
        world.run_for(2.0)
        holder.behaviour.trouble.clear()
        rest(world)


def test_i2_a_take_whose_agent_was_stopped_in_its_midst_does_not_go_on_without_the_hold() -> None:
    """The agent goes on after the end of its hold, wherever in the take it was stopped, and before it hears of it."""
    for moment in range(15, 65, 4):
        world, faults = at_rest(scenario(2, hosts=(0, 1), seed=moment, addresses=6))
        taker = world.machines["n2"]
        taker.agent_trap.set(moment, lambda taker=taker: taker.freeze(True, False, False))  # type: ignore[misc]
        faults.admins.command(AdminRequest("disable", node="n1"))
        world.run_for(0.2 + 1.2 * taker.identity.hold)
        taker.thaw()
        rest(world)


def test_i1_a_claim_that_a_stranger_spoils_unseen_is_written_anew_by_its_holder() -> None:
    """Everybody reads the store anew and finds garbage: nobody may take it for his, and the holder goes on serving."""
    world, _ = at_rest(scenario(3, hosts=(0, 1, 2)))
    holder = next(m for m in world.machines.values() if m.kernel.speaks("10.0.0.1"))
    for machine in world.machines.values():
        machine.link.cut = [True, True]
    world.store.commit(STRANGER, (), (Put("claim/10.0.0.1", b"garbage"),))
    world.store.core.compact(world.store.core.revision)
    for machine in world.machines.values():
        machine.link.heal()
    world.store.break_watches()
    world.run_for(10.0)
    rest(world)
    assert holder.kernel.speaks("10.0.0.1")


def flap(world: World, name: str, times: int, period: float, up: float) -> None:
    """The link of a node is lost ``times`` times, every ``period`` seconds, and is there for ``up`` seconds of them."""
    machine = world.machines[name]
    for _ in range(times):
        for state, seconds in ((False, period - up), (True, up)):
            machine.kernel.links["eth0"] = state
            if machine.agent is not None:
                machine.agent.links_changed()
            world.run_for(seconds)


def test_a_link_that_is_lost_24_times_a_minute_moves_its_addresses_once_or_twice() -> None:
    for up in (0.4, 1.25, 2.1):
        world, _ = at_rest(scenario(3, hosts=(0, 1, 2), addresses=6))
        mine = [a for a in world.machines["n1"].hosted if world.machines["n1"].kernel.speaks(a)]
        assert mine
        before = {address: world.promises.moves(address) for address in mine}
        flap(world, "n1", 24, 2.5, up)
        assert all(1 <= world.promises.moves(address) - before[address] <= 2 for address in mine)
        assert not any(world.machines["n1"].kernel.speaks(address) for address in mine)
        world.run_for(150.0)
        rest(world)
        assert any(world.machines["n1"].kernel.speaks(a) for a in world.machines["n1"].hosted)


def test_a_link_that_flaps_serves_at_each_turn_what_no_other_node_can_serve() -> None:
    world, _ = at_rest(scenario(2, hosts=(0,)))
    served = 0
    for _ in range(10):
        flap(world, "n1", 1, 2.5, 1.5)
        served += world.machines["n1"].kernel.speaks("10.0.0.1")
    assert served == 10


def test_a_link_that_was_lost_once_is_used_again_soon() -> None:
    world, _ = at_rest(scenario(2, hosts=(0, 1), addresses=4))
    flap(world, "n1", 1, 2.0, 0.1)
    world.run_for(5.0)
    rest(world)
    assert sum(world.machines["n1"].kernel.speaks(a) for a in world.machines["n1"].hosted) == 2


def test_a_node_whose_monitor_alternates_keeps_its_addresses_elsewhere() -> None:
    world, _ = at_rest(scenario(3, hosts=(0, 1, 2), addresses=3))
    machine = world.machines["n1"]
    (mine,) = [a for a in machine.hosted if machine.kernel.speaks(a)]
    before = world.promises.moves(mine)
    for _ in range(10):
        machine.behaviour.trouble["monitor"] = Trouble("fail", 1.0)
        world.run_for(5.0)
        machine.behaviour.trouble.clear()
        world.run_for(10.0)
    assert world.promises.moves(mine) - before <= 4


def test_an_address_that_the_kernel_refuses_is_served_by_another_node() -> None:
    world, _ = at_rest(scenario(3, hosts=(0, 1, 2)))
    holder = next(m for m in world.machines.values() if m.kernel.speaks("10.0.0.1"))
    holder.kernel.refuses.add("10.0.0.1")
    holder.kernel.remove("10.0.0.1")
    world.run_for(3.0)
    assert [m for m in world.machines.values() if m is not holder and m.kernel.speaks("10.0.0.1")]
    holder.kernel.refuses.clear()
    world.run_for(10.0)
    rest(world)


def test_a_node_whose_gate_cannot_be_armed_serves_nothing() -> None:
    world, _ = at_rest(scenario(3, hosts=(0, 1, 2), addresses=6))
    broken = world.machines["n1"]
    broken.kernel.gate_fails = True
    world.run_for(4.0)
    others = [m for m in world.machines.values() if m is not broken]
    assert all(sum(m.kernel.speaks(address) for m in others) == 1 for address in broken.hosted)
    assert world.checks.expired == 0
    broken.kernel.gate_fails = False
    world.run_for(5.0)
    rest(world)
