"""The servers' ways, with stand-ins for their programs and for /proc."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from locum import rpc
from locum.nfs.backends import backend, kernel_server
from locum.nfs.backends.base import Backend
from locum.nfs.backends.kernel_server import Kernel
from locum.nfs.services import Daemon
from locum.script import Fail
from tests.unit.nfs.conftest import command
from tests.unit.nfs.test_cld_records import make, rows

MakeScript = Callable[..., Path]


def test_unknown_backend_names_the_others(script: MakeScript) -> None:
    script()
    with pytest.raises(Fail, match=r"'kernel' or 'ganesha'"):
        backend("unfs3")


def test_start_waits_for_what_is_checked(script: MakeScript, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of NFSv4 alone has no mount and no lock manager."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(Backend, "wait_for_rpc", lambda _, program, version, *__: asked.append((program, version)))
    script()
    backend("ganesha").wait_until_up(0)
    assert asked == [(rpc.NFS, 3), (rpc.MOUNTD, 3), (rpc.NLM, 4)]
    asked.clear()
    script(versions=[4], skip=["mountd", "nlockmgr"])
    backend("ganesha").wait_until_up(0)
    assert asked == [(rpc.NFS, 4)]


# -- the kernel ----------------------------------------------------------------------------------------------------


@pytest.fixture
def kernel(script: MakeScript, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Kernel]:
    """A kernel server whose /proc is made of files; its services write what is done to them into ``log``."""
    # RPC is not what is tested here.
    monkeypatch.setattr(Backend, "wait_until_up", lambda *_: (tmp_path / "log").open("a").write("registered\n"))

    def make(running: str = "8", **settings: object) -> Kernel:
        nfsd = tmp_path / "proc" / "fs" / "nfsd"
        nfsd.mkdir(parents=True, exist_ok=True)
        (nfsd / "threads").write_text(running + "\n")
        (nfsd / "unlock_ip").write_text("")
        log = tmp_path / "log"
        services = {
            f"{kind}_{do}": ["sh", "-c", f"echo {kind} {do} >>{log}{extra}"]
            for kind in ("nfs", "lock", "mountd")
            for do, extra in (("start", f"; echo 8 >{nfsd}/threads"), ("stop", ""))
        }
        kinds = ("nfs", *(kind for kind in ("lock", "mountd") if settings.pop(kind, False)))
        services = {name: value for name, value in services.items() if name.startswith(kinds)}
        script(proc=str(tmp_path / "proc"), restart_pause=0, **services, **settings)
        return Kernel()

    return make


def said(directory: Path) -> list[str]:
    return (directory / "log").read_text().splitlines()


def test_kernel_stop_tells_the_threads_to_end(kernel: Callable[..., Kernel], tmp_path: Path) -> None:
    server = kernel()
    assert server.running()
    server.stop()
    assert (tmp_path / "proc/fs/nfsd/threads").read_text() == "0\n"
    assert not server.running()
    assert said(tmp_path) == ["nfs stop"]


def test_kernel_grace_is_a_restart_that_drops_locks(kernel: Callable[..., Kernel], tmp_path: Path) -> None:
    assert kernel().begin_grace()
    assert said(tmp_path) == ["nfs stop", "nfs start", "registered"]


def test_kernel_restarts_the_lock_manager_alone_where_it_can(kernel: Callable[..., Kernel], tmp_path: Path) -> None:
    assert kernel(lock=True).begin_grace()
    assert said(tmp_path) == ["lock stop", "lock start", "registered"]


def test_kernel_mountd_of_its_own_is_restarted_alone(kernel: Callable[..., Kernel], tmp_path: Path) -> None:
    server = kernel(mountd=True)
    assert sorted(server.parts) == ["mountd", "status"]
    server.parts["mountd"].kill()
    server.parts["mountd"].start()
    assert said(tmp_path) == ["mountd stop", "mountd start"]


def test_kernel_threads_are_as_many_as_wanted(kernel: Callable[..., Kernel], tmp_path: Path) -> None:
    threads = tmp_path / "proc/fs/nfsd/threads"
    kernel(running="3").tend()
    assert threads.read_text() == "3\n"


def test_kernel_threads_that_got_lost(kernel: Callable[..., Kernel], tmp_path: Path) -> None:
    threads = tmp_path / "proc/fs/nfsd/threads"
    kernel(running="3", threads=8).tend()
    assert threads.read_text() == "8\n"


def test_kernel_server_that_does_not_run_gets_no_threads(kernel: Callable[..., Kernel], tmp_path: Path) -> None:
    threads = tmp_path / "proc/fs/nfsd/threads"
    kernel(running="0", threads=8).tend()
    assert threads.read_text() == "0\n"


def test_kernel_pause_between_stop_and_start(
    kernel: Callable[..., Kernel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = kernel()
    monkeypatch.setattr("time.sleep", lambda seconds: (tmp_path / "log").open("a").write(f"pause {seconds:g}\n"))
    server.restart(5)
    assert said(tmp_path)[:3] == ["nfs stop", "pause 0", "nfs start"]


def test_kernel_release_gives_up_the_locks_of_the_address(kernel: Callable[..., Kernel], tmp_path: Path) -> None:
    kernel().release("10.0.0.1")
    assert (tmp_path / "proc/fs/nfsd/unlock_ip").read_text() == "10.0.0.1\n"


def test_kernel_release_names_the_error_of_its_only_write(
    kernel: Callable[..., Kernel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """nfsd answers EBUSY to whatever is written after a write that failed."""
    answers = [OSError(errno.EIO, os.strerror(errno.EIO))]

    def write(*_: object) -> int:
        raise answers.pop() if answers else OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    server = kernel()
    monkeypatch.setattr(os, "write", write)
    with pytest.raises(Fail, match=r"unlock_ip: Input/output error$"):
        server.release("10.0.0.1")


# As Linux 6.1 shows them.
INFO = """clientid: 0xcd52c1026b0a0af9
address: "{}"
status: confirmed
seconds from last renew: 0
name: "Linux NFSv4.2 c1"
minor version: 2
callback address: 10.9.0.2:0
"""


def v4_client(directory: Path, number: int, address: str) -> Path:
    """A client as nfsd shows it; returns the file that takes orders."""
    place = directory / "proc/fs/nfsd/clients" / str(number)
    place.mkdir(parents=True)
    (place / "info").write_text(INFO.format(address))
    (place / "ctl").write_text("")
    return place / "ctl"


def test_kernel_release_gives_up_the_state_of_connected_nfsv4_clients(
    kernel: Callable[..., Kernel], tmp_path: Path
) -> None:
    """It would block them at the next holder."""
    here = v4_client(tmp_path, 3, "10.0.0.9:815")
    here6 = v4_client(tmp_path, 4, "[fd00::9]:815")
    elsewhere = v4_client(tmp_path, 5, "10.0.0.99:815")
    kernel(recovery=str(tmp_path)).release("10.0.0.1", {"10.0.0.9", "fd00::9"})
    assert [file.read_text() for file in (here, here6, elsewhere)] == ["expire\n", "expire\n", ""]


def test_kernel_keeps_nfsv4_state_that_no_other_node_lets_reclaim(
    kernel: Callable[..., Kernel], tmp_path: Path
) -> None:
    here = v4_client(tmp_path, 3, "10.0.0.9:815")
    kernel().release("10.0.0.1", {"10.0.0.9"})
    assert here.read_text() == ""


def test_kernel_lets_clients_of_former_holders_reclaim(
    kernel: Callable[..., Kernel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their records are added while nfsd is stopped: it reads them when it starts."""
    shared = tmp_path / "shared"
    make(shared / "n1", 4, e4=[b"one"])
    make(shared / "n2", 9, e9=[b"two"])
    monkeypatch.setattr("time.sleep", lambda _: (tmp_path / "log").open("a").write(f"pause {rows(shared / 'n1', 4)}\n"))
    server = kernel(recovery=str(shared))
    server_start = server.start

    def start() -> None:
        (tmp_path / "log").open("a").write(f"start {rows(shared / 'n1', 4)}\n")
        server_start()

    monkeypatch.setattr(server, "start", start)
    assert server.begin_grace(["n2", "n3"])
    assert said(tmp_path) == [
        "nfs stop",
        "pause [b'one']",
        "start [b'one', b'two']",
        "nfs start",
        "registered",
    ]
    assert rows(shared / "n2", 9) == [b"two"]


