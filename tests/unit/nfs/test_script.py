"""60.nfs itself, event by event: what it does to a server, in which order, on nodes that take part in a move or not.

The server is the kernel's, as stand-ins; the daemon is a function that answers.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import locum
from locum import rpc
from locum.control_socket import NoDaemon, Refused
from locum.nfs import callout, checks, recovery
from locum.nfs.backends import kernel_server
from locum.nfs.backends.base import Backend
from locum.nfs.backends.kernel_server import Kernel
from locum.script import Fail

FILE = Path(locum.__file__).parent / "scripts" / "60.nfs"
ADDRESSES = ("10.0.0.1", "10.0.0.2")


class World:
    """What 60.nfs of node n1 sees and does. ``status`` is what the daemon says, unless it is ``away``; ``no_store``:
    the daemon does not reach the clients on record."""

    def __init__(self, script: ModuleType, directory: Path) -> None:
        self.script = script
        self.proc = directory / "proc" / "fs" / "nfsd"
        self._log = directory / "log"
        self.status: dict[str, Any] = {}
        self.away = self.no_store = False
        self.serve("n1", "n2")

    def serve(self, *holders: str | None, assigned: tuple[str, ...] = ()) -> None:
        """Node n1, n2 or none for each address; who is to have it, when that is somebody else."""
        self.status = {
            "nodes": [{"name": name, "incarnation": f"{name}-1"} for name in ("n1", "n2", "n3")],
            "addresses": [
                {"address": address, "node": holder, "assigned": to}
                for address, holder, to in zip(ADDRESSES, holders, assigned or holders, strict=True)
            ],
        }

    def done(self) -> list[str]:
        """What was done since this was asked last."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        self._log.unlink(missing_ok=True)
        return lines


