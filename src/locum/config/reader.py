"""Reads a table of the configuration and collects all of its problems.

Rules of this file: it knows tables, keys, lines and types, but no key of the configuration. A :class:`Reader` takes one
key after the other; a wrong value becomes a problem and reads as absent, so that the rest is checked nevertheless.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TypeGuard, TypeVar

from locum.config.locate import Path, locate
from locum.config.values import BadValue

S = TypeVar("S")
T = TypeVar("T")

#: Longest shown form of a found value.
_SHOWN = 60


class Problems:
    """The problems of one configuration file, in the order of its lines."""

    def __init__(self, source: str, text: str) -> None:
        self.source = source
        self._text = text
        self._found: list[tuple[int, str]] = []

    @cached_property
    def _lines(self) -> Mapping[Path, int]:
        # Needed only for problems: a good file is loaded without it.
        return locate(self._text)

    def add(self, path: Path, text: str) -> None:
        """Record the problem ``text`` of the key at ``path``."""
        line = self.line(path)
        self._found.append((line, f"{self.place(path)}: {dotted(path)}: {text}"))

    def add_elsewhere(self, path: Path, lines: Sequence[str]) -> None:
        """Record problems of a file that the key at ``path`` (or its default) names; each has its own place."""
        self._found += [(self.line(path), text) for text in lines]

    def line(self, path: Path) -> int:
        """The line of ``path``, or of the nearest table around it; 0 when there is none."""
        while path:
            if path in self._lines:
                return self._lines[path]
            path = path[:-1]
        return 0

    def place(self, path: Path) -> str:
        """``file:line`` of ``path``, or ``file`` when it has no line."""
        line = self.line(path)
        return f"{self.source}:{line}" if line else self.source

    def texts(self) -> tuple[str, ...]:
        """All problems, one line each."""
        return tuple(text for _, text in sorted(self._found, key=lambda problem: problem[0]))


class Reader:
    """One table. Every ``take`` function returns None when the key is absent or its value is wrong."""

    def __init__(self, problems: Problems, path: Path, data: Mapping[str, object]) -> None:
        self.problems = problems
        self.path = path
        self._data = data
        self._known: list[str] = []
        self._tables: list[Reader] = []

    def has(self, key: str) -> bool:
        """Whether the file has ``key`` in this table, with any value."""
        return key in self._data

    def wrong(self, key: str, expected: str) -> None:
        """Record that the value of ``key`` is wrong."""
        self.problems.add((*self.path, key), f"found {shown(self._data.get(key))}; expected {expected}")

    def table(self, key: str) -> Reader:
        """The table at ``key``; an empty one when it is absent or not a table."""
        self._known.append(key)
        value = self._data.get(key, {})
        if not isinstance(value, dict):
            self.wrong(key, f"a table, [{dotted((*self.path, key))}]")
            value = {}
        return self._below((*self.path, key), value)

    def tables(self, key: str) -> list[Reader]:
        """The elements of the array of tables at ``key``."""
        self._known.append(key)
        value = self._data.get(key, [])
        if not isinstance(value, list) or not all(isinstance(element, dict) for element in value):
            self.wrong(key, f"tables, [[{dotted((*self.path, key))}]]")
            return []
        return [self._below((*self.path, key, index), element) for index, element in enumerate(value)]

    def _below(self, path: Path, data: Mapping[str, object]) -> Reader:
        table = Reader(self.problems, path, data)
        self._tables.append(table)
        return table

    def items(self) -> list[tuple[str, object]]:
        """Every key and value, for a table whose keys are free."""
        self._known.extend(self._data)
        return list(self._data.items())

    def text(self, key: str, check: Callable[[str], T], *, required: str = "") -> T | None:
        """The string at ``key``, as ``check`` returns it.

        ``required``, unless empty, describes the expected value of a mandatory key.
        """
        return self._checked(key, self._value(key, _is_text, "a string in quotes", required), check)

    def choice(self, key: str, choices: Sequence[T]) -> T | None:
        """One of ``choices``, which are strings."""

        def check(value: str) -> T:
            for known in choices:
                if value == known:
                    return known
            raise BadValue(" or ".join(f'"{known}"' for known in choices))

        return self.text(key, check)

    def number(self, key: str, minimum: float, maximum: float, unit: str) -> float | None:
        """A number, whole or not, between two bounds that are both included."""

        def is_good(value: object) -> TypeGuard[int | float]:
            # Written so that "not a number" fails as well.
            return is_number(value) and minimum <= value <= maximum

        value = self._value(key, is_good, f"a number of {unit} from {minimum:g} to {maximum:g}")
        return None if value is None else float(value)

    def integer(self, key: str, minimum: int, maximum: int) -> int | None:
        """A whole number between two bounds that are both included."""

        def is_good(value: object) -> TypeGuard[int]:
            return _is_whole(value, minimum, maximum)

        return self._value(key, is_good, f"a whole number from {minimum} to {maximum}")

    def flag(self, key: str) -> bool | None:
        """``true`` or ``false``."""
        return self._value(key, _is_flag, "true or false")

    def texts(self, key: str, check: Callable[[list[str]], T], *, required: str = "") -> T | None:
        """A list of strings, as ``check`` returns it; ``required`` as for :meth:`text`."""
        value = self._value(key, _is_texts, 'a list of strings, ["...", "..."]', required)
        return self._checked(key, value, check)

    def integers(self, key: str, minimum: int, maximum: int) -> tuple[int, ...] | None:
        """A list of whole numbers between two bounds that are both included; sorted, each once."""

        def is_good(value: object) -> TypeGuard[list[int]]:
            return isinstance(value, list) and all(_is_whole(element, minimum, maximum) for element in value)

        value = self._value(key, is_good, f"a list of whole numbers from {minimum} to {maximum}")
        return None if value is None else tuple(sorted(set(value)))

    def _value(
        self, key: str, is_good: Callable[[object], TypeGuard[T]], expected: str, required: str = ""
    ) -> T | None:
        self._known.append(key)
        if key not in self._data:
            if required:
                self.problems.add((*self.path, key), f"missing; expected {required}")
            return None
        value = self._data[key]
        if is_good(value):
            return value
        self.wrong(key, expected)
        return None

    def _checked(self, key: str, value: S | None, check: Callable[[S], T]) -> T | None:
        try:
            return None if value is None else check(value)
        except BadValue as error:
            self.wrong(key, str(error))
            return None

    def finish(self) -> None:
        """Record every unknown key, with the nearest known one, here and in the tables below."""
        for table in self._tables:
            table.finish()
        for key in self._data:
            if key not in self._known:
                self.problems.add((*self.path, key), f"no such key{suggestion(key, self._known)}")


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether ``value`` is a TOML integer or float (a boolean is not)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: object, minimum: int, maximum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str)


def _is_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(element, str) for element in value)


def _is_flag(value: object) -> TypeGuard[bool]:
    return isinstance(value, bool)


def suggestion(word: str, known: Sequence[str]) -> str:
    """Suggest the nearest of ``known`` instead of ``word``, or all of them."""
    import difflib  # noqa: PLC0415  # only for the unhappy

    lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), lower, n=1)
    return f"; did you mean {lower[near[0]]}?" if near else f"; expected one of {', '.join(known)}"


def dotted(path: Path) -> str:
    """``path`` in written form: ``address[2].interfaces``; names that need quotes have them."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part + 1}]"
        else:
            bare = part.isascii() and part.replace("-", "").replace("_", "").isalnum()
            text += ("." if text else "") + (part if bare else f'"{part}"')
    return text


def shown(value: object) -> str:
    """``value`` in the form for messages, cut when it is long."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list" if any(isinstance(element, dict | list) for element in value) else cut(str(value))
    if isinstance(value, str):
        return cut(f'"{value}"' if value.isprintable() else repr(value))
    return cut(str(value))


def cut(text: str) -> str:
    """``text``, at most about 60 characters of it."""
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
