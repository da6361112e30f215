"""61.nfstickle: the ports that it declares are those that the port mapper tells, of what is registered."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

import locum
from locum import rpc

FILE = Path(locum.__file__).parent / "scripts" / "61.nfstickle"


class World:
    """``ports``: what the port mapper tells; an error that is raised instead."""

    def __init__(self, script: ModuleType, declared: Path) -> None:
        self.script = script
        self.ports: dict[int, int | rpc.RpcError] = {rpc.NFS: 2049, rpc.NLM: 4001, rpc.MOUNTD: 4002}
        self._declared = declared

    def port_of(self, _host: str, program: int, _version: int, **_: object) -> int:
        found = self.ports.get(program, rpc.NotRegistered(f"program {program} is not registered"))
        if isinstance(found, rpc.RpcError):
            raise found
        return found

    def declared(self) -> list[int]:
        return [int(line) for line in self._declared.read_text().split()] if self._declared.exists() else []


@pytest.fixture
def world(script: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> World:
    runtime = script() / "runtime"
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader = SourceFileLoader("script_61_nfstickle", str(FILE))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    made = World(module, runtime / "listen" / "60.nfs")
    monkeypatch.setattr(rpc, "port_of", made.port_of)
    return made


def test_ports_are_declared_and_withdrawn(world: World) -> None:
    world.script.startup()
    assert world.declared() == [2049, 4001, 4002]
    world.script.shutdown()
    assert world.declared() == []


def test_a_program_that_is_not_registered_does_not_keep_back_the_others(world: World) -> None:
    """A server of NFSv4 alone has no lock manager."""
    del world.ports[rpc.NLM]
    world.script.startup()
    assert world.declared() == [2049, 4002]


def test_a_port_that_is_another_now_is_not_watched_for_ever(world: World) -> None:
    world.script.startup()
    world.ports[rpc.MOUNTD] = 5002
    world.script.monitor()
    assert world.declared() == [2049, 4001, 5002]


def test_nothing_changes_while_the_port_mapper_is_away(world: World) -> None:
    world.script.startup()
    world.ports[rpc.NFS] = rpc.RpcError("Connection refused")
    world.script.monitor()
    assert world.declared() == [2049, 4001, 4002]


def test_ports_of_the_settings(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCUM_SETTINGS", json.dumps({"ports": [2049, 32803]}))
    world.script.startup()
    assert world.declared() == [2049, 32803]
