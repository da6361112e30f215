"""The layers of the design, checked over every import of the package, those inside functions included."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

import locum
import locum_lab
import locum_sim

ROOTS = tuple(Path(package.__path__[0]) for package in (locum, locum_lab, locum_sim))
ROOT = ROOTS[0]

#: The parts from the bottom up, one a row. A part may import itself and the rows below, never one above.
ROWS: tuple[str, ...] = (
    "locum",
    "locum.errors",
    "locum.clock",
    "locum.outside",
    "locum.escape",
    "locum.hosts",
    "locum.folder",
    "locum.processes",
    "locum.certificates",
    "locum.programs",
    "locum.nft",
    "locum.lines",
    "locum.threads",
    "locum.tasks",
    "locum.lateness",
    "locum.service_manager",
    "locum.xdr",
    "locum.rpc",
    "locum.unix_sockets",
    "locum.control_socket",
    "locum.json_lines",
    "locum.json_lines_async",
    "locum.store",
    "locum.config",
    "locum.rules",
    "locum.machine.netlink",
    "locum.machine.gate",
    "locum.machine",
    "locum.connections",
    "locum.script",
    "locum.events.runner",
    "locum.events",
    "locum.nfs",
    "locum.node",
    "locum.node.guard",
    "locum.api",
    "locum.daemon",
    "locum.doctor",
    "locum.cli",
    "locum_lab",
    "locum_lab.vm",
    "locum_lab.torture",
    "locum_lab.command",
    "locum_sim",
    "locum_sim.faults",
    "locum_sim.run",
    "locum_sim.many",
    "locum_sim.shrink",
    "locum_sim.seeds_report",
    "locum_sim.__main__",
)
LEVEL = {part: level for level, part in enumerate(ROWS)}

#: The distribution for servers. It may not need the other one.
PRODUCT = "locum"
APART = ("locum_lab", "locum_sim")

#: The rules are pure: what they must not import, because it acts, waits, asks the machine or throws dice.
IMPURE = frozenset(
    [
        *("asyncio", "concurrent", "multiprocessing", "select", "selectors", "socket", "subprocess", "threading"),
        *("ctypes", "fcntl", "os", "pathlib", "shutil", "signal", "sqlite3", "sys", "tempfile"),
        *("random", "secrets", "time", "locum.clock"),
    ]
)

LONGEST = 700


class Import(NamedTuple):
    """``target`` is the module that is imported."""

    target: str
    line: int


def modules(*roots: Path) -> dict[str, Path]:
    """Every module below the directories of some packages, by its full name."""
    found = {}
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root.parent).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: Mapping[str, Path]) -> Iterator[Import]:
    """Every import in a file, whatever it is inside of."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield Import(full if full in known else base, node.lineno)


def part(module: str) -> str:
    """The part that a module belongs to: the longest name of a row that it begins with, "" without one."""
    names = module.split(".")
    found = (".".join(names[:length]) for length in range(len(names), 0, -1))
    # The packages themselves are rows only as packages: a module of them needs a row of its own.
    return next((name for name in found if name in LEVEL and ("." in name or name in (module, *APART))), "")


def layer_violations(*roots: Path) -> list[str]:
    """Imports of a row above, impure imports of the rules, relative imports, and modules without a row."""
    known = modules(*roots)
    found = [f"{name}: its part has no row in this test" for name in known if not part(name)]
    for name, path in known.items():
        for target, line in imports(path, known):
            place = f"{name}:{line}"
            if target.startswith("."):
                found.append(f"{place}: relative import")
            elif target.split(".")[0] in (PRODUCT, *APART) and LEVEL.get(part(target), 0) > LEVEL.get(part(name), 0):
                found.append(f"{place}: {part(name)} knows {part(target)}, which is above it")
            if part(name) == "locum.rules" and (target in IMPURE or target.split(".")[0] in IMPURE):
                found.append(f"{place}: locum.rules imports {target}")
    return found


def circles(known: Mapping[str, Path]) -> list[str]:
    """Groups of modules that import each other, at load, later, or for annotations alone."""
    needs = {
        name: {i.target for i in imports(path, known) if i.target in known} - {name} for name, path in known.items()
    }
    reached = {name: _reach(needs, name) for name in known}
    found = {frozenset(o for o in reached[name] if name in reached[o]) for name in known if name in reached[name]}
    return sorted(" <-> ".join(sorted(circle)) for circle in found)


def _reach(needs: Mapping[str, set[str]], start: str) -> set[str]:
    reached: set[str] = set()
    todo = [start]
    while todo:
        for other in needs[todo.pop()] - reached:
            reached.add(other)
            todo.append(other)
    return reached


def long_files(root: Path) -> list[str]:
    """Files of more lines than a reader wants."""
    lines = {path.relative_to(root): path.read_text(encoding="utf-8").count("\n") for path in root.rglob("*.py")}
    return [f"{path}: {count} lines" for path, count in sorted(lines.items()) if count > LONGEST]


