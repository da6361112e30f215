"""50.samba through an engine over stand-ins, and what it reads of Samba's configuration."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from locum.events.model import Event
from locum.script import Fail, samba
from tests.unit.bench import Bench, until
from tests.unit.scripts.scene import Scene, free_port

TESTPARM = """\
# Global parameters
[global]
\tsmb ports = 445 139
\tpassword server = *
\tpath = 
[homes]
\tpath = /home/%S
[data]
\tcomment = a = b
\tpath = "/srv/my data"
[more]
\tpath = /srv/more
[again]
\tpath = /srv/more
"""  # noqa: W291


def test_what_testparm_prints_is_understood() -> None:
    found = samba.parse(TESTPARM)
    assert found.ports() == (445, 139)
    assert found.share_directories() == ("/home/%S", "/srv/my data", "/srv/more")
    assert found.sections["data"]["comment"] == "a = b"
    with pytest.raises(Fail, match="smb ports"):
        samba.parse("").ports()


#: Shares whose directories smbd does not look for in this machine's file system, or only once a client has come.
NOT_LOOKED_FOR = """
[blob]
\tpath = /blob
\tvfs objects = glusterfs
[stacked]
\tpath = /volumes/group/share
\tvfs objects = acl_xattr,ceph_new
[file]
\tpath = /rados
\tvfs objects = /usr/lib/x86_64-linux-gnu/samba/vfs/ceph.so
[off]
\tpath = /not/there
\tavailable = no
[hidden]
\tpath = /hidden
\t-valid = no
[printers]
\tpath = /var/spool/none
\tprint ok = yes
[made]
\tpath = /made/on/demand
\troot preexec = mkdir -p /made/on/demand
[elsewhere]
\tpath = /proxy
\tmsdfs root = yes
\tmsdfs proxy = \\server\\share
[homes]
\tbrowseable = no
[nothing]
\tcomment = without a path
"""
LOOKED_FOR = """
[data]
\tpath = "/srv/my data"
[fuse]
\tpath = /gluster/volume
\tvfs objects = glusterfs_fuse shadow_copy2
[snapshots]
\tpath = /cephfs/share
\tvfs objects = ceph_snapshots
"""
LOCAL = ("/srv/my data", "/gluster/volume", "/cephfs/share")


def real_testparm(tmp_path: Path, text: str) -> samba.SambaConfiguration:
    """What Samba itself makes of ``text``."""
    (tmp_path / "smb.conf").write_text(text)
    command = ["testparm", "--suppress-prompt", "--verbose", str(tmp_path / "smb.conf")]
    return samba.parse(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


needs_testparm = pytest.mark.skipif(shutil.which("testparm") is None, reason="Samba is not installed")


@needs_testparm
def test_only_directories_that_smbd_looks_for_are_waited_for(tmp_path: Path) -> None:
    places = "".join(f"\t{what} = {tmp_path}\n" for what in ("private dir", "lock directory", "cache directory"))
    found = real_testparm(tmp_path, f"[global]\n{places}{LOOKED_FOR}{NOT_LOOKED_FOR}")
    assert found.share_directories() == LOCAL
    assert found.share_directories(skip=["DATA", "fuse"]) == LOCAL[2:]


@needs_testparm
def test_what_all_shares_have_in_common_holds_for_each_that_says_nothing_else(tmp_path: Path) -> None:
    shares = "[a]\n\tpath = /a\n[b]\n\tpath = /b\n\tvfs objects =\n[c]\n\tpath = /c\n\tvfs objects = fruit\n"
    assert real_testparm(tmp_path, f"[global]\n\tvfs objects = glusterfs\n{shares}").share_directories() == ("/b", "/c")
    assert real_testparm(tmp_path, f"[global]\n\troot preexec = /bin/x\n{shares}").share_directories() == ()
    below = samba.parse(f"[global]\nroot directory = /jail/\n{shares}")
    assert below.share_directories() == ("/jail/a", "/jail/b", "/jail/c")


class SambaScene(Scene):
    """50.samba over a testparm and an smbd of ours."""

    def __init__(self, bench: Bench, share: Path) -> None:
        self.port = free_port()
        self.testparm = bench.place / "testparm"
        self.share = share
        self.says(f"smb ports = {self.port}\n[data]\npath = {share}\n[homes]\npath = /nowhere/%S")
        super().__init__(
            bench,
            "50.samba",
            testparm=str(self.testparm),
            command=[sys.executable, "-c", SMBD, str(self.port)],
            cleanup=["sh", "-c", f"echo cleaned >>{bench.file('cleanups')}"],
            timeout=5,
        )

    def says(self, configuration: str, before: str = "") -> None:
        """What testparm is to print."""
        self.testparm.write_text(f"#!/bin/sh\n{before}\ncat <<'END'\n[global]\n{configuration}\nEND\n")
        self.testparm.chmod(self.testparm.stat().st_mode | stat.S_IXUSR)


SMBD = """\
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    client, _ = server.accept()
    client.recv(4)
    client.sendall((64).to_bytes(4, "big") + b"\\xfeSMB" + bytes(60))
    client.close()
