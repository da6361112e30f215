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
        return Reader(self.problems, (*self.path, key), value)

    def tables(self, key: str) -> list[Reader]:
        """The elements of the array of tables at ``key``."""
        self._known.append(key)
        value = self._data.get(key, [])
        if not isinstance(value, list) or not all(isinstance(element, dict) for element in value):
            self.wrong(key, f"tables, [[{dotted((*self.path, key))}]]")
            return []
        return [Reader(self.problems, (*self.path, key, index), element) for index, element in enumerate(value)]

    def items(self) -> list[tuple[str, object]]:
        """Every key and value, for a table whose keys are free."""
        return list(self._data.items())

    def text(self, key: str, check: Callable[[str], T], *, required: str = "") -> T | None:
        """The string at ``key``, as ``check`` returns it.

        ``required``, unless empty, describes the expected value of a mandatory key.
        """
        self._known.append(key)
        if key not in self._data:
            if required:
                self.problems.add((*self.path, key), f"missing; expected {required}")
            return None
        value = self._data[key]
        if not isinstance(value, str):
            self.wrong(key, "a string in quotes")
            return None
        try:
            return check(value)
        except BadValue as error:
            self.wrong(key, str(error))
            return None

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
        self._known.append(key)
        if key not in self._data:
            return None
        value = self._data[key]
        # Written so that "not a number" fails as well.
        if is_number(value) and minimum <= value <= maximum:
            return float(value)
        self.wrong(key, f"a number of {unit} from {minimum:g} to {maximum:g}")
        return None

    def integer(self, key: str, minimum: int, maximum: int) -> int | None:
        """A whole number between two bounds that are both included."""
        self._known.append(key)
        if key not in self._data:
            return None
        value = self._data[key]
        if isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum:
            return value
        self.wrong(key, f"a whole number from {minimum} to {maximum}")
        return None

    def flag(self, key: str) -> bool | None:
        """``true`` or ``false``."""
        self._known.append(key)
        value = self._data.get(key)
        if value is not None and not isinstance(value, bool):
            self.wrong(key, "true or false")
            return None
        return value

    def texts(self, key: str, check: Callable[[list[str]], T], *, required: str = "") -> T | None:
        """A list of strings, as ``check`` returns it; ``required`` as for :meth:`text`."""
        self._known.append(key)
        if key not in self._data:
            if required:
                self.problems.add((*self.path, key), f"missing; expected {required}")
            return None
        value = self._data[key]
        if not isinstance(value, list) or not all(isinstance(element, str) for element in value):
            self.wrong(key, 'a list of strings, ["...", "..."]')
            return None
        try:
            return check(value)
        except BadValue as error:
            self.wrong(key, str(error))
            return None

    def integers(self, key: str, minimum: int, maximum: int) -> tuple[int, ...] | None:
        """A list of whole numbers between two bounds that are both included; sorted, each once."""
        self._known.append(key)
        if key not in self._data:
            return None
        value = self._data[key]
        if isinstance(value, list) and all(
            isinstance(element, int) and not isinstance(element, bool) and minimum <= element <= maximum
            for element in value
        ):
            return tuple(sorted(set(value)))
        self.wrong(key, f"a list of whole numbers from {minimum} to {maximum}")
        return None

    def finish(self) -> None:
        """Record every unknown key, with the nearest known one."""
        for key in self._data:
            if key not in self._known:
                self.problems.add((*self.path, key), f"no such key{suggestion(key, self._known)}")


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether ``value`` is a TOML integer or float (a boolean is not)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


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
