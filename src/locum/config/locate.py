"""The line of each key in a TOML text, which :mod:`tomllib` does not report.

Rules of this file: it is given a text that tomllib has accepted, and finds keys, nothing else. It never fails on
such a text; a key that it does not find simply has no line.

A key's path is the names that lead to it, with the index of the element where an array of tables or an array is on
the way: ``("address", 1, "interfaces", 0)``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping

Path = tuple[str | int, ...]

_BLANK = " \t\r\n"
_BARE_END = " \t\r\n=.]"
_VALUE_END = ",]}#\n"


def locate(text: str) -> Mapping[Path, int]:
    """The line (from 1) of every table header, key and array element of ``text``, by path."""
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


class _Scanner:
    """One pass over the text. ``at`` is the position, ``line`` the line that it is on."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.line = 1
        self.lines: dict[Path, int] = {}
        self._elements: dict[Path, int] = {}

    def document(self) -> None:
        """Headers and ``key = value`` lines up to the end."""
        prefix: Path = ()
        while self._skip_blank():
            if self._peek("[["):
                self._move(2)
                prefix = self._resolve(self._key(), new_element=True)
                self._skip_to("]]")
                self.lines.setdefault(prefix, self.line)
            elif self._peek("["):
                self._move(1)
                prefix = self._resolve(self._key(), new_element=False)
                self._skip_to("]")
                self.lines.setdefault(prefix, self.line)
            else:
                self._pair(prefix)

    def _resolve(self, names: tuple[str, ...], *, new_element: bool) -> Path:
        """The path of a header: names of arrays of tables are followed by the index of their newest element."""
        path: Path = ()
        for position, name in enumerate(names):
            path = (*path, name)
            last = position == len(names) - 1
            if last and new_element:
                self._elements[path] = self._elements.get(path, -1) + 1
            self.lines.setdefault(path, self.line)
            if path in self._elements:
                path = (*path, self._elements[path])
        return path

    def _pair(self, prefix: Path) -> None:
        line = self.line
        path = prefix + self._key()
        # A dotted key makes the tables on its way.
        for length in range(len(prefix) + 1, len(path) + 1):
            self.lines.setdefault(path[:length], line)
        self._skip_to("=")
        self._skip_blank()
        self._value(path)

    def _key(self) -> tuple[str, ...]:
        names = []
        while self._skip_blank():
            start = self.at
            if self.text[start] in "\"'":
                self._string()
                names.append(_unquote(self.text[start : self.at]))
            else:
                while self.at < len(self.text) and self.text[self.at] not in _BARE_END:
                    self._move(1)
                names.append(self.text[start : self.at])
            self._skip_blank()
            if not self._peek("."):
                break
            self._move(1)
        return tuple(names)

    def _value(self, path: Path) -> None:
        if self._peek("[") or self._peek("{"):
            closing = "]" if self._peek("[") else "}"
            self._move(1)
            index = 0
            while self._skip_blank() and not self._peek(closing):
                if closing == "]":
                    self.lines[(*path, index)] = self.line
                    self._value((*path, index))
                    index += 1
                else:
                    self._pair(path)
                self._skip_blank()
                if self._peek(","):
                    self._move(1)
            self._move(1)
        elif self._peek('"') or self._peek("'"):
            self._string()
        else:
            while self.at < len(self.text) and self.text[self.at] not in _VALUE_END:
                self._move(1)

    def _string(self) -> None:
        """Skip one string of any of the four kinds."""
        quote = self.text[self.at]
        end = quote * 3 if self._peek(quote * 3) else quote
        self._move(len(end))
        while self.at < len(self.text) and not self._peek(end):
            self._move(2 if quote == '"' and self._peek("\\") else 1)
        self._move(len(end))
        # A multi-line string may end with up to two more quotes of its own.
        while len(end) == 3 and self._peek(quote):
            self._move(1)

    def _skip_blank(self) -> bool:
        """Skip space and comments; return whether anything is left."""
        while self.at < len(self.text):
            if self._peek("#"):
                self._skip_to("\n")
            elif self.text[self.at] in _BLANK:
                self._move(1)
            else:
                return True
        return False

    def _skip_to(self, end: str) -> None:
        found = self.text.find(end, self.at)
        self._move((len(self.text) if found < 0 else found + len(end)) - self.at)

    def _peek(self, text: str) -> bool:
        return self.text.startswith(text, self.at)

    def _move(self, count: int) -> None:
        self.line += self.text.count("\n", self.at, self.at + count)
        self.at += count


def _unquote(raw: str) -> str:
    """The string of a quoted key."""
    value = tomllib.loads(f"key = {raw}")["key"]
    return value if isinstance(value, str) else raw
