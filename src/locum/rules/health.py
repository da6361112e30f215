"""A member's report to the others: its ``health/`` record, written when it changes.

Rules of this file: it collects the reports of the parts and decides nothing. :mod:`locum.rules.plan` draws the
conclusions from a record.
"""

from __future__ import annotations

from locum.rules.commit_kinds import WriteHealth
from locum.rules.parts import Parts
from locum.rules.schema import HealthRecord


class Health:
    """The health record of one node."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        #: The events for which this node has scripts.
        self.handles: tuple[str, ...] = ()

    def step(self) -> None:
        """Write the record if the store's differs."""
        context, view, truth = self._parts.context, self._parts.view, self._record()
        key, known = f"health/{context.name}", view.health.get(context.name)
        if known is None or known.record != truth or key in view.corrupt:
            self._parts.commits.write(WriteHealth(), key, truth, [view.condition(f"member/{context.name}")])

    def _record(self) -> HealthRecord:
        parts = self._parts
        monitoring, serving = parts.monitoring, parts.serving
        warnings = [text for text in (parts.identity.warning, parts.history.warning()) if text]
        return HealthRecord(
            incarnation=parts.context.incarnation,
            started=monitoring.started and monitoring.judged,
            earned=monitoring.earned,
            healthy=monitoring.healthy,
            reason=monitoring.reason,
            down=serving.links.down(),
            refused=serving.refusals.reasons(),
            occupied={**serving.refusals.occupied(), **parts.lookout.occupied(serving.hosted)},
            leaving=parts.leaving.asked,
            handles=self.handles,
            warning="; ".join(warnings),
            unable=parts.obstacles.unable(parts.context.now),
            unsteady=serving.links.unsteady(),
            settling=monitoring.settling(),
            warnings=parts.obstacles.warnings(),
            waits=not parts.history.may_begin(),
        )
