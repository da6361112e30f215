"""Escapes text from outside for terminals and for logs of lines.

Rules of this file: text in, text out. Everything that this process shows or logs passes through here as its last step,
so code that forwards names, keys of the store, output of scripts or error messages need not consider it.

Non-printable characters (Unicode's control and format characters, among them ESC, BEL, CR, NUL, C1, the overrides of
the writing direction, the separators of lines and paragraphs, surrogates and unassigned ones) become ``\\x1b``,
``\\u202e``, ``\\U000e0001``. A text with several lines stays readable and cannot forge a log line: only a line feed
ends a line, and the lines after the first one are indented.
"""

from __future__ import annotations

#: The indentation of a text's lines after the first one. No log line of the daemon begins with it.
INDENT = "    "


def one_line(text: str) -> str:
    """``text`` on one line: line feeds and tabs become blanks."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " if char in "\n\t" else _code(char) for char in text)


def lines(text: str) -> list[str]:
    """The lines of ``text``, tabs kept; only a line feed ends one (with a carriage return before it or not)."""
    if text.isprintable():
        return [text]
    return [_line(line.removesuffix("\r")) for line in text.removesuffix("\n").split("\n")]


def paragraph(text: str) -> str:
    """``text`` for a log: its first line, and the others indented below it."""
    if text.isprintable():
        return text
    return ("\n" + INDENT).join(lines(text))


def in_json(text: str) -> str:
    """JSON text that is safe for a terminal: RFC 8259 escapes neither C1 nor overrides of the writing direction."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else _units(char) for char in text)


def _line(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\t" else _code(char) for char in text)


def _units(char: str) -> str:
    raw = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{raw[i : i + 2].hex()}" for i in range(0, len(raw), 2))


def _code(char: str) -> str:
    number = ord(char)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
