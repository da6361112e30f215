"""Files that people and tools rely on beside the code: the lock, the hooks, the pages for contributors, the records."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from setuptools import find_packages  # type: ignore[import-untyped]

from locum import __version__
from locum.cli.main import APART

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LAB = tomllib.loads((ROOT / "lab/pyproject.toml").read_text(encoding="utf-8"))
LOCK = [
    line
    for line in (ROOT / "requirements-dev.lock").read_text(encoding="utf-8").splitlines()
    if line[:1] not in ("", "#")
]


def spelt(package: str) -> str:
    """A package's name in the one form that comparisons use (PEP 503)."""
    return re.sub(r"[-_.]+", "-", re.split(r"[=<>~!;\[ ]", package, maxsplit=1)[0]).lower()


def test_the_lock_pins_every_package_to_one_version_and_names_no_place() -> None:
    assert [line for line in LOCK if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line)] == []
    names = [spelt(line) for line in LOCK]
    assert len(names) == len(set(names))


def test_the_lock_has_every_package_that_the_project_names() -> None:
    project = PROJECT["project"]
    wanted = [*PROJECT["build-system"]["requires"], *project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert {spelt(package) for package in wanted} <= {spelt(line) for line in LOCK}


def test_the_lock_is_not_older_than_the_project_allows() -> None:
    project = PROJECT["project"]
    locked = {spelt(line): line.split("==")[1] for line in LOCK}
    for package in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        least = package.split(">=")[1]
        have = [int(part) for part in locked[spelt(package)].split(".")]
        assert have >= [int(part) for part in least.split(".")], f"{package}: {have}"


def test_servers_get_neither_lab_nor_simulator() -> None:
    """Both are packages of another distribution, of the same version, which needs the product."""
    assert {package.split(".")[0] for package in find_packages(str(ROOT / "src"))} == {"locum"}
    assert {package.split(".")[0] for package in find_packages(str(ROOT / "lab/src"))} == {"locum_lab", "locum_sim"}
    assert LAB["project"]["version"] == PROJECT["project"]["version"] == __version__
    assert f"locum=={__version__}" in LAB["project"]["dependencies"]
    assert APART.keys() == {"locum_lab"}
    assert APART["locum_lab"].startswith(f"{LAB['project']['name']} ")


def test_type_checkers_of_users_see_the_types() -> None:
    assert (ROOT / "src/locum/py.typed").is_file()
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"]["locum"]


def test_the_hooks_run_what_ci_runs_and_download_nothing() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert re.findall(r"repo: *(.*)", hooks) == ["local"]
    assert set(re.findall(r"language: *(.*)", hooks)) == {"system"}
    checks = (ROOT / "tools/test.sh").read_text(encoding="utf-8")
    for entry in re.findall(r"entry: *(.*)", hooks):
        tool = entry.split(" -m ")[-1].split()[0]
        assert tool in checks
        if entry.startswith(".venv/"):
            assert f" {entry}\n" in checks, f"CI does not run {entry!r}"


def test_what_the_page_for_contributors_names_exists() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = {
        path for path in re.findall(r"`([\w./-]+)", page) if path.split("/")[0] in ("src", "tests", "tools", "docs")
    }
    assert len(paths) > 15
    assert {path for path in paths if not (ROOT / path).exists()} == set()
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"`make ([a-z-]+)", page)) <= set(targets)


def test_every_record_of_a_decision_is_listed_with_its_date() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = dict(re.findall(r"^\| \[\d{4}\]\((.+?)\) \| (\S+) \|", (folder / "README.md").read_text(), re.MULTILINE))
    assert set(listed) == {path.name for path in folder.glob("[0-9]*.md")}
    for name, date in listed.items():
        text = (folder / name).read_text(encoding="utf-8")
        assert text.startswith(f"# {name[:4]}: ")
        assert f"\n{date}, " in text, f"{name}: another date than in the list"
        assert "**Decision.**" in text
        assert "**Reason.**" in text


def test_no_file_of_tests_has_more_than_500_lines() -> None:
    files = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "tests").rglob("*.py")}
    assert len(files) > 100
    assert {str(path.relative_to(ROOT)): lines for path, lines in files.items() if lines > 500} == {}


def test_folders_of_unit_tests_are_those_of_the_code() -> None:
    code = {
        path.relative_to(source).as_posix()
        for source in (ROOT / "src/locum", ROOT / "lab/src")
        for path in source.rglob("*")
        if path.is_dir()
    }
    tests = {
        path.parent.relative_to(ROOT / "tests/unit").as_posix() for path in (ROOT / "tests/unit").rglob("test_*.py")
    }
    assert tests - {"."} <= code


PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_of_documentation_wrap_at_100(page: Path) -> None:
    """Tables and code are exempt, and words that are longer than a line, such as links."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [line for line in text.splitlines() if not line.startswith(("|", "#", ">"))]
    assert [line for line in lines if len(line) > 100 and " " in re.sub(r"`[^`]*`", "", line.strip("- "))] == []


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if "://" in target:
                continue
            file, _, place = target.partition("#")
            goal = (page.parent / file).resolve() if file else page
            if not goal.exists() or (place and place not in headings(goal)):
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as forges make them."""
    lines = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).strip().replace(" ", "-") for line in lines}
