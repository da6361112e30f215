"""What a node says and what its kernel has, compared all the time.

Rules of this file: it sees the truth and never changes anything. It allows a node as long as its rules take to notice
and to act, counted while its agent runs; after that the two must agree.

- **served**: an address that a node holds is configured, and the kernel lets it speak.
- **told**: scripts have heard of every held address since the kernel last lost it (looked at when all is at rest).
- **moves**: a link that flaps moves an address a few times and not with each flap.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from locum.sim.agent import Agent
    from locum.sim.host import Host
    from locum.sim.world import World

#: Seconds between two looks, and how long an address may be missing where it is held.
LOOK, PATIENCE = 0.25, 3.0
#: As often an address may change its holder within so many seconds when links flap and nothing else happens.
MOST_MOVES, MOVES_WINDOW = 4, 60.0


class Promises:
    """The comparison in one run."""

    def __init__(self, world: World) -> None:
        self._world = world
        # (machine, its agent's number, what) -> since when the two disagree, true time.
        self._since: dict[tuple[str, int, str], float] = {}
        self._lost: dict[tuple[str, str], float] = {}
        self._told: dict[tuple[str, str], float] = {}
        self._holder: dict[str, str] = {}
        self._moves: dict[str, list[float]] = {}
        self._total: dict[str, int] = {}
        #: Whether nothing but links that flap disturbs this run, so that moves can be counted.
        self.only_flaps = False

    def begin(self) -> None:
        """Look from now on."""
        self._world.engine.after(LOOK, self._look)

    # -- served ----------------------------------------------------------------------------------------------

    def _look(self) -> None:
        since: dict[tuple[str, int, str], float] = {}
        now = self._world.engine.now
        for machine in self._world.machines.values():
            agent = machine.agent
            if agent is None or machine.agent_stopped or not machine.powered:
                continue
            for what, patience in self._disagreements(machine, agent):
                key = (machine.name, agent.serial, what)
                # Whatever it sleeps through, it notices after it has gone on.
                since[key] = max(self._since.get(key, now), machine.went_on)
                if now - since[key] > patience:
                    self._world.fail("served", f"{machine.name} {what} since {since[key]:.3f}")
        self._since = since
        self._world.engine.after(LOOK, self._look)

    def _disagreements(self, machine: Host, agent: Agent) -> Iterator[tuple[str, float]]:
        status = agent.node.status()
        if not status.member or status.deadline <= machine.clock.boot():
            return
        kernel = machine.kernel
        for address, interface in status.held.items():
            if status.moving == address or not kernel.links[interface]:
                continue
            if kernel.addresses.get(address, ("", 0.0))[0] != interface:
                yield f"holds {address}, which is not on {interface}", PATIENCE
            elif address not in kernel.held:
                yield f"holds {address}, which is not in the gate's set", PATIENCE
        if status.held and not kernel.open() and not status.unable:
            yield "holds addresses behind a gate that is shut", 1.5 * status.hold + 1.0

    # -- told ------------------------------------------------------------------------------------------------

    def lost(self, machine: Host, address: str) -> None:
        """The kernel of ``machine`` lost ``address``, while no script was at work on it."""
        self._lost[machine.name, address] = self._world.engine.now

    def told(self, machine: Host, address: str) -> None:
        """``takeip`` or ``updateip`` has succeeded."""
        self._told[machine.name, address] = self._world.engine.now

    def untold(self, machine: Host, address: str) -> bool:
        """Whether scripts of the machine, which holds ``address``, must still hear that it came back."""
        key = (machine.name, address)
        return self._lost.get(key, -1.0) > self._told.get(key, -1.0)

    # -- moves -----------------------------------------------------------------------------------------------

    def speaks(self, machine: Host, address: str) -> None:
        """``machine`` begins to speak for ``address``."""
        if self._holder.get(address) == machine.name:
            return
        first = address not in self._holder
        self._holder[address] = machine.name
        now = self._world.engine.now
        moves = [when for when in self._moves.get(address, []) if now - when < MOVES_WINDOW]
        self._moves[address] = moves if first else [*moves, now]
        self._total[address] = self._total.get(address, -1) + 1
        if self.only_flaps and len(self._moves[address]) > MOST_MOVES:
            times = ", ".join(f"{when:.1f}" for when in self._moves[address])
            self._world.fail("moves", f"{address} has moved at {times}")

    def moves(self, address: str) -> int:
        """How often ``address`` has changed its holder so far."""
        return self._total.get(address, 0)