def test_dependencies_point_down() -> None:
    assert layer_violations(*ROOTS) == []


def test_no_modules_import_each_other() -> None:
    assert circles(modules(*ROOTS)) == []


def test_no_file_is_too_long() -> None:
    assert [file for root in ROOTS for file in long_files(root)] == []


def test_the_page_on_architecture_names_every_part_and_no_file_that_is_not_there() -> None:
    page = (ROOT.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.split("## Where everything is")[1].split("\n## ")[0]
    rows = [row for row in table.splitlines() if row.startswith("| `")]
    named = {place.removesuffix("/").removesuffix(".py") for row in rows for place in row.split("|")[1].split("`")}
    parts = {p.removeprefix("locum.").replace(".", "/") for p in ROWS if p != PRODUCT}
    assert parts - named == set()
    for row in rows:
        for file in re.findall(r"`([\w/]+\.py)`", row):
            folder = row.split("`")[1].removesuffix("/")
            places = [root / place for root in (ROOT, ROOTS[1].parent) for place in (file, f"{folder}/{file}")]
            assert any(place.is_file() for place in places), f"{folder}: {file}"


def sample(directory: Path, files: Mapping[str, str]) -> Path:
    """A package of these files; the layers' packages are made."""
    root = directory / "locum"
    for name, text in {"__init__.py": "", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("store/a.py", "from locum.rules import x", "locum.store knows locum.rules"),
        ("rules/a.py", "import locum.node.steps", "locum.rules knows locum.node"),
        (
            "config/a.py",
            "def f():\n    from locum.events.model import Event",
            "config.a:2: locum.config knows locum.events",
        ),
        ("api/a.py", "async def f():\n    if x:\n        from locum import cli", "api.a:3: locum.api knows locum.cli"),
        (
            "machine/netlink/a.py",
            "try:\n    import locum.machine.links\nexcept ImportError:\n    pass",
            "netlink knows",
        ),
        ("connections/a.py", "import locum.script", "locum.connections knows locum.script"),
        ("node/a.py", "import locum.node.guard.watch", "locum.node knows locum.node.guard"),
        ("cli/a.py", "import locum_lab.lab", "locum.cli knows locum_lab"),
        ("errors.py", "import locum.json_lines", "locum.errors knows locum.json_lines"),
        ("rules/a.py", "import asyncio", "locum.rules imports asyncio"),
        ("rules/a.py", "from time import monotonic", "locum.rules imports time"),
        ("rules/a.py", "def f():\n    import socket", "locum.rules imports socket"),
        ("rules/a.py", "import asyncio.events as e", "locum.rules imports asyncio.events"),
        ("rules/a.py", "from locum import clock", "locum.rules imports locum.clock"),
        ("rules/a.py", "from locum.clock import boottime", "locum.rules imports locum.clock"),
        ("node/a.py", "from . import b", "relative import"),
        ("kitchen/a.py", "", "has no row"),
        ("kitchen.py", "", "has no row"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, file: str, text: str, complaint: str) -> None:
    # ``cli`` and ``clock`` exist, so that "from locum import" means the module.
    root = sample(tmp_path, {"cli/b.py": "", "clock.py": "", file: text})
    assert any(complaint in violation for violation in layer_violations(root)), layer_violations(root)


def test_what_points_down_is_no_violation(tmp_path: Path) -> None:
    files = {
        "cli/a.py": "import asyncio, time\nfrom locum.api import y",
        "node/guard/a.py": "from locum.node import taken_notes\nfrom locum.events.model import Event",
        "rules/a.py": "from locum.store.base import Store\nfrom locum.rules.b import c\nimport heapq",
    }
    assert layer_violations(sample(tmp_path, files)) == []


def test_a_circle_is_found_through_any_number_of_modules(tmp_path: Path) -> None:
    files = {
        "api/a.py": "from locum.api.b import x",
        "api/b.py": "try:\n    import locum.api.c\nfinally:\n    pass",
        "api/c.py": "class K:\n    def f(self):\n        from locum.api import a",
        "api/d.py": "import locum.api.a",
    }
    known = modules(sample(tmp_path, files))
    assert circles(known) == ["locum.api.a <-> locum.api.b <-> locum.api.c"]


def test_a_circle_of_types_is_a_circle(tmp_path: Path) -> None:
    files = {"api/a.py": "from locum.api.b import x", "api/b.py": "if TYPE_CHECKING:\n    import locum.api.a"}
    known = modules(sample(tmp_path, files))
    assert circles(known) == ["locum.api.a <-> locum.api.b"]


def test_a_long_file_is_found(tmp_path: Path) -> None:
    assert long_files(sample(tmp_path, {"api/a.py": "\n" * (LONGEST + 1), "api/b.py": "\n" * LONGEST})) == [
        f"api/a.py: {LONGEST + 1} lines"
    ]
