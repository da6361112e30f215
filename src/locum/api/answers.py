"""What goes over the control socket besides requests: answers, and errors that stay themselves on the way.

Rules of this file: it knows how a result and an error of :mod:`locum.errors` are put into a line and taken out
again, nothing about any operation. ``docs/commands.md`` is the reference of the operations.

An answer is ``{"ok": true, "result": …}`` or ``{"ok": false, "error": "text", "kind": "…"}``; kind ``problems`` has
``subject`` and ``problems`` (a list) as well. A result that may be over comes with ``old`` (a list of reasons) and
``age`` (seconds, or null). A stream is many answers of the first form, ended by
``{"ok": true, "end": true}`` when the server has nothing more to say.
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
    """One line from the server. ``ok`` says which of the other fields count; see the module.

    ``old``: why the result may be over, in words, because the daemon does not hear from the store; empty when it is
    the present. ``age``: how many seconds old it may be then, None when that is not known.
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
    """The answer that carries ``result`` (anything that msgspec encodes), and why it may be over, if it may."""
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
    """The error that an answer with ``ok`` false carries; a kind that is not known is a LocumError."""
    cls = next((cls for cls, name in _KINDS if name == answer.kind), LocumError)
    if issubclass(cls, ProblemsError):
        problems: Sequence[str] = answer.problems or (answer.error,)
        return cls(answer.subject, problems)
    return cls(answer.error or "the daemon refused the request without a reason")
