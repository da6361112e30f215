"""50.samba with a real winbindd that is not a member of a domain; test_domain.py has members."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from locum_lab import processes
from locum_lab.lab import Lab
from tests.lab.clusters import wait_state
from tests.lab.conftest import MakeLab

pytestmark = [pytest.mark.lab, pytest.mark.long]

#: Where winbindd and wbinfo meet; the path is built into both, so only one node can have it.
MEETING = Path("/run/samba/winbindd")


@pytest.fixture
def lab(make_lab: MakeLab) -> Iterator[Lab]:
    """One node with smbd and winbindd."""
    assert shutil.which("winbindd", path="/usr/sbin:/usr/bin"), "winbindd is not installed (Debian package: winbind)"
    assert shutil.which("wbinfo"), "wbinfo is not installed (Debian package: winbind)"
    existed = MEETING.exists()
    MEETING.parent.mkdir(parents=True, exist_ok=True)
    made = make_lab(
        nodes=1,
        addresses=1,
        services=["samba"],
        settings="[tunables]\nMonitorInterval = 0.5\nHealthyDelay = 0",
        daemons=False,
    )
    smb_conf = made.node_directory("n1") / "samba" / "smb.conf"
    config = made.node_directory("n1") / "config.toml"
    table = '[scripts."50.samba"]\n'
    settings = (
        f'winbind = true\nwinbind-check-timeout = 1\nwinbind-command = ["winbindd", "--foreground", '
        f'"--no-process-group", "--configfile={smb_conf}"]\n'
    )
    assert config.read_text().count(table) == 1
    config.write_text(config.read_text().replace(table, table + settings))
    made.start_daemons()
    made.wait_served()
    yield made
    made.down()
    if not existed:
        shutil.rmtree(MEETING, ignore_errors=True)


def winbindd(lab: Lab) -> tuple[processes.Process, ...]:
    return tuple(p for p in lab.service_processes("n1", "samba") if processes.name_of(p.pid).startswith("winbindd"))


def test_winbindd_is_started_watched_and_stopped(lab: Lab) -> None:
    assert "succeeded" in lab.run("n1", ["wbinfo", "--ping"]).stdout
    before = set(winbindd(lab))
    assert before
    # One that dies is started again, after the node has said so.
    assert processes.kill_all(lambda: winbindd(lab))
    report = wait_state(lab, "n1", "UNHEALTHY")
    assert "winbind is not running; starting it again" in report.reason
    wait_state(lab, "n1", "OK")
    assert not before & set(winbindd(lab))
    # One that hangs still has its socket.
    stopped = processes.stop_all(lambda: winbindd(lab))
    report = wait_state(lab, "n1", "UNHEALTHY")
    assert "wbinfo --ping" in report.reason
    for process in stopped:
        processes.send(process, signal.SIGCONT)
    wait_state(lab, "n1", "OK")
    lab.stop_daemon("n1")
    lab.wait_for("the end of winbindd", lambda: not winbindd(lab))
