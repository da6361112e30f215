"""The links of a node's interfaces: which are up, which are unsteady, which one an address uses.

Rules of this file: interfaces and times; it knows no plan and no claim.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

from locum.rules.context import Context
from locum.rules.damping import Damper, Rule, link_rule
from locum.rules.schema import HostedAddress


class Links:
    """The interfaces for which one node is configured, and the kernel's state of their links."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._interfaces: list[str] = []
        #: Interface → whether it is up, for all interfaces that the kernel knows.
        self.states: dict[str, bool] = {}
        self._dampers: dict[str, Damper] = {}

    def configure(self, hosted: Iterable[HostedAddress]) -> None:
        """Set the configured addresses, at start and at reload."""
        self._interfaces = sorted({name for one in hosted for name in one.interfaces})

    def adopt(self, down: Collection[str]) -> None:
        """After a restart of the agent, use the link states of the node's health until the kernel has reported its own.

        A node that assumed them to be down would lose its addresses to the next plan.
        """
        if not self.states:
            self.states = {name: name not in down for name in self._interfaces}

    def changed(self, states: Mapping[str, bool]) -> set[str]:
        """Set the links' present states; returns the interfaces that were down and are up again."""
        before, self.states = self.states, dict(states)
        rule = self._rule()
        for name in {*before, *states}:
            self._dampers.setdefault(name, Damper()).seen(states.get(name, False), self._context.now, rule)
        return {name for name, up in states.items() if up and before.get(name) is False}

    def up(self, interface: str) -> bool:
        """Whether ``interface`` has a link."""
        return self.states.get(interface, False)

    def down(self) -> tuple[str, ...]:
        """Configured interfaces without link, sorted."""
        states = self.states
        return tuple([name for name in self._interfaces if not states.get(name, False)])

    def unsteady(self) -> tuple[str, ...]:
        """Configured interfaces whose link has returned too recently to count, sorted."""
        now, rule, dampers = self._context.now, self._rule(), self._dampers
        return tuple([name for name in self._interfaces if name in dampers and dampers[name].unsteady(now, rule)])

    def best(self, hosted: HostedAddress) -> str | None:
        """The first configured interface of an address that has link; those with a steady link come first."""
        linked = [name for name in hosted.interfaces if self.up(name)]
        return next((name for name in linked if not self._is_unsteady(name)), linked[0] if linked else None)

    def next_due(self, since: float) -> float:
        """When the next link that was unsteady at ``since`` becomes steady."""
        rule = self._rule()
        return min([damper.next_due(since, rule) for damper in self._dampers.values()], default=math.inf)

    def _is_unsteady(self, name: str) -> bool:
        damper = self._dampers.get(name)
        return damper is not None and damper.unsteady(self._context.now, self._rule())

    def _rule(self) -> Rule:
        return link_rule(self._context.tunables)
