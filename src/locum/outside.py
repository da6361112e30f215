"""Decoding bytes that come from outside: a store, a peer, a file of another program.

Rules of this file: it knows JSON as the only format, and no source of bytes.
"""

from __future__ import annotations

import msgspec

#: The exceptions of decoding arbitrary bytes: malformed JSON, values of the wrong type, text that is not UTF-8, endless
#: numbers, and nesting so deep that the interpreter's stack would overflow (RecursionError).
UNDECODABLE = (msgspec.MsgspecError, ValueError, RecursionError)
