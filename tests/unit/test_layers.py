"""The layers of the design, checked over every import of the package, those inside functions included."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

import locum

ROOT = Path(locum.__file__).parent

#: From the bottom up. A part may import itself, its row and the rows below, never one above.
ROWS: tuple[tuple[str, ...], ...] = (
    ("", "errors", "clock", "escape", "folder", "hosts", "lines", "outside", "threads", "lateness", "tasks"),
    ("wire", "wire_async", "netlink", "xdr", "rpc", "certificates"),
    ("config", "store"),
    ("cluster",),
    ("events", "script", "addresses", "connections", "nfs"),
    ("agent", "guard"),
    ("api",),
    ("lab", "sim", "doctor"),
    ("cli",),
)
LEVEL = {part: level for level, row in enumerate(ROWS) for part in row}

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
    """``target`` is the module that is imported; ``at_load``: when the importing module is loaded, not later."""

    target: str
    line: int
    at_load: bool


def modules(root: Path) -> dict[str, Path]:
    """Every module below the directory of package ``locum``, by its full name."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: Mapping[str, Path]) -> Iterator[Import]:
    """Every import in a file, whatever it is inside of."""

    def walk(node: ast.AST, *, at_load: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, at_load)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield Import(full if full in known else base, node.lineno, at_load)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, at_load=at_load and not inside and not typing_only)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), at_load=True)


def part(module: str) -> str:
    """The layer's part that a module of the package belongs to: ``locum.store.base`` → ``store``."""
    return module.split(".")[1] if "." in module else ""


def layer_violations(root: Path) -> list[str]:
    """Imports of a row above, impure imports of ``cluster``, relative imports, and parts without a row."""
    known = modules(root)
    found = [f"{name}: its part has no row in this test" for name in known if part(name) not in LEVEL]
    for name, path in known.items():
        for target, line, _ in imports(path, known):
            place = f"{path.relative_to(root)}:{line}"
            if target.startswith("."):
                found.append(f"{place}: relative import")
            elif target.split(".")[0] == "locum" and LEVEL.get(part(target), 0) > LEVEL.get(part(name), 0):
                found.append(f"{place}: {part(name) or 'locum'} knows {part(target)}, which is above it")
            if part(name) == "cluster" and (target in IMPURE or target.split(".")[0] in IMPURE):
                found.append(f"{place}: cluster imports {target}")
    return found


def load_cycles(root: Path) -> list[str]:
    """Groups of modules that need each other to be loaded."""
    known = modules(root)
    needs: dict[str, set[str]] = {}
    for name, path in known.items():
        targets = {found.target for found in imports(path, known) if found.at_load}
        # To load a module is to load the packages around it first.
        around = {
            ".".join(target.split(".")[:depth]) for target in targets for depth in range(1, target.count(".") + 1)
        }
        needs[name] = {t for t in targets | around if t in known and t != name and not name.startswith(f"{t}.")}
    cycles = set()
    for name in known:
        reached: set[str] = set()
        todo = list(needs[name])
        while todo:
            other = todo.pop()
            if other not in reached:
                reached.add(other)
                todo += needs[other]
        if name in reached:
            cycles.add(frozenset(other for other in reached if name in _reach(needs, other)))
    return sorted(" <-> ".join(sorted(cycle)) for cycle in cycles)


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
    assert layer_violations(ROOT) == []


def test_no_module_needs_itself_to_be_loaded() -> None:
    assert load_cycles(ROOT) == []


def test_no_file_is_too_long() -> None:
    assert long_files(ROOT) == []


def test_the_page_on_architecture_names_every_part_and_no_file_that_is_not_there() -> None:
    page = (ROOT.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.split("## Where everything is")[1].split("\n## ")[0]
    places = {place for row in table.splitlines() if row.startswith("| `") for place in row.split("|")[1].split("`")}
    assert {p for p in LEVEL if p and f"{p}/" not in places and f"{p}.py" not in places} == set()
    for row in table.splitlines():
        for file in re.findall(r"`([\w/]+\.py)`", row):
            folder = row.split("`")[1].removesuffix("/")
            assert any((ROOT / place).is_file() for place in (file, f"{folder}/{file}")), f"{folder}: {file}"


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
        ("store/a.py", "from locum.cluster import x", "store knows cluster"),
        ("cluster/a.py", "import locum.agent.acts", "cluster knows agent"),
        ("config/a.py", "def f():\n    from locum.events.model import Event", "config/a.py:2: config knows events"),
        ("api/a.py", "async def f():\n    if x:\n        from locum import cli", "api/a.py:3: api knows cli"),
        ("netlink/a.py", "try:\n    import locum.config.load\nexcept ImportError:\n    pass", "netlink knows config"),
        ("errors.py", "import locum.wire", "errors knows wire"),
        ("cluster/a.py", "import asyncio", "cluster imports asyncio"),
        ("cluster/a.py", "from time import monotonic", "cluster imports time"),
        ("cluster/a.py", "def f():\n    import socket", "cluster imports socket"),
        ("cluster/a.py", "import asyncio.events as e", "cluster imports asyncio.events"),
        ("cluster/a.py", "from locum import clock", "cluster imports locum.clock"),
        ("cluster/a.py", "from locum.clock import boottime", "cluster imports locum.clock"),
        ("agent/a.py", "from . import b", "relative import"),
        ("kitchen/a.py", "", "has no row"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, file: str, text: str, complaint: str) -> None:
    # ``cli`` and ``clock`` exist, so that "from locum import" means the module.
    root = sample(tmp_path, {"cli/a.py": "", "clock.py": "", file: text})
    assert any(complaint in violation for violation in layer_violations(root)), layer_violations(root)


def test_what_points_down_is_no_violation(tmp_path: Path) -> None:
    files = {
        "cli/a.py": "import asyncio, time\nfrom locum.lab import x\nfrom locum.api import y",
        "guard/a.py": "from locum.agent import held\nfrom locum.events.model import Event",
        "cluster/a.py": "from locum.store.base import Store\nfrom locum.cluster.b import c\nimport heapq",
    }
    assert layer_violations(sample(tmp_path, files)) == []


def test_a_cycle_is_found_through_any_number_of_modules(tmp_path: Path) -> None:
    files = {
        "api/a.py": "from locum.api.b import x",
        "api/b.py": "try:\n    import locum.api.c\nfinally:\n    pass",
        "api/c.py": "class K:\n    from locum.api import a",
        "api/d.py": "import locum.api.a",
    }
    assert load_cycles(sample(tmp_path, files)) == ["locum.api.a <-> locum.api.b <-> locum.api.c"]


def test_later_imports_and_imports_for_types_make_no_cycle(tmp_path: Path) -> None:
    files = {
        "api/a.py": "from locum.api.b import x",
        "api/b.py": "def f():\n    import locum.api.a\nif TYPE_CHECKING:\n    import locum.api.a",
    }
    assert load_cycles(sample(tmp_path, files)) == []


def test_a_long_file_is_found(tmp_path: Path) -> None:
    assert long_files(sample(tmp_path, {"api/a.py": "\n" * (LONGEST + 1), "api/b.py": "\n" * LONGEST})) == [
        f"api/a.py: {LONGEST + 1} lines"
    ]
