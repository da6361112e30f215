"""The servers' ways, with stand-ins for their programs and for /proc."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from locum.nfs.backends import backend
from locum.nfs.backends.base import Backend
from locum.nfs.backends.kernel import Kernel
from locum.script import Fail
from tests.unit.nfs.conftest import command

MakeScript = Callable[..., Path]


def test_unknown_backend_names_the_others(script: MakeScript) -> None:
    script()
    with pytest.raises(Fail, match=r"'kernel' and 'ganesha'"):
        backend("unfs3")


# -- the kernel ----------------------------------------------------------------------------------------------------


@pytest.fixture
def kernel(script: MakeScript, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Kernel]:
    """A kernel server whose /proc is made of files; its services write what is done to them into ``log``."""
    # RPC is not what is tested here.
    monkeypatch.setattr(Backend, "wait_until_up", lambda *_: (tmp_path / "log").open("a").write("registered\n"))

    def make(threads: str = "8", **settings: object) -> Kernel:
        nfsd = tmp_path / "proc" / "fs" / "nfsd"
        nfsd.mkdir(parents=True)
        (nfsd / "threads").write_text(threads + "\n")
        (nfsd / "unlock_ip").write_text("")
        log = tmp_path / "log"
        services = {
            f"{kind}_{do}": ["sh", "-c", f"echo {kind} {do} >>{log}{extra}"]
            for kind in ("nfs", "lock")
            for do, extra in (("start", f"; echo 8 >{nfsd}/threads"), ("stop", ""))
        }
        if not settings.pop("lock", False):
            services = {name: value for name, value in services.items() if name.startswith("nfs")}
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


def test_kernel_release_without_a_server_is_nothing(kernel: Callable[..., Kernel], tmp_path: Path) -> None:
    kernel(threads="0").release("10.0.0.1")
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


def test_ganesha_on_one_line_with_other_parameters(script: MakeScript, tmp_path: Path) -> None:
    config = tmp_path / "ganesha.conf"
    config.write_text('EXPORT { Export_Id = 1; Path = "/srv/a"; Pseudo = "/a"; }\n')
    script(config=str(config))
    assert backend("ganesha").directories() == ["/srv/a"]


def test_ganesha_is_told_by_the_bus(script: MakeScript, tmp_path: Path) -> None:
    directory = script(recovery=True)
    command(directory, "dbus-send", f"echo \"$@\" >>{tmp_path}/log; printf 'boolean true\\n'")
    server = backend("ganesha")
    assert not server.begin_grace()
    server.release("10.0.0.1")
    server.take("fd77::2")
    sent = [line.split()[-1] for line in said(tmp_path)]
    assert sent == ["string:0:", "string:2:10.0.0.1", "string:5:fd77::2"]


def test_ganesha_that_refuses(script: MakeScript) -> None:
    directory = script()
    command(directory, "dbus-send", "printf 'boolean false\\nstring \"no\"\\n'")
    with pytest.raises(Fail, match=r"grace 2:10\.0\.0\.1 failed"):
        backend("ganesha").release("10.0.0.1")


def test_ganesha_is_restarted_when_the_bus_is_of_no_use(
    script: MakeScript, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backend, "wait_until_up", lambda *_: None)
    log = tmp_path / "log"
    directory = script(
        restart_pause=0,
        nfs_start=["sh", "-c", f"echo start >>{log}"],
        nfs_stop=["sh", "-c", f"echo stop >>{log}"],
    )
    command(directory, "dbus-send", "echo no bus; exit 1")
    assert backend("ganesha").begin_grace()
    assert said(tmp_path) == ["stop", "start"]
