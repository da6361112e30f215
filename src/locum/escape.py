"""Text from outside, made harmless for a terminal and for a log of lines.

Rules of this file: text in, text out. What is shown or logged by this process has been through here at its last step,
so code that passes a text on need not think of it: names, keys of the store, output of scripts, messages of errors.

What is not printable (Unicode's control and format characters, among them ESC, BEL, CR, NUL, C1, the overrides of the
direction of writing, the separators of lines and paragraphs, surrogates and what is not assigned) becomes ``\\x1b``,
``\\u202e``, ``\\U000e0001``. A text with several lines stays readable and forges none: only a line feed ends a line,
and the lines after the first one are indented.
"""

from __future__ import annotations

#: What the lines after the first one of a text begin with. No line that the daemon begins looks so.
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
    """JSON text as a terminal may have it: RFC 8259 escapes neither C1 nor the direction of writing."""
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
