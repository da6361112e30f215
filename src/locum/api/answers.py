"""Answers on the control socket, and errors that keep their class on the way.

This file converts a result or an error of :mod:`locum.errors` to a line and back. It knows no operation;
``docs/commands.md`` is their reference.

An answer is ``{"ok": true, "result": …}`` or ``{"ok": false, "error": "text", "kind": "…"}``; kind ``problems`` also
has ``subject`` and ``problems`` (a list). A result that may be outdated has ``old`` (a list of reasons) and ``age``
(seconds, or null). A stream is many answers of the first form; ``{"ok": true, "end": true}`` ends it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from locum.errors import (
    ConfigError,
    LocumError,
    PermissionRequired,
    ProblemsError,
    ProtocolError,
    ScriptDirectoryError,
    StoreError,
    StoreUnavailable,
    UsageError,
)

#: Errors and their kinds on the wire; the first class that an error is an instance of gives its kind.
_KINDS: tuple[tuple[type[LocumError], str], ...] = (
    (ConfigError, "config"),
    (ScriptDirectoryError, "scripts"),
    (ProblemsError, "problems"),
    (UsageError, "usage"),
    (PermissionRequired, "permission"),
    (StoreUnavailable, "unavailable"),
    (StoreError, "store"),
    (ProtocolError, "protocol"),
    (LocumError, "error"),
)


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line from the server. ``ok`` decides which other fields count; see the module.

    ``old``: why the result may be outdated, because the daemon has no contact with the store; empty for a current
    result. ``age``: its age in seconds, None when unknown.
    """

    ok: bool = False
    result: msgspec.Raw = msgspec.Raw(b"null")
    old: tuple[str, ...] = ()
    age: float | None = None
    end: bool = False
    error: str = ""
    kind: str = "error"
    subject: str = ""
    problems: tuple[str, ...] = ()


def success(result: object, old: Sequence[str] = (), age: float | None = None) -> Mapping[str, object]:
    """The answer with ``result`` (anything that msgspec encodes), and why it may be outdated, if so."""
    answer: dict[str, object] = {"ok": True, "result": result}
    if old:
        answer |= {"old": list(old), "age": age}
    return answer


#: Ends a stream.
END: Mapping[str, object] = {"ok": True, "end": True}


def failure(error: LocumError) -> Mapping[str, object]:
    """The answer that makes the client raise ``error`` again."""
    kind = next(name for cls, name in _KINDS if isinstance(error, cls))
    answer: dict[str, object] = {"ok": False, "error": str(error), "kind": kind}
    if isinstance(error, ProblemsError):
        answer["subject"] = error.subject
        answer["problems"] = list(error.problems)
    return answer


def error_of(answer: Answer) -> LocumError:
    """The error in an answer with ``ok`` false; an unknown kind is a LocumError."""
    cls = next((cls for cls, name in _KINDS if name == answer.kind), LocumError)
    if issubclass(cls, ProblemsError):
        problems: Sequence[str] = answer.problems or (answer.error,)
        return cls(answer.subject, problems)
    return cls(answer.error or "the daemon refused the request without a reason")
