"""Output of commands: aligned text, and JSON for programs.

This file knows tables, colours and the terminal, but not nodes or addresses. Colours appear only on terminals (not with
NO_COLOR, https://no-color.org) and never carry a meaning alone.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec
from click.exceptions import Exit

from locum import escape

#: Exit status when the reader of the output has gone: 128 plus SIGPIPE's number, as in shells.
BROKEN_PIPE = 141

#: SGR parameters (ECMA-48) of the styles in use.
STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "": ""}

#: Spaces between two columns.
GAP = "  "


class Cell(msgspec.Struct, frozen=True):
    """A piece of text and its style."""

    text: str
    style: str = ""


Content = str | Cell


def clean(text: str) -> str:
    """Return ``text`` on one line, without terminal control characters: it may come from scripts."""
    return escape.one_line(text)


#: What :meth:`Screen.paint` writes.
_PAINT = re.compile("(\x1b\\[(?:0|{})m)".format("|".join(filter(None, STYLES.values()))))


def harmless(line: str) -> str:
    """Return ``line`` without terminal control characters, except our colours: the caller may not have cleaned it."""
    if line.isprintable():
        return line
    parts = _PAINT.split(line)
    parts[::2] = map(escape.paragraph, parts[::2])
    return "".join(parts)


def _cell(content: Content) -> Cell:
    if isinstance(content, Cell):
        return content if content.text.isprintable() else Cell(clean(content.text), content.style)
    return Cell(clean(content))


class Screen(msgspec.Struct, frozen=True):
    """The abilities of the output. ``width`` is None when lines need not fit (not a terminal)."""

    colour: bool = False
    width: int | None = None

    def paint(self, text: str, style: str) -> str:
        """``text`` in ``style``, if there are colours."""
        if not self.colour or not style or not text:
            return text
        return f"\x1b[{STYLES[style]}m{text}\x1b[0m"


def screen() -> Screen:
    """Determine the abilities of standard output."""
    if not sys.stdout.isatty():
        return Screen()
    colour = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    try:
        width = os.get_terminal_size(sys.stdout.fileno()).columns
    except OSError:
        width = 0
    # A terminal that does not know its width reports 0.
    return Screen(colour, width if width >= 20 else None)


def table(heads: Sequence[str], rows: Iterable[Sequence[Content]], on: Screen, right: Iterable[str] = ()) -> list[str]:
    """Lines of a table with aligned columns; the heads in ``right`` and what is below them are aligned right.

    On a terminal the last column is wrapped below itself, so that every line fits.
    """
    cells = [[_cell(content) for content in row] for row in rows]
    head = [Cell(name, "dim") for name in heads]
    widths = [max(len(row[i].text) for row in [head, *cells]) for i in range(len(heads))]
    rights = set(right)
    lines = []
    for row in [head, *cells]:
        parts = []
        for i, cell in enumerate(row[:-1]):
            space = " " * (widths[i] - len(cell.text))
            painted = on.paint(cell.text, cell.style)
            parts.append(space + painted if heads[i] in rights else painted + space)
        before = GAP.join([*parts, ""])
        indent = sum(widths[:-1]) + len(GAP) * (len(heads) - 1)
        last = row[-1]
        if heads[-1] in rights:
            last = Cell(last.text.rjust(widths[-1]), last.style)
        first, *rest = wrap(last.text, indent, on.width) or [""]
        lines.append((before + on.paint(first, last.style)).rstrip())
        lines += [" " * indent + on.paint(line, last.style) for line in rest]
    return lines


def wrap(text: str, indent: int, width: int | None) -> list[str]:
    """``text`` in lines that fit between ``indent`` and ``width``; as one line without a limit."""
    if width is None or indent + len(text) <= width or width - indent < 24:
        return [text]
    import textwrap  # noqa: PLC0415  (only for narrow terminals)

    return textwrap.wrap(text, width - indent)


def facts(pairs: Iterable[tuple[str, Content]], on: Screen) -> list[str]:
    """Lines of names and values, the values aligned; pairs with an empty value are left out."""
    shown = [(name, _cell(value)) for name, value in pairs if value and value != Cell("")]
    width = max((len(name) for name, _ in shown), default=0)
    lines = []
    for name, value in shown:
        first, *rest = wrap(value.text, width + len(GAP), on.width)
        lines.append(on.paint(name.ljust(width), "dim") + GAP + on.paint(first, value.style))
        lines += [" " * (width + len(GAP)) + on.paint(line, value.style) for line in rest]
    return lines


def items(texts: Iterable[str], on: Screen, style: str = "", mark: str = "- ") -> list[str]:
    """Lines of a list, each item wrapped below its own text."""
    lines = []
    for text in texts:
        first, *rest = wrap(clean(text), len(mark), on.width)
        lines.append(on.paint(mark + first, style))
        lines += [on.paint(" " * len(mark) + line, style) for line in rest]
    return lines


def count(number: int, noun: str, plural: str = "") -> str:
    """``1 node``, ``2 nodes``, ``2 addresses``."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def emit(lines: Iterable[str]) -> None:
    """Print ``lines`` in one write."""
    _write("".join(harmless(line) + "\n" for line in lines))


def emit_json(value: object, *, compact: bool = False) -> None:
    """Print ``value`` (or JSON text as bytes) as JSON: indented, or on one line when ``compact``."""
    text = value if isinstance(value, bytes) else msgspec.json.encode(value)
    shaped = text if compact else msgspec.json.format(text, indent=2)
    _write(escape.in_json(shaped.decode()) + "\n")


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone (``| head``): end quietly, also when Python flushes at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise Exit(BROKEN_PIPE) from None


def pick(result: bytes, fields: Sequence[str]) -> bytes:
    """The JSON object ``result`` with only ``fields``, in that order."""
    values: Mapping[str, msgspec.Raw] = msgspec.json.decode(result, type=dict[str, msgspec.Raw])
    return msgspec.json.encode({name: values[name] for name in fields if name in values})


def show_changes(pictures: Iterator[list[str]], on: Screen) -> None:
    """Show each of ``pictures`` (lists of lines) in place of the previous one; below each other without a terminal."""
    if on.width is None:
        for number, lines in enumerate(pictures):
            emit(["", *lines] if number else lines)
        return
    from rich.console import Console  # noqa: PLC0415  (30 ms that only this needs)
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False, screen=False, vertical_overflow="crop") as live:
        for lines in pictures:
            live.update(Text.from_ansi("\n".join(map(harmless, lines))), refresh=True)
