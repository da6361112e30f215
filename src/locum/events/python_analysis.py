"""Finds the event functions of a Python script in its syntax tree, without running it.

Rules of this file: it executes nothing of the script. A name counts as handled when the module's top level binds
it: by ``def``, by assignment or by import; other ways (``globals()[...]``) are not detected.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

from locum.events.model import ARGUMENTS, Event

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def analyse_python(content: bytes, path: str) -> tuple[tuple[str, ...] | None, tuple[str, ...], tuple[str, ...]]:
    """The events handled (None: any), the problems that make the script unusable, and remarks."""
    try:
        tree = ast.parse(content, path)
    except SyntaxError as error:
        return None, (f"Python syntax error in line {error.lineno}: {error.msg}",), ()
    except (ValueError, RecursionError, MemoryError) as error:
        return None, (f"Python cannot compile it: {error}",), ()
    names = _Names()
    names.collect(tree.body)
    events = tuple(event.value for event in Event if event.value in names.bound)
    found = (_signature_remark(event, names.functions.get(event.value)) for event in Event)
    remarks = tuple(remark for remark in found if remark)
    if names.anything:
        return None, (), remarks
    if not events:
        remarks += (f"defines no function for any event ({', '.join(Event)})",)
    return events, (), remarks


class _Names:
    """The names that a module's top level binds; function and class bodies are not entered."""

    def __init__(self) -> None:
        self.bound: set[str] = set()
        self.functions: dict[str, _Function] = {}
        #: Set by ``from x import *``: then any name may be bound.
        self.anything = False

    def collect(self, statements: Sequence[ast.AST]) -> None:
        for statement in statements:
            if isinstance(statement, _Function):
                self.bound.add(statement.name)
                self.functions[statement.name] = statement
            elif isinstance(statement, ast.ClassDef):
                self.bound.add(statement.name)
            elif isinstance(statement, ast.Import | ast.ImportFrom):
                for alias in statement.names:
                    self.anything = self.anything or alias.name == "*"
                    self.bound.add((alias.asname or alias.name).split(".")[0])
            elif isinstance(statement, ast.Assign | ast.AnnAssign):
                self._collect_targets(statement)
            else:
                self._collect_compound(statement)

    def _collect_targets(self, assignment: ast.Assign | ast.AnnAssign) -> None:
        for node in ast.walk(assignment):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                self.bound.add(node.id)
                self.functions.pop(node.id, None)

    def _collect_compound(self, statement: ast.AST) -> None:
        """Enter ``if``, ``try``, ``with``, ``for``, ``match``: what they bind, they bind at the top level."""
        for field in ("body", "orelse", "finalbody"):
            self.collect(getattr(statement, field, []))
        for field in ("handlers", "cases"):
            for part in getattr(statement, field, []):
                self.collect(part.body)


def _signature_remark(event: Event, function: _Function | None) -> str | None:
    """Report a function that cannot be called with its event's arguments."""
    if function is None or function.decorator_list:
        return None
    if isinstance(function, ast.AsyncFunctionDef):
        return f"line {function.lineno}: {event} is an async function, which would never run: use def"
    given = ARGUMENTS.get(event, ())
    arguments = function.args
    positional = len(arguments.posonlyargs) + len(arguments.args)
    required = positional - len(arguments.defaults)
    keyword_only = any(default is None for default in arguments.kw_defaults)
    if not keyword_only and required <= len(given) and (arguments.vararg or len(given) <= positional):
        return None
    return (
        f"line {function.lineno}: {event}({ast.unparse(arguments)}) cannot be called with the event's arguments"
        f" ({', '.join(given)})"
    )
