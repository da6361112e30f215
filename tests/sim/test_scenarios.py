"""What random seeds found, each as a short history of its own that keeps its meaning."""

from __future__ import annotations

from locum.cluster import schema
from locum.cluster.admin import AdminRequest
from locum.cluster.schema import HostedAddress, PlanRecord
from locum.sim.checks import STRANGER
from locum.sim.faults import WEIGHTS, Faults
from locum.sim.rest import unrest
from locum.sim.scripts import Trouble
from locum.sim.shape import Shape, shape_of
from locum.sim.world import World
from locum.store.base import Delete, Put

#: Seconds within which small undisturbed clusters come to rest.
SOON = 60.0


def shape(nodes: int, hosts: tuple[int, ...], hold: float = 2.0, seed: int = 1, addresses: int = 1) -> Shape:
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


def at_rest(made: Shape) -> tuple[World, Faults]:
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
    world, faults = at_rest(shape(2, hosts=(1,)))
    world.machines["n2"].behaviour.trouble["releaseip"] = Trouble("slow", 1.0)
    faults.admins.command(AdminRequest("stop", node="n2"))
    world.run_for(1.0)
    rest(world)
    assert not world.machines["n2"].kernel.addresses


def test_an_outage_in_which_beats_queue_up_kills_nobody() -> None:
    for hold in (0.25, 0.5, 2.0):
        world, _ = at_rest(shape(6, hosts=(0, 1), hold=hold))
        for tenths in range(9, 18):
            world.store.up = False
            world.run_for(hold * tenths / 10)
            world.store.start_again()
            rest(world)
            world.run_for(2 * hold)
        assert world.checks.expired == 0


def test_epochs_go_on_over_a_plan_that_nobody_can_read() -> None:
    world, _ = at_rest(shape(3, hosts=(0, 1, 2)))
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
        world, faults = at_rest(shape(2, hosts=(0, 1)))
        holder = next(m for m in world.machines.values() if m.kernel.speaks("10.0.0.1"))
        holder.behaviour.trouble["*"] = Trouble("slow", 1.0)
        holder.set_trap(moment, holder.kill_agent)
        world.store.commit(STRANGER, (), (Delete(f"member/{holder.name}"),))
        faults.admins.command(AdminRequest("disable", node=holder.name))
        world.run_for(8.0)
        holder.trap = 0
        holder.kill_agent()
        world.run_for(1.0)
        holder.behaviour.trouble.clear()
        rest(world)


def test_i1_a_take_that_failed_leaves_no_note_of_an_earlier_one() -> None:
    """The hold runs out; while one address is still being released it comes back, so that another is taken again."""
    for seed in range(6):
        world, _ = at_rest(shape(2, hosts=(0, 1), seed=seed, addresses=6))
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


def test_i1_a_claim_that_a_stranger_spoils_unseen_is_written_anew_by_its_holder() -> None:
    """Everybody reads the store anew and finds garbage: nobody may take it for his, and the holder goes on serving."""
    world, _ = at_rest(shape(3, hosts=(0, 1, 2)))
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