"""


@pytest.fixture
def smb(bench: Bench, tmp_path: Path) -> Iterator[SambaScene]:
    share = tmp_path / "share"
    share.mkdir()
    scene = SambaScene(bench, share)
    yield scene
    scene.end()


def test_samba_from_start_to_end(smb: SambaScene, bench: Bench) -> None:
    smb.ok(Event.STARTUP)
    assert smb.listens() == [smb.port]
    smb.ok(Event.MONITOR)
    smb.ok(Event.MONITOR)
    assert bench.lines("cleanups") == ["cleaned"], "now and then, not each time"
    smb.settings["cleanup-interval"] = 0
    smb.ok(Event.SHUTDOWN)
    assert smb.listens() == []


def test_samba_does_not_wait_for_a_share_that_it_reaches_otherwise(smb: SambaScene) -> None:
    smb.says(f"smb ports = {smb.port}\n[data]\npath = {smb.share}\n[g]\npath = /blob\nvfs objects = glusterfs")
    smb.settings["timeout"] = 5
    smb.ok(Event.STARTUP)
    smb.ok(Event.MONITOR)
    smb.says(f"smb ports = {smb.port}\n[data]\npath = {smb.share}\n[own]\npath = /blob\nvfs objects = own_module")
    smb.ok(Event.MONITOR)
    assert "/blob" in smb.fails(Event.MONITOR)
    smb.settings["skip-shares"] = ["own"]
    smb.ok(Event.MONITOR)


def test_samba_waits_for_its_shares(smb: SambaScene) -> None:
    smb.share.rmdir()
    smb.settings["timeout"] = 0.2
    assert f"directory {smb.share} did not come" in smb.fails(Event.STARTUP)
    assert not list((smb.bench.runtime / "services").glob("50.samba*"))


def test_a_share_that_is_gone(smb: SambaScene) -> None:
    smb.ok(Event.STARTUP)
    smb.share.rmdir()
    assert f"not available: {smb.share}" in smb.fails(Event.MONITOR)
    smb.settings["check-shares"] = False
    smb.ok(Event.MONITOR)


@pytest.mark.parametrize("trouble", ["echo 'what is this' >&2; exit 1", "sleep 1000"])
def test_a_testparm_that_fails_or_hangs(smb: SambaScene, trouble: str) -> None:
    good = f"smb ports = {smb.port}\n[data]\npath = {smb.share}"
    smb.settings["testparm-timeout"] = 0.5
    smb.says(good, before=trouble)
    assert "testparm" in smb.fails(Event.STARTUP), "nothing is known"
    smb.settings["testparm-timeout"] = 10
    smb.says(good)
    smb.ok(Event.STARTUP)
    smb.settings["testparm-timeout"] = 0.5
    smb.says(good, before=trouble)
    assert "previous configuration is used" in smb.ok(Event.MONITOR)


def test_a_monitor_that_has_taken_long_cleans_up_another_time(smb: SambaScene, bench: Bench) -> None:
    """What hangs testparm hangs smbstatus as well, and both together last until MonitorTimeout."""
    smb.ok(Event.STARTUP)
    script = bench.scripts / smb.name
    text = script.read_text()
    script.write_text(text.replace("HURRY = 5.0", "HURRY = 0.3"))
    assert script.read_text() != text
    good = f"smb ports = {smb.port}\n[data]\npath = {smb.share}"
    smb.settings["testparm-timeout"] = 0.4
    smb.says(good, before="sleep 1000")
    assert "did not end within" in smb.ok(Event.MONITOR)
    assert bench.lines("cleanups") == []
    smb.says(good)
    until(lambda: smb.ok(Event.MONITOR) is not None and bench.lines("cleanups"))


def test_a_new_share_is_watched_from_the_next_monitor_on(smb: SambaScene) -> None:
    smb.ok(Event.STARTUP)
    smb.says(f"smb ports = {smb.port}\n[data]\npath = /not/there")
    smb.ok(Event.MONITOR)
    assert "not available: /not/there" in smb.fails(Event.MONITOR)


def test_winbind_is_started_first_and_checked(smb: SambaScene, bench: Bench) -> None:
    calls = bench.file("calls")
    smb.settings |= {
        "winbind": True,
        "winbind-start": ["sh", "-c", f"echo start >>{calls}"],
        "winbind-stop": ["sh", "-c", f"echo stop >>{calls}"],
        "winbind-check": "true",
    }
    smb.ok(Event.STARTUP)
    smb.ok(Event.MONITOR)
    smb.settings["winbind-check"] = ["sh", "-c", "echo could not ping winbindd; exit 1"]
    assert "could not ping winbindd" in smb.fails(Event.MONITOR)
    smb.settings["winbind-check"] = "true"
    smb.ok(Event.SHUTDOWN)
    assert bench.lines("calls")[0] == "start"
    assert bench.lines("calls")[-1] == "stop"
