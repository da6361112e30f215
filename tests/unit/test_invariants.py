"""docs/invariants.md: every invariant has tests, every test that the page names exists, and none is left out."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from tests.sim.agent_mutations import IN_SIMULATION as OF_THE_AGENT
from tests.sim.guard_mutations import IN_SIMULATION as OF_THE_GUARD
from tests.sim.mutations import MUTATIONS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "invariants.md").read_text(encoding="utf-8")
INVARIANTS = [f"I{number}" for number in range(1, 10)]
ROW = re.compile(r"^\| (I\d) \| `([\w/]+)` \| `([\w*]+)` \| (.+) \|$")
#: Name → what a run with this deliberate defect may violate.
OF_PROCESSES = {name: broken for table in (OF_THE_AGENT, OF_THE_GUARD) for name, (broken, _, _) in table.items()}
DEFECTS = {name: mutation.invariants for name, mutation in MUTATIONS.items()} | OF_PROCESSES


class Row(NamedTuple):
    """A row of the page: tests below ``folder`` whose names match ``pattern`` show ``invariant``, namely ``what``."""

    invariant: str
    folder: str
    pattern: str
    what: str = ""

    @property
    def defects(self) -> list[str]:
        """The deliberate defects that the row names."""
        return re.findall(r"`(\w+)`", self.what) if self.pattern.startswith("test_a_deliberate_defect") else []


class Known(NamedTuple):
    """A test function: the folder of its file, relative to the checkout, and its name."""

    folder: str
    name: str


def rows(page: str) -> list[Row]:
    """The rows of the page's table of tests."""
    lines = page.split("\n## Tests\n")[1].splitlines()
    table = [line for line in lines if re.match(r"\| I\d", line)]
    found = [ROW.match(line) for line in table]
    assert all(found), [line for line, row in zip(table, found, strict=True) if row is None]
    return [Row(*row.groups()) for row in found if row is not None]


def known_tests() -> Iterator[Known]:
    """Every test function of the checkout."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                yield Known(path.parent.relative_to(ROOT).as_posix(), node.name)


def named_after(name: str) -> set[str]:
    """The invariants in a test's name: ``test_i2_i3_planned_moves`` → I2, I3."""
    found = re.match(r"test_((?:i\d_)+)", name)
    return {part.upper() for part in found[1].split("_") if part} if found else set()


def shown_by(row: Row, test: Known) -> bool:
    """Whether ``row`` names ``test``; ``test_i3_*`` also matches ``test_i2_i3_planned_moves``."""
    if test.folder != row.folder and not test.folder.startswith(f"{row.folder}/"):
        return False
    if row.pattern == f"test_{row.invariant.lower()}_*":
        return row.invariant in named_after(test.name)
    return fnmatchcase(test.name, row.pattern)


def unmatched(table: list[Row], known: list[Known]) -> list[str]:
    """What is wrong with the table, as sentences."""
    found = [f"{i}: no row names a test" for i in INVARIANTS if all(row.invariant != i for row in table)]
    for row in table:
        if not any(shown_by(row, test) for test in known):
            found.append(f"{row.invariant}: there is no test {row.pattern} in {row.folder}")
    for test in known:
        for invariant in sorted(named_after(test.name)):
            if not any(row.invariant == invariant and shown_by(row, test) for row in table):
                found.append(f"{test.folder}: {test.name}: docs/invariants.md needs a row of {invariant} that matches")
    return found


def test_the_page_names_tests_for_every_invariant_that_exist_and_no_test_is_left_out() -> None:
    assert unmatched(rows(PAGE), list(known_tests())) == []


def wrong_defects(table: list[Row], known: Mapping[str, Collection[str]], required: Collection[str]) -> list[str]:
    """What is wrong with the defects that the table names, as sentences. ``known``: name → what it may violate."""
    found = []
    for row in table:
        for name in row.defects:
            if row.invariant not in known.get(name, ()):
                found.append(f"{row.invariant}: no deliberate defect {name} breaks it")
    named = {name for row in table for name in row.defects}
    for name in required:
        if name not in named and not set(INVARIANTS).isdisjoint(known[name]):
            found.append(f"{name}: docs/invariants.md needs a row of {' or '.join(known[name])} that names it")
    return found


def test_the_page_names_the_defects_of_agent_and_guard_at_the_invariants_that_they_break() -> None:
    assert wrong_defects(rows(PAGE), DEFECTS, OF_PROCESSES) == []


def test_a_defect_that_is_missing_or_at_the_wrong_invariant_is_found() -> None:
    table = [Row("I1", "tests/sim", "test_a_deliberate_defect_is_found", "defects (`a`, `b`)")]
    known = {"a": ("I1", "I2"), "b": ("I2",), "c": ("I3",), "d": ("hung",)}
    assert wrong_defects(table, known, known) == [
        "I1: no deliberate defect b breaks it",
        "c: docs/invariants.md needs a row of I3 that names it",
    ]


def test_the_page_states_every_invariant_once() -> None:
    stated = re.findall(r"^\| (I\d) ", PAGE.split("\n## Tests\n")[0], re.MULTILINE)
    assert stated == INVARIANTS


def test_a_missing_row_a_missing_test_and_a_missing_invariant_are_found() -> None:
    table = [Row(i, "tests/unit/a", "test_it") for i in INVARIANTS[1:]]
    known = [Known("tests/unit/a", "test_it"), Known("tests/lab", "test_i2_i3_both")]
    assert unmatched(table, known) == [
        "I1: no row names a test",
        "tests/lab: test_i2_i3_both: docs/invariants.md needs a row of I2 that matches",
        "tests/lab: test_i2_i3_both: docs/invariants.md needs a row of I3 that matches",
    ]
    table = [Row(i, "tests", "test_it") for i in INVARIANTS] + [Row("I3", "tests/lab", "test_i3_*")]
    assert unmatched(table, known[:1]) == ["I3: there is no test test_i3_* in tests/lab"]
    assert unmatched([*table, Row("I2", "tests/lab", "test_i2_*")], known) == []
