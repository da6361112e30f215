"""Recognise values that must not be in a bug report, by the names of their keys, and passwords in URLs.

Pure. A path to a secret is not a secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

#: The replacement of a secret.
LEFT_OUT: Final = "(left out)"

_NAME = re.compile(
    r"password|passwd|passphrase|(^|_)(pass|pw|pin)(_|$)|secret|token|credential|(api|access|private)_?key",
    re.IGNORECASE,
)
_IN_URL = re.compile(rb"(?<=://)([^/\s:@\"']*):[^/\s@\"']+(?=@)")


def is_secret(name: str) -> bool:
    """Whether a value under this name is likely to be a secret: ``db_password`` is, ``password_file`` is a path."""
    return not name.endswith(("_file", "_path")) and _NAME.search(name) is not None


def without(value: object) -> object:
    """``value`` (of JSON's types) with texts and numbers under such names replaced."""
    if isinstance(value, Mapping):
        return {
            key: LEFT_OUT if is_secret(str(key)) and holds_text(inner) else without(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [without(inner) for inner in value]
    return value


def holds_text(value: object) -> bool:
    """Whether ``value`` can contain a secret: flags and null cannot."""
    if isinstance(value, list | tuple):
        return any(map(holds_text, value))
    return not isinstance(value, bool | None | Mapping) and value != ""


def without_passwords_in_urls(text: bytes) -> bytes:
    """``text`` with the passwords of ``://user:password@`` removed."""
    return _IN_URL.sub(rb"\1:" + LEFT_OUT.encode(), text)
