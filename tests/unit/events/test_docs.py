"""docs/events.md: what it names exists, what exists is named, and what it shows works."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from locum import script
from locum.cli.event import event as event_command
from locum.events.directory import ScriptDirectory
from locum.events.environment import FUNCTIONS, common_environment, script_environment
from locum.events.model import ARGUMENTS, Event
from locum.events.runner.results import Outcome
from tests.unit.bench import Bench, alive, kill_service, until

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "events.md").read_text()
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", PAGE, re.DOTALL)


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table under ``heading``, without its head."""
    section = PAGE.split(f"\n{heading}\n", 1)[1].split("\n#", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_every_event_is_in_the_table_with_its_arguments() -> None:
    named: dict[str, str] = {}
    for names, arguments, *_ in rows("## The events"):
        for name in re.findall(r"`(\w+)`", names):
            named[name] = arguments
    assert list(named) and set(named) == set(Event)  # noqa: PT018
    for event in Event:
        wanted = ARGUMENTS.get(event, ())
        assert named[event].strip("*–").replace("-", "_").split() == list(wanted)


def test_every_variable_is_in_the_table() -> None:
    table = " ".join(row[0] for row in rows("## Environment"))
    given = {*common_environment("r", "s"), *script_environment("50.web", "s", {}), "LOCUM_EVENT"}
    for variable in given:
        assert f"`{variable}`" in table, variable


def test_every_function_for_python_is_documented_and_none_besides() -> None:
    pages = "".join(page.read_text() for page in DOCS.glob("*.md"))
    for name in script.__all__:
        assert re.search(rf"`{name}\b", pages), f"{name} is in no page of docs"
    for cells in rows("### `locum.script`"):
        for name in re.findall(r"`(\w+)\(", cells[0]):
            assert hasattr(script, name), f"{name} does not exist"


def test_every_function_for_the_shell_is_documented_and_none_besides() -> None:
    defined = set(re.findall(r"^([a-z]\w+) \(\)$", Path(FUNCTIONS).read_text(), re.MULTILINE))
    named = set()
    for cells in rows("## Scripts in the shell"):
        named |= {word for code in re.findall(r"`([^`]*)`", cells[0]) for word in code.split()[:1]}
    undocumented_aliases = {"ctdb_setup_service_state_dir", "failcount_get"}
    assert defined - undocumented_aliases == named


def test_every_result_and_command_is_named() -> None:
    section = PAGE.split("\n## `locum event`\n", 1)[1]
    for outcome in Outcome:
        assert f"`{outcome.value}`" in section
    for name in event_command.commands:
        assert re.search(rf"`(locum event )?{name}\b", section), name


def test_links_within_the_page_lead_somewhere() -> None:
    heads = {
        re.sub(r"[^a-z0-9 -]", "", head.lower()).replace(" ", "-") for head in re.findall(r"^#+ (.*)$", PAGE, re.M)
    }
    for target in re.findall(r"\]\(#([^)]*)\)", PAGE):
        assert target in heads, target


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_every_example_is_without_flaw(bench: Bench, number: int) -> None:
    kind, text = BLOCKS[number]
    if kind == "sh":
        assert subprocess.run(["sh", "-n"], input=text, text=True, check=False).returncode == 0
    bench.script("50.example", text)
    (found,) = ScriptDirectory(bench.scripts).scan().check().scripts
    assert found.events


def test_the_service_that_a_stranger_writes(bench: Bench) -> None:
    """The script at the end of the checklist, with a real service, through its life."""
    (text,) = [text for _, text in BLOCKS if "http.server" in text]
    bench.script("55.pyweb", text)
    site = bench.file("www")
    site.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings = {"55.pyweb": {"port": server.getsockname()[1], "directory": str(site)}}
    record = bench.runtime / "services" / "55.pyweb.pid"
    try:
        assert bench.run(Event.STARTUP, settings=settings).ok
        pid = int(record.read_text().split()[0])
        assert bench.run(Event.MONITOR, settings=settings).ok
        kill_service(pid)
        until(lambda: not alive(pid))
        failure = bench.run(Event.MONITOR, settings=settings).failure
        assert failure is not None
        assert "Connection refused" in failure.output.splitlines()[0]
        until(lambda: bench.run(Event.MONITOR, settings=settings).ok)
        assert bench.run(Event.STARTUP, settings=settings).ok, "it may run again"
        shutil.rmtree(site)
        failure = bench.run(Event.MONITOR, settings=settings).failure
        assert failure is not None
        assert failure.output == f"not available: {site}\n"
        for _ in range(2):
            assert bench.run(Event.SHUTDOWN, settings=settings).ok
        assert not script.is_listening(int(settings["55.pyweb"]["port"]))
    finally:
        for word in (record.read_text() if record.exists() else "").split()[:1]:
            kill_service(int(word))