def test_kernel_starts_without_records_of_a_node_that_has_none(
    kernel: Callable[..., Kernel], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kernel(recovery=str(tmp_path / "shared")).begin_grace(["n2"])
    assert "NFSv4 clients of n2 cannot reclaim: " in capsys.readouterr().out
    assert said(tmp_path)[1:] == ["nfs start", "registered"]


def lockd(directory: Path, number: int, parent: int) -> None:
    (directory / "bin").mkdir(exist_ok=True)
    command(directory, "nfsconf", "echo n")
    place = directory / "proc" / str(number)
    place.mkdir(parents=True)
    (place / "status").write_text(f"Name:\tlockd\nUmask:\t0000\nPPid:\t{parent}\n")


def test_kernel_starts_without_nfsconf(
    kernel: Callable[..., Kernel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is only asked for a warning."""
    server = kernel()
    grace = tmp_path / "proc/fs/lockd/nlm_end_grace"
    grace.parent.mkdir(parents=True)
    grace.write_text("Y\n\0")
    monkeypatch.setenv("PATH", "/bin/none")
    monkeypatch.setattr(Daemon, "start", lambda *_: None)
    server.start()
    assert "set lift-grace=n" in capsys.readouterr().out


def test_kernel_lockd_that_outlives_nfsd_drops_its_locks_on_a_signal(
    kernel: Callable[..., Kernel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As on a machine that mounts NFSv3 itself: without it, locks stay and no grace period begins."""
    lockd(tmp_path, 492, 2)
    lockd(tmp_path, 4920, 1)  # a process of that name
    grace = tmp_path / "proc/fs/lockd/nlm_end_grace"
    grace.parent.mkdir(parents=True)
    grace.write_text("Y\n\0")
    killed: list[tuple[int, int]] = []

    def kill(number: int, what: int) -> None:
        killed.append((number, what))
        if len(killed) == 2:  # the first one's grace period is over by now
            grace.write_text("N\n\0")

    monkeypatch.setattr("os.kill", kill)
    assert kernel().begin_grace()
    assert killed == [(492, 9), (492, 9)]
    assert "no grace period begins" not in capsys.readouterr().out


def test_kernel_without_a_grace_period_says_so(
    kernel: Callable[..., Kernel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Linux 6.6 and later ignore the signal."""
    lockd(tmp_path, 492, 2)
    (tmp_path / "proc/fs/lockd").mkdir(parents=True)
    (tmp_path / "proc/fs/lockd/nlm_end_grace").write_text("Y\n\0")
    monkeypatch.setattr("os.kill", lambda *_: None)
    monkeypatch.setattr(rpc, "null_call", lambda *_, **__: None)
    monkeypatch.setattr(kernel_server, "_SIGNAL_LIMIT", 0.1)
    assert kernel().begin_grace()
    assert "no grace period begins" in capsys.readouterr().out


def test_kernel_release_without_a_server_is_nothing(kernel: Callable[..., Kernel], tmp_path: Path) -> None:
    kernel(running="0").release("10.0.0.1")
    assert (tmp_path / "proc/fs/nfsd/unlock_ip").read_text() == ""


def test_kernel_exports_as_exportfs_tells(kernel: Callable[..., Kernel], tmp_path: Path) -> None:
    server = kernel()
    command(
        tmp_path,
        "exportfs",
        r"""printf '%s\n' '/srv/a  10.0.0.0/8(rw,sync)' '/srv/a  fd00::/8(ro)' '/srv/with\040blank  *(ro)'""",
    )
    assert server.directories() == ["/srv/a", "/srv/with blank"]


def test_configured_exports_go_first(kernel: Callable[..., Kernel]) -> None:
    assert kernel(exports=["/srv/x"]).directories() == ["/srv/x"]


# -- NFS-Ganesha ---------------------------------------------------------------------------------------------------


def test_ganesha_exports_are_in_its_configuration(script: MakeScript, tmp_path: Path) -> None:
    config = tmp_path / "ganesha.conf"
    config.write_text('EXPORT { Path = "/srv/a/"; Pseudo = "/a"; }\nEXPORT {\n  Path = /srv/b;\n}\n# Path = /srv/no;\n')
    script(config=str(config))
    assert backend("ganesha").directories() == ["/srv/a", "/srv/b"]


def test_ganesha_exports_of_other_systems_are_no_directories_of_this_machine(
    script: MakeScript, tmp_path: Path
) -> None:
    config = tmp_path / "ganesha.conf"
    config.write_text("""\
        NFS_Core_Param { NFS_Port = 2049; }
        EXPORT { Export_Id = 1; Path = "/volumes/a"; FSAL { Name = CEPH; User_Id = "ganesha"; } }
        EXPORT { Path = /vol0; FSAL { name = "GLUSTER"; hostname = localhost; volume = "vol0"; } }
        EXPORT { Path = /srv/b; FSAL { Name = MDCACHE; FSAL { Name = VFS; } } }
        EXPORT { Path = /far; FSAL { Name = PROXY_V4; Srv_Addr = 192.0.2.1; } }
        EXPORT { FSAL { Name = XFS; } CLIENT { Clients = *; } Path = "/srv/c"; }
    """)
    script(config=str(config))
    assert backend("ganesha").directories() == ["/srv/b", "/srv/c"]


def test_ganesha_on_one_line_with_other_parameters(script: MakeScript, tmp_path: Path) -> None:
    config = tmp_path / "ganesha.conf"
    config.write_text('EXPORT { Export_Id = 1; Path = "/srv/a"; Pseudo = "/a"; }\n')
    script(config=str(config))
    assert backend("ganesha").directories() == ["/srv/a"]


@pytest.fixture
def bus(script: MakeScript, tmp_path: Path) -> Callable[..., Backend]:
    """NFS-Ganesha on a message bus that writes what it is sent into ``log``."""

    def make(**settings: object) -> Backend:
        directory = script(**settings)
        command(directory, "dbus-send", f"echo \"$@\" >>{tmp_path}/log; printf 'boolean true\\n'")
        return backend("ganesha")

    return make


def sent(directory: Path) -> list[str]:
    return [line.split("string:")[1] for line in said(directory)]


def test_ganesha_is_told_by_the_bus(bus: Callable[..., Backend], tmp_path: Path) -> None:
    server = bus()
    assert not server.begin_grace()
    server.release("10.0.0.1", ["10.0.0.9"])
    server.welcome(["n2"])
    server.lose(["fd77::2", "10.0.0.1"])
    assert sent(tmp_path) == ["0:", "2:10.0.0.1", "2:fd77::2", "2:10.0.0.1"]


def records(directory: Path, node: str, *clients: str) -> None:
    for client in clients:
        (directory / "recovery" / node / "v4recov" / client).mkdir(parents=True)


def test_ganesha_with_records_releases_those_that_were_connected(bus: Callable[..., Backend], tmp_path: Path) -> None:
    records(tmp_path, "n1", "::ffff:10.0.0.8-(1:a)", "::ffff:10.0.0.9-(11:Linux one:1)", "fd77::9-(1:c)")
    bus(recovery=str(tmp_path / "recovery")).release("10.0.0.1", {"10.0.0.9"})
    assert sent(tmp_path) == ["2:10.0.0.1", "2:Linux one:1", "3:"]


@pytest.mark.parametrize("names", [["0x0102"], [f"name {number:02}" for number in range(21)]])
def test_ganesha_releases_all_when_one_by_one_is_not_to_be_had(
    bus: Callable[..., Backend], tmp_path: Path, names: list[str]
) -> None:
    records(tmp_path, "n1", *(f"::ffff:10.0.0.9-({len(name)}:{name})" for name in names))
    bus(recovery=str(tmp_path / "recovery")).release("10.0.0.1", {"10.0.0.9"})
    assert sent(tmp_path) == ["2:10.0.0.1", "2:", "3:"]


def test_ganesha_reads_the_records_of_others_and_its_own(bus: Callable[..., Backend], tmp_path: Path) -> None:
    bus(recovery="/cluster/nfs").welcome(["n1", "n2"])
    assert sent(tmp_path) == ["3:", "5:../n2", "5:../n2/old"]


def test_ganesha_that_lost_its_addresses_gives_up_everything(bus: Callable[..., Backend], tmp_path: Path) -> None:
    bus(recovery="/cluster/nfs").lose(["10.0.0.1"])
    assert sent(tmp_path) == ["2:10.0.0.1", "2:"]


def test_ganesha_needs_the_directory_of_the_records(script: MakeScript) -> None:
    script(exports=["/srv/a"], recovery="/cluster/nfs")
    assert backend("ganesha").directories() == ["/srv/a", "/cluster/nfs"]


def ends(backend: Callable[[], None], log: Path) -> None:
    log.unlink(missing_ok=True)
    backend()
    assert log.read_text() == "stop\n"


def test_ganesha_that_cannot_be_told_to_give_up_locks_is_ended(
    script: MakeScript, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    directory = script(nfs_start="true", nfs_stop=["sh", "-c", f"echo stop >>{log}"], nfs_status="true")
    command(directory, "dbus-send", "printf 'boolean false\\nstring \"no\"\\n'")
    ends(lambda: backend("ganesha").release("10.0.0.1"), log)
    assert "grace 2:10.0.0.1 failed: boolean false" in capsys.readouterr().out
    ends(lambda: backend("ganesha").lose(["10.0.0.1", "10.0.0.2"]), log)


def test_the_cluster_does_not_wait_for_a_ganesha_that_does_not_come_back(
    script: MakeScript, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def hangs(_self: Backend, _deadline: float) -> None:
        raise Fail("no answer of nfs")

    monkeypatch.setattr(Backend, "wait_until_up", hangs)
    directory = script(restart_pause=0, nfs_start="true", nfs_stop="true", nfs_status="true")
    command(directory, "dbus-send", "echo no bus; exit 1")
    assert backend("ganesha").begin_grace(), "what it had is gone: all are to be notified"
    assert "no answer of nfs" in capsys.readouterr().out


def test_ganesha_is_restarted_when_the_bus_is_of_no_use(
    script: MakeScript, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backend, "wait_until_up", lambda *_: None)
    log = tmp_path / "log"
    directory = script(
        restart_pause=0,
        nfs_start=["sh", "-c", f"echo start >>{log}"],
        nfs_stop=["sh", "-c", f"echo stop >>{log}"],
        nfs_status="true",
    )
    command(directory, "dbus-send", "echo no bus; exit 1")
    assert backend("ganesha").begin_grace()
    # It may hang: it is ended first, which with commands is the same as stopping it.
    assert said(tmp_path) == ["stop", "stop", "start"]


def test_ganesha_by_commands_must_tell_whether_it_runs(script: MakeScript) -> None:
    """Else no grace period would ever begin."""
    script(nfs_start="true", nfs_stop="true")
    with pytest.raises(Fail, match="nfs_start needs nfs_status"):
        backend("ganesha").start()
