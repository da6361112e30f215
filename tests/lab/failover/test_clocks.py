"""Nodes whose clocks show what they like: only their rates are trusted, and bans end by what the leader's shows."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from locum_lab import node_files, services
from locum_lab.lab import Lab
from tests.lab.clusters import addresses_of, check_kernels, locum, wait_moved, wait_state
from tests.lab.conftest import MakeLab
from tests.lab.hostile import watch

pytestmark = [pytest.mark.lab, pytest.mark.long]

#: A daemon in a time namespace of its own (time_namespaces(7): both clocks since boot are moved), and with another
#: time of day. That one all namespaces share; so the daemon's rules are told another one, the kernel's gate is not.
START = """\
directory=${LOCUM_SOCKET%/runtime/control.sock}
read boot wall < "$directory/clocks"
exec unshare --time --boottime "$boot" --monotonic "$boot" \\
    "$LOCUM_TEST_PYTHON" "$directory/wrong_clock.py" "$wall" daemon --config "$directory/config.toml"
"""
WRONG_CLOCK = """\
import sys
import time

shift = float(sys.argv.pop(1))
right = time.time
time.time = lambda: right() + shift

from locum.cli.main import main

sys.exit(main())
"""
DAY = 86400
#: Seconds since boot and of the time of day, more or less than the others'.
CLOCKS = {"n1": (1_000_000, DAY), "n2": (0, -DAY), "n3": (77, 0)}


@pytest.fixture
def lab(make_lab: MakeLab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Three nodes, each with clocks of its own."""
    monkeypatch.setenv("LOCUM_TEST_PYTHON", sys.executable)
    made = make_lab(hold=1.0, services=("web",), daemons=False, daemon_command=("sh", "-c", START))
    for node, (boot, wall) in CLOCKS.items():
        directory = made.node_directory(node)
        (directory / "clocks").write_text(f"{boot} {wall}\n")
        (directory / "wrong_clock.py").write_text(WRONG_CLOCK)
        for name in (*node_files.SHIPPED, "50.web"):
            node_files.install(script(name), directory / "events")
    made.start_daemons()
    made.wait_served()
    for node, (_, wall) in CLOCKS.items():
        daemon = made.state.nodes[node].daemon
        assert daemon is not None
        assert Path(f"/proc/{daemon.pid}/ns/time").stat().st_ino != Path("/proc/self/ns/time").stat().st_ino
        logged = datetime.strptime(made.daemon_log(node).read_text()[:23], "%Y-%m-%d %H:%M:%S.%f").timestamp()
        assert abs(logged - time.time() - wall) < DAY / 2
    return made


def script(name: str) -> Path:
    """A shipped script, or an example."""
    found = services.shipped(name)
    return found if found.is_file() else Path(__file__).parents[3] / "examples" / "events" / name


def test_i1_holds_end_by_rates_not_by_what_clocks_show(lab: Lab) -> None:
    with watch(lab) as watching:
        for node in lab.layout.node_names:
            mine = addresses_of(lab, node)
            lab.fault(node, "freeze")
            wait_moved(lab, mine, node)
            lab.heal(node)
            lab.wait_served()
        for node in lab.layout.node_names:
            locum(lab, node, "ip", "move", "10.77.0.2", node)
        assert watching.end().violations == 0
    check_kernels(lab)


def test_a_ban_by_a_wrong_clock_disturbs_nobody_else_and_can_be_ended(lab: Lab) -> None:
    """The node that is asked writes the time of the end, the leader looks at its own clock: a ban may end at once, or a
    day late. Nothing but that hangs on it."""
    with watch(lab) as watching:
        for asked in lab.layout.node_names:
            for banned in lab.layout.node_names:
                locum(lab, asked, "node", "ban", banned, "--seconds", "600", "--no-wait")
                locum(lab, asked, "node", "unban", banned)
                wait_state(lab, banned, "OK")
        lab.wait_served()
        assert watching.end().violations == 0
    check_kernels(lab)
