"""One shipped script on a bench."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

import locum
from locum.events.model import Event, EventResult
from tests.unit.bench import Bench, kill_service

SHIPPED = Path(locum.__file__).parent / "scripts"
#: Listens, greets everybody with the first argument, and ends when it is told to.
SERVER = """\
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    client, _ = server.accept()
    client.sendall(sys.argv[2].encode() + b"\\r\\n")
    client.close()
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Scene:
    """One shipped script on a bench, under a name, with settings; ends the service that it started."""

    def __init__(self, bench: Bench, source: str, name: str = "", **settings: object) -> None:
        self.bench = bench
        self.name = name or source
        self.settings: dict[str, object] = settings
        shutil.copy(SHIPPED / source, bench.scripts / self.name)
        (bench.scripts / self.name).chmod(0o755)

    def run(
        self, event: Event, *arguments: str, others: Mapping[str, Mapping[str, object]] | None = None
    ) -> EventResult:
        return self.bench.run(event, *arguments, settings={self.name: self.settings, **(others or {})})

    def ok(self, event: Event, *arguments: str) -> str:
        """Run it; it must succeed. Its output."""
        result = self.run(event, *arguments)
        assert result.ok, result
        return "".join(script.output for script in result.scripts)

    def fails(self, event: Event, *arguments: str) -> str:
        """Run it; it must fail. Its output."""
        failure = self.run(event, *arguments).failure
        assert failure is not None
        return failure.output

    @property
    def record(self) -> Path:
        return self.bench.runtime / "services" / f"{self.name}.pid"

    def pid(self) -> int:
        found = list((self.bench.runtime / "services").glob(f"{self.name}*.pid"))
        return int(found[0].read_text().split()[0])

    def listens(self) -> list[int]:
        path = self.bench.runtime / "listen" / self.name
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def end(self) -> None:
        for record in (self.bench.runtime / "services").glob(f"{self.name}*.pid"):
            if words := record.read_text().split():
                kill_service(int(words[0]))
