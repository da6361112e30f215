"""The scripts that come with Locum, and the example: as they are, through an engine."""

from __future__ import annotations

import http.server
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import locum
from locum.events.directory import ScriptDirectory
from locum.events.model import Event, EventResult
from tests.unit.bench import Bench, alive, kill_service, until

SHIPPED = Path(locum.__file__).parent / "scripts"
EXAMPLES = Path(__file__).parents[3] / "examples" / "events"


def install(bench: Bench, source: Path) -> None:
    """As an admin does."""
    shutil.copy(source, bench.scripts / source.name)
    (bench.scripts / source.name).chmod(0o755)


@pytest.mark.parametrize("directory", [SHIPPED, EXAMPLES])
def test_they_are_without_flaw(bench: Bench, directory: Path) -> None:
    for source in directory.iterdir():
        assert os.access(source, os.X_OK), f"{source} is not executable"
        install(bench, source)
    assert ScriptDirectory(bench.scripts).scan().check().scripts


@pytest.mark.parametrize("source", [*SHIPPED.iterdir(), *EXAMPLES.iterdir()], ids=lambda path: path.name)
def test_their_lines_fit(source: Path) -> None:
    assert all(len(line) <= 120 for line in source.read_text().splitlines())


# -- 00.locum ------------------------------------------------------------------------------------------------


def test_init_empties_what_scripts_noted(bench: Bench) -> None:
    install(bench, SHIPPED / "00.locum")
    for name in ("50.web", "60.nfs", "70.other"):
        directory = bench.state / "scripts" / name
        (directory / "deep").mkdir(parents=True)
        (directory / "deep" / "note").touch()
        (directory / "link").symlink_to(bench.scripts)
    (bench.state / "store.sqlite").touch()
    (bench.runtime / "listen").mkdir(parents=True)
    (bench.runtime / "listen" / "50.web").write_text("80\n")
    (result,) = bench.run(Event.INIT, settings={"00.locum": {"keep": ["60.nfs"]}}).scripts
    assert (result.status, result.output) == (0, "")
    left = {
        str(path.relative_to(bench.state)) for path in bench.state.rglob("*") if path.is_file() or path.is_symlink()
    }
    assert left == {"store.sqlite", "scripts/60.nfs/deep/note", "scripts/60.nfs/link", "last-good/00.locum"}
    assert list((bench.runtime / "listen").iterdir()) == []
    assert (bench.scripts / "00.locum").exists(), "links are not followed"


def test_startup_without_a_daemon_does_nothing(bench: Bench) -> None:
    install(bench, SHIPPED / "00.locum")
    assert bench.run(Event.STARTUP).ok


# -- 10.interface --------------------------------------------------------------------------------------------


def test_monitor_without_public_interfaces(bench: Bench) -> None:
    install(bench, SHIPPED / "10.interface")
    assert bench.run(Event.MONITOR).ok


# -- 50.web --------------------------------------------------------------------------------------------------


class Site(http.server.BaseHTTPRequestHandler):
    """Answers with the server's ``code``."""

    code = 200

    def do_GET(self) -> None:
        self.send_response(self.code)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Be quiet."""


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[http.server.HTTPServer]:
    monkeypatch.setattr(Site, "code", 200)
    server = http.server.HTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def web(bench: Bench, event: Event, *arguments: str, **settings: object) -> EventResult:
    return bench.run(event, *arguments, settings={"50.web": settings})


def test_a_web_server_that_somebody_else_runs(bench: Bench, site: http.server.HTTPServer) -> None:
    install(bench, EXAMPLES / "50.web")
    port = site.server_port
    listen = bench.runtime / "listen" / "50.web"
    assert web(bench, Event.STARTUP, port=port).ok
    assert listen.read_text() == f"{port}\n"
    assert web(bench, Event.MONITOR, port=port).ok
    Site.code = 503
    failure = web(bench, Event.MONITOR, port=port).failure
    assert failure is not None
    assert failure.output == f"http://127.0.0.1:{port}/: answered 503\n"
    Site.code = 200
    assert web(bench, Event.SHUTDOWN, port=port).ok
    assert not listen.exists()


def test_startup_waits_for_it(bench: Bench) -> None:
    install(bench, EXAMPLES / "50.web")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    failure = web(bench, Event.STARTUP, port=port, timeout=0.2).failure
    assert failure is not None
    assert failure.output == f"a listener on TCP port {port} did not come within 0.2 s\n"


def test_a_web_server_of_its_own(bench: Bench) -> None:
    install(bench, EXAMPLES / "50.web")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
    settings: dict[str, object] = {"port": port, "command": command, "restart": True}
    record = bench.runtime / "services" / "50.web.pid"
    assert web(bench, Event.STARTUP, **settings).ok
    first = int(record.read_text().split()[0])
    try:
        assert web(bench, Event.MONITOR, **settings).ok
        os.kill(first, 9)
        until(lambda: not alive(first))
        failure = web(bench, Event.MONITOR, **settings).failure
        assert failure is not None, "the addresses move all the same"
        assert "restarting the web server" in failure.output
        until(lambda: web(bench, Event.MONITOR, **settings).ok)
        assert web(bench, Event.SHUTDOWN, **settings).ok
        assert record.read_text() == "", "nothing of it is left to stop"
        assert web(bench, Event.SHUTDOWN, **settings).ok
    finally:
        kill_service(first)
        for word in record.read_text().split()[:1]:
            kill_service(int(word))


def test_recovered_reloads_once_after_any_number_of_moves(bench: Bench) -> None:
    install(bench, EXAMPLES / "50.web")
    settings: dict[str, object] = {"reload": ["sh", "-c", f"echo reloaded >>{bench.file('calls')}"]}
    for number in range(3):
        assert web(bench, Event.TAKEIP, "eth0", f"10.0.0.{number}", "24", **settings).ok
    assert web(bench, Event.RELEASEIP, "eth0", "10.0.0.9", "24", **settings).ok
    for _ in range(2):
        assert web(bench, Event.RECOVERED, **settings).ok
    assert bench.lines("calls") == ["reloaded"]


def test_they_run_by_hand_as_well() -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("LOCUM_SOCKET", None)
    done = subprocess.run(
        [SHIPPED / "00.locum", "startup"], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "no daemon\n")
