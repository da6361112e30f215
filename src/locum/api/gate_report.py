"""The state of the kernel's gate, for ``locum status`` and ``locum doctor``.

This file only reads. It asks the kernel, so it runs on request, not for every change.
"""

from __future__ import annotations

import msgspec

from locum.api.model import GateReport
from locum.errors import LocumError
from locum.machine.gate.gate import Gate
from locum.node.kernel_calls import KernelCalls

#: Limit for the kernel to answer, in seconds.
LIMIT = 2.0


async def gate_report(gate: Gate | None, calls: KernelCalls) -> GateReport | None:
    """Read the state of ``gate``; None without a gate."""
    if gate is None:
        return None
    try:
        state = await calls.gate.run("asking for the gate's state", LIMIT, gate.state)
    except LocumError as error:
        return GateReport(problem=str(error))
    return msgspec.convert({**state._asdict(), "refused": dict(state.refused)}, GateReport)
