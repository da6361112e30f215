"""Decoding bytes that come from outside: a store, a peer, a file of another program.

Rules of this file: it knows no format but JSON, and no place where bytes come from.
"""

from __future__ import annotations

import msgspec

#: What decoding such bytes can raise, whatever they are: malformed JSON, values of the wrong type, text that is not
#: UTF-8, numbers without end, and nesting so deep that the interpreter's stack would overflow (RecursionError).
UNDECODABLE = (msgspec.MsgspecError, ValueError, RecursionError)
