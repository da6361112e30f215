"""Continuous comparison of a node's statements with its kernel.

This file sees the truth and never changes anything. It allows a node the time that its rules need to notice and to act,
counted while its agent runs; after that the two must agree.

- **served**: an address that a node holds is configured, and the kernel lets it speak.
- **told**: scripts know every held address since the kernel last lost it (checked at rest).
- **moves**: a flapping link moves an address a few times and not with each flap. Moves are counted while some node had
  a steady link for the address; without one, a node with a link serves it, at each turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from locum_sim.run_state import RunState
from locum_sim.views import AgentView, MachineView

#: Seconds between two looks, and how long a held address may be missing.
LOOK, PATIENCE = 0.25, 3.0
#: When links flap and nothing else happens, moves of an address are counted within this many seconds.
MOVES_WINDOW = 60.0
#: A bout of flaps costs an address two moves: away with the first loss, and back to balance the nodes when the link has
#: lasted. The first bout of a link may cost two more: its first return counts after the shortest LinkUpDelay, which one
#: turn of the bout may outlast; every later one must last longer than any turn (:meth:`OutsideFaults.flap_link`).
MOVES_OF_BOUT, MOVES_OF_FIRST_BOUT = 2, 4
#: A bout's last move comes within this many seconds after its end: the longest damping, and the scripts.
AFTER_BOUT = 15.0
#: Most seconds from the decision about an address until the node that takes it speaks.
TAKES = 1.0


class Promises:
    """The comparison in one run."""

    def __init__(self, run: RunState, machines: Mapping[str, MachineView]) -> None:
        self._run = run
        self._machines = machines
        # (machine, its agent's number, what) -> since when the two disagree, true time.
        self._since: dict[tuple[str, int, str], float] = {}
        self._lost: dict[tuple[str, str], float] = {}
        self._told: dict[tuple[str, str], float] = {}
        self._holder: dict[str, str] = {}
        self._moves: dict[str, list[float]] = {}
        self._total: dict[str, int] = {}
        # (machine, interface) -> the ends of its bouts of flaps, true time.
        self._bouts: dict[tuple[str, str], list[float]] = {}
        # Address -> when no node had a steady link for it last, true time.
        self._shaky: dict[str, float] = {}
        #: Whether flapping links are the only fault of this run, so that moves can be counted.
        self.only_flaps = False

    def begin(self) -> None:
        """Begin to look."""
        self._run.engine.after(LOOK, self._look)

    # -- served ----------------------------------------------------------------------------------------------

    def _look(self) -> None:
        since: dict[tuple[str, int, str], float] = {}
        now = self._run.engine.now
        for machine in self._machines.values():
            agent = machine.agent
            if agent is None or machine.agent_stopped or not machine.powered:
                continue
            for what, patience in self._disagreements(machine, agent):
                key = (machine.name, agent.serial, what)
                # After a sleep, the time counts from the machine's continuation.
                since[key] = max(self._since.get(key, now), machine.went_on)
                if now - since[key] > patience:
                    self._run.fail("served", f"{machine.name} {what} since {since[key]:.3f}")
        self._since = since
        self.links_changed()
        self._run.engine.after(LOOK, self._look)

    def _disagreements(self, machine: MachineView, agent: AgentView) -> Iterator[tuple[str, float]]:
        status = agent.status()
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

    def lost(self, name: str, address: str) -> None:
        """The kernel of the machine lost ``address``, while no script was changing it."""
        self._lost[name, address] = self._run.engine.now

    def told(self, name: str, address: str) -> None:
        """``takeip`` or ``updateip`` has succeeded on the machine."""
        self._told[name, address] = self._run.engine.now

    def untold(self, name: str, address: str) -> bool:
        """Whether scripts of the machine, which holds ``address``, do not know yet that it came back."""
        key = (name, address)
        return self._lost.get(key, -1.0) > self._told.get(key, -1.0)

    # -- moves -----------------------------------------------------------------------------------------------

    def speaks(self, name: str, address: str) -> None:
        """The machine begins to speak for ``address``."""
        if self._holder.get(address) == name:
            return
        first = address not in self._holder
        self._holder[address] = name
        now = self._run.engine.now
        self.links_changed()
        moves = [when for when in self._moves.get(address, []) if now - when < MOVES_WINDOW]
        counts = not first and now - self._shaky.get(address, -TAKES) >= TAKES
        self._moves[address] = [*moves, now] if counts else moves
        self._total[address] = self._total.get(address, -1) + 1
        if self.only_flaps and len(self._moves[address]) > self._most_moves():
            times = ", ".join(f"{when:.1f}" for when in self._moves[address])
            self._run.fail("moves", f"{address} has moved at {times}, and {self._most_moves()} moves are enough")

    def flaps(self, name: str, interface: str, seconds: float) -> None:
        """A bout of flaps begins on an interface of the machine, which lasts ``seconds``."""
        self._bouts.setdefault((name, interface), []).append(self._run.engine.now + seconds)

    def _most_moves(self) -> int:
        """The most moves of an address that all bouts within the window allow; see :data:`MOVES_OF_BOUT`."""
        begin = self._run.engine.now - MOVES_WINDOW - AFTER_BOUT
        most = 0
        for ends in self._bouts.values():
            recent = sum(end > begin for end in ends)
            if recent:
                most += MOVES_OF_FIRST_BOUT + (recent - 1) * MOVES_OF_BOUT
        return most

    def links_changed(self) -> None:
        """Note the addresses for which no node has a steady link now."""
        if not self.only_flaps:
            return
        steady: set[str] = set()
        everywhere: set[str] = set()
        for machine in self._machines.values():
            agent = machine.agent
            useless = {name for name, up in machine.kernel.links.items() if not up}
            useless.update(agent.status().unsteady if agent is not None else machine.kernel.links)
            for hosted in machine.identity.addresses:
                everywhere.add(hosted.address)
                if not useless.issuperset(hosted.interfaces):
                    steady.add(hosted.address)
        self._shaky |= dict.fromkeys(everywhere - steady, self._run.engine.now)

    def moves(self, address: str) -> int:
        """How often ``address`` has changed its holder so far."""
        return self._total.get(address, 0)