@pytest.fixture
def world(script: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Settled, with n1 and n2 serving an address each."""
    log, proc = tmp_path / "log", tmp_path / "proc" / "fs" / "nfsd"
    proc.mkdir(parents=True)
    (proc / "threads").write_text("8\n")
    (proc / "unlock_ip").write_text("")
    (tmp_path / "export").mkdir()
    (tmp_path / "sm").mkdir()
    commands = {
        f"{kind}_{do}": ["sh", "-c", f"echo {kind} {do} >>{log}{'; echo 8 >' + str(proc / 'threads') if start else ''}"]
        for kind in ("nfs", "statd", "rpcbind")
        for do, start in (("start", kind == "nfs"), ("stop", False))
    }
    script(
        proc=str(tmp_path / "proc"),
        exports=[str(tmp_path / "export")],
        sm=str(tmp_path / "sm"),
        host_name="nfs.example",
        restart_pause=0.125,
        **commands,
    )

    def write(text: str) -> None:
        with log.open("a") as file:
            file.write(text + "\n")

    loader = SourceFileLoader("script_60_nfs", str(FILE))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader.exec_module(module)
    made = World(module, tmp_path)

    def ask(request: Mapping[str, object], **_: object) -> Any:
        if request["op"] == "status":
            if made.away:
                raise NoDaemon("no answer")
            return made.status
        if request["op"] == "statd-clients":
            if made.no_store:
                raise Refused("the store does not answer", "unavailable")
            return [{"address": a, "client": "10.0.0.9", "revision": 1} for a in request["addresses"]]  # type: ignore[attr-defined]
        return []

    monkeypatch.setattr(module, "ask", ask)
    monkeypatch.setattr(recovery, "ask", ask)
    monkeypatch.setattr(module, "expect_listen", lambda port: write(f"watch {port}"))
    monkeypatch.setattr(module, "monitor_again", lambda: write("again"))
    monkeypatch.setattr(module, "expect_no_listen", lambda: write("watch nothing"))
    monkeypatch.setattr(Backend, "wait_for_rpc", lambda _, _program, _version, name, __: write(f"registered {name}"))
    monkeypatch.setattr("time.sleep", lambda seconds: write(f"pause {seconds:g}"))
    monkeypatch.setattr(
        recovery,
        "notify_detached",
        lambda _, records, *__: write(f"notify {' '.join(one['address'] for one in records)}"),
    )
    module.recovered()
    made.done()
    return made


RESTART = [
    "nfs stop",
    "pause 0.125",
    "nfs start",
    "registered nfs, version 3",
    "registered mountd, version 3",
    "registered nlockmgr, version 4",
]


def test_node_that_takes_no_part_restarts_its_lock_manager_as_well(world: World) -> None:
    """Before any address is released; once; with a pause; and no client is notified before it is registered again."""
    world.serve("n1", "n2", assigned=("n1", "n3"))
    world.script.startipreallocate()
    assert world.done() == RESTART
    world.serve("n1", "n3")
    world.script.recovered()
    # It dropped the locks of the clients that stay as well.
    assert world.done() == ["notify 10.0.0.1"]


@pytest.mark.parametrize("begins", [True, False])
def test_move_that_takes_longer_than_the_grace_period(
    world: World, begins: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients that were notified now could reclaim nothing, so the period begins again first. Where it does not begin
    at all, because the machine mounts NFSv3 itself, another restart would not help."""
    monkeypatch.setattr(kernel_server, "_SIGNAL_LIMIT", 0.0)
    monkeypatch.setattr(Kernel, "_lifts_grace", lambda _: False)
    grace = world.proc.parent / "lockd" / "nlm_end_grace"
    grace.parent.mkdir()
    grace.write_text("N\n\0" if begins else "Y\n\0")
    world.serve("n1", "n2", assigned=("n1", "n3"))
    world.script.startipreallocate()
    assert world.done()[: len(RESTART)] == RESTART
    grace.write_text("Y\n\0")
    world.serve("n1", "n3")
    world.script.recovered()
    assert world.done() == [*(RESTART if begins else []), "notify 10.0.0.1"]
    world.script.recovered()
    assert world.done() == []


def test_only_when_addresses_have_moved(world: World) -> None:
    world.script.startipreallocate()
    world.script.recovered()
    assert world.done() == []


def test_move_that_nobody_knew_of_in_time(world: World) -> None:
    """The holder died: it is gone before there is a plan."""
    world.serve("n1", "n3")
    world.script.recovered()
    assert world.done() == [*RESTART, "notify 10.0.0.1"]


def test_take_is_noted_and_the_work_left_to_recovered(world: World) -> None:
    world.serve("n1", "n2", assigned=("n1", "n1"))
    world.script.startipreallocate()
    world.done()
    world.serve("n1", "n1")
    world.script.takeip("eth0", "10.0.0.2", "24")
    assert world.done() == []
    world.script.recovered()
    assert world.done() == ["notify 10.0.0.1 10.0.0.2"]
    world.script.recovered()
    assert world.done() == []


def test_daemon_that_does_not_say_who_has_which_address(world: World, tmp_path: Path) -> None:
    """Nobody would be notified, and the monitor list emptied: it has to be tried again."""
    listed = tmp_path / "sm" / "10.0.0.9"
    listed.touch()
    world.serve("n1", "n1")
    world.script.takeip("eth0", "10.0.0.2", "24")
    world.away = True
    with pytest.raises(world.script.Fail, match="holders of the addresses are unknown"):
        world.script.recovered()
    assert world.done() == RESTART
    assert listed.exists()
    world.away = False
    world.script.recovered()
    assert world.done() == ["notify 10.0.0.1 10.0.0.2"]


@pytest.mark.parametrize(("away", "holders", "restarted"), [(False, ("n2", "n2"), True), (True, ("n1", "n2"), False)])
def test_monitor_restarts_a_server_only_when_it_surely_has_no_address(
    world: World, away: bool, holders: tuple[str, ...], restarted: bool
) -> None:
    """A restart drops the locks of its clients."""
    world.serve(*holders)
    world.away = away
    world.script.restart("nlockmgr")
    assert ("nfs stop" in world.done()) is restarted


def test_nobody_is_told_before_the_lock_manager_answers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client asks for it at once, and gives its locks up for good when it is not registered."""
    present: list[bool] = []
    told: list[list[bool]] = []

    def ask(check: checks.Check, _timeout: float) -> None:
        present.append(check.name == "nlockmgr" and len(present) > 2)
        if not present[-1]:
            raise rpc.NotRegistered("not registered")

    monkeypatch.setattr(checks, "ask", ask)

    def notify(*_: object) -> str:
        told.append(list(present))
        return "told"

    monkeypatch.setattr(recovery, "notify", notify)
    monkeypatch.setattr(recovery, "new_state", lambda: 7)
    assert recovery.notify_when(world.script.locks_can_be_had, [], "", 60) == "told"
    assert told == [[False, False, False, True]]
    monkeypatch.setattr(recovery, "READY_WITHIN", 0)
    present.clear()
    assert "the lock manager does not answer" in recovery.notify_when(world.script.locks_can_be_had, [{}], "", 60)
    assert len(told) == 1


def test_server_is_told_whose_clients_come_before_it_starts_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's reads its records when it starts, and never again."""
    told: list[tuple[str, ...]] = []
    monkeypatch.setattr(Kernel, "begin_grace", lambda _, nodes=(): told.append(tuple(nodes)))
    world.serve("n1", "n2", assigned=("n1", "n1"))
    world.script.startipreallocate()
    assert told == [("n2",)]
    # Without a plan that it knew in time.
    world.script.notes().settle({"10.0.0.1": "n1 n1-1", "10.0.0.2": "n2 n2-1"})
    world.serve("n1", "n1")
    world.script.takeip("eth0", "10.0.0.2", "24")
    world.script.recovered()
    assert told == [("n2",), ("n2",)]


def lockd(world: World, number: int) -> None:
    """Linux's lockd as that process."""
    for old in world.proc.parent.parent.glob("[0-9]*"):
        shutil.rmtree(old)
    place = world.proc.parent.parent / str(number)
    place.mkdir()
    (place / "status").write_text("Name:\tlockd\nPPid:\t2\n")
    (place / "stat").write_text(f"{number} (lockd) I 2 {' '.join(['0'] * 17)} 777 0\n")


def test_server_that_an_administrator_restarted_has_told_no_client(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their locks are gone, and rpc.statd does not notify them: sm-notify runs once for each boot."""
    monkeypatch.setattr(checks, "ask", lambda *_: None)
    monkeypatch.setattr("os.kill", lambda *_: None)
    monkeypatch.setattr(rpc, "null_call", lambda *_, **__: None)
    lockd(world, 492)
    world.script.monitor()
    assert world.done() == ["watch 2049"]  # it was not known before
    world.script.monitor()
    assert world.done() == ["watch 2049"]
    # It gives its clients up when it ends.
    callout.keep(0)
    callout.record(["del-client", "10.0.0.9"])
    ends = Path(callout.directory()) / "ends"
    world.script.monitor()
    assert ends.exists()
    lockd(world, 633)
    world.no_store = True
    world.script.monitor()  # the node is not unhealthy because of its store
    assert world.done() == ["watch 2049", "again", "watch 2049"]
    world.no_store = False
    world.script.monitor()
    assert world.done() == ["notify 10.0.0.1", "watch 2049"]
    assert not ends.exists()
    world.script.monitor()
    assert world.done() == ["watch 2049"]
    # Its own restarts are followed by "recovered".
    world.serve("n1", "n2", assigned=("n1", "n3"))
    lockd(world, 700)
    world.script.startipreallocate()
    world.done()
    world.script.monitor()
    assert world.done() == ["watch 2049"]


def test_server_that_systemd_restarts_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failover would cost more than the restart. A server that systemd does not bring back is a failure."""
    lockd(world, 492)
    left, comes_back = [3], [True]

    def ask(check: checks.Check, _timeout: float) -> None:
        if check.essential and (left[0] or not comes_back[0]):
            raise rpc.NotRegistered("not registered")

    def changing(_: Kernel) -> bool:
        left[0] -= 1
        return left[0] > 0

    monkeypatch.setattr(checks, "ask", ask)
    monkeypatch.setattr(Kernel, "changing", changing)
    world.script.monitor()
    assert left == [0]
    left[0], comes_back[0] = 3, False
    with pytest.raises(Fail, match="not registered"):
        world.script.monitor()


def test_release_gives_up_its_locks_and_keeps_its_clients_on_the_list(world: World) -> None:
    world.script.releaseip("eth0", "10.0.0.1", "24")
    assert (world.proc / "unlock_ip").read_text() == "10.0.0.1\n"
    assert callout.is_kept(callout.directory())


def test_startup_and_shutdown(world: World) -> None:
    """A server of an earlier life is ended first. In the end everything is, and nobody watches its port."""
    world.script.startup()
    assert world.done() == [
        "nfs stop",
        "rpcbind start",
        "registered the port mapper",
        "statd start",
        "registered statd",
        *RESTART[2:],
        "watch 2049",
    ]
    assert not callout.is_kept(callout.directory())
    world.script.shutdown()
    assert world.done() == ["watch nothing", "nfs stop", "statd stop", "rpcbind stop"]
    assert (world.proc / "threads").read_text() == "0\n"


def test_startup_waits_for_the_exported_directories(world: World, tmp_path: Path) -> None:
    (tmp_path / "export").rmdir()
    vars(world.script)["TIMEOUT"] = 0.2
    with pytest.raises(world.script.Fail, match="export"):
        world.script.startup()
    assert not [line for line in world.done() if "start" in line]
