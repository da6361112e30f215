"""An admin command on a view of a cluster: what it did, or why it was refused."""

from __future__ import annotations

import pytest

from locum.errors import UsageError
from locum.rules.admin import AdminChange, parse_request, plan_command
from locum.rules.plan import NodeState, node_state
from locum.rules.view import View
from tests.unit.api.views import WALL, commit


def run(view: View, command: str, **fields: object) -> AdminChange:
    request = parse_request({"op": "admin", "command": command, **fields})
    return plan_command(view, request, local="n2", wall=WALL)


def done(view: View, command: str, **fields: object) -> AdminChange:
    """Run it and have the store accept it."""
    change = run(view, command, **fields)
    assert all(view.condition(c.key) == c for c in change.conditions), "the conditions hold in the view"
    commit(view, change.operations)
    return change


def refused(view: View, command: str, **fields: object) -> str:
    with pytest.raises(UsageError) as caught:
        run(view, command, **fields)
    return str(caught.value)


def state(view: View, node: str) -> NodeState:
    return node_state(view, node, WALL)
