"""A machine and its processes as the observers of a run see them: nothing here can be changed or called to an effect.

The observers (:mod:`locum_sim.observers`) know machines only in this form, and :class:`locum_sim.host.Host` has it.
"""

from __future__ import annotations

from typing import Protocol

from locum.node.guard.hold_page import HoldPage
from locum.rules.identity import Identity
from locum.rules.status import NodeStatus
from locum_sim.clocks import MachineClock
from locum_sim.simulated_kernel import Kernel


class AgentView(Protocol):
    """An agent that is at work."""

    @property
    def serial(self) -> int:
        """Its process id: another agent of the machine has another."""

    @property
    def turns(self) -> int:
        """How many callbacks of its event loop have begun."""

    def status(self) -> NodeStatus:
        """The node's statement about itself."""


class GuardView(Protocol):
    """A guard."""

    @property
    def watches_since(self) -> float | None:
        """Since when its loop has run without being stopped, true time; inf while it is stopped, None: it does not
        watch."""


class MachineView(Protocol):
    """One machine. Times are true times, unless they say otherwise."""

    @property
    def name(self) -> str:
        """The name of the machine and of its node."""

    @property
    def identity(self) -> Identity:
        """The configuration that is in force in the agent."""

    @property
    def clock(self) -> MachineClock:
        """Its clocks."""

    @property
    def kernel(self) -> Kernel:
        """Its kernel."""

    @property
    def page(self) -> HoldPage:
        """The page that agent and guard share."""

    @property
    def powered(self) -> bool:
        """Whether it is switched on."""

    @property
    def agent(self) -> AgentView | None:
        """The agent, if one is at work."""

    @property
    def guard(self) -> GuardView | None:
        """The guard, if one runs."""

    @property
    def process(self) -> object | None:
        """The agent's process, from its fork on; the same object as long as the process is the same."""

    @property
    def running(self) -> bool:
        """Whether the agent is there and may run."""

    @property
    def agent_stopped(self) -> bool:
        """Whether the agent is stopped (SIGSTOP, suspend)."""

    @property
    def guard_stopped(self) -> bool:
        """Whether the guard is stopped."""

    @property
    def went_on(self) -> float:
        """When the agent's process went on after having been stopped."""

    @property
    def removal_works_since(self) -> float:
        """Since when the guard's removals of addresses succeed."""

    @property
    def last_look(self) -> tuple[int, float]:
        """When the agent last looked at CLOCK_BOOTTIME: in which turn of its loop, and the time that it saw."""
