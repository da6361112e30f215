"""Labs of an ordinary user: everything inside a user namespace."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from locum_lab import processes

pytestmark = pytest.mark.lab

#: nobody, with no capability at all.
UID = 65534
ORDINARY = (
    *("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"),
    *("--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all"),
)


def python() -> str:
    """A Python that an ordinary user can run: root's own may stand in a directory that is closed to others."""
    for candidate in (sys.executable, "/usr/bin/python3"):
        # From a shell that has no privileges left; setpriv itself may still have some when it executes its command.
        code = "import sys; sys.exit(sys.version_info < (3, 11))"
        command = [*ORDINARY, "sh", "-c", 'exec "$0" -c "$1"', candidate, code]
        if subprocess.run(command, check=False, capture_output=True).returncode == 0:
            return candidate
    pytest.fail("an ordinary user can run no Python 3.11 on this machine: install Debian's python3")


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory of labs that belongs to an ordinary user, gone afterwards with its holder."""
    directory = Path(f"/tmp/locum-ordinary-{os.getpid()}")
    directory.mkdir(mode=0o700)
    os.chown(directory, UID, UID)
    yield directory
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        command = processes.command_of(pid)
        if command.startswith("unshare ") and str(directory) in command:
            processes.kill_all(lambda pid=pid: processes.family([pid]))  # type: ignore[misc]
    shutil.rmtree(directory)


def lab(base: Path, *arguments: str, status: int = 0) -> str:
    """Run ``locum lab`` as the ordinary user; its output, after checking the exit status."""
    packages = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [*ORDINARY, python(), "-m", "locum.cli.main", "lab", *arguments],
        env={"PATH": "/usr/bin:/bin", "LOCUM_LAB_DIR": str(base), "PYTHONPATH": packages, "HOME": "/nonexistent"},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_whole_lab_and_nothing_left(base: Path) -> None:
    before = set(os.listdir("/sys/class/net"))
    lab(base, "up", "--nodes", "2", "--addresses", "4", "--hold", "1")
    shown = lab(base, "status")
    assert shown.count("OK") == 2
    assert "10.77.0.2" in lab(base, "exec", "n1", "--", python(), "-m", "locum.cli.main", "ip")
    assert lab(base, "probe", "--seconds", "0.5").count('"ok":true') > 50
    lab(base, "fault", "n1", "cut")
    assert "FAULT cut" in lab(base, "status")
    lab(base, "heal")
    assert lab(base, "exec", "n2", "--", "sh", "-c", "exit 7", status=7) == ""
    assert set(os.listdir("/sys/class/net")) == before
    lab(base, "down")
    assert os.listdir(base) == []


def test_the_demo(base: Path) -> None:
    shown = lab(base, "demo", "--rounds", "1", "--hold", "1")
    assert "killed everything" in shown
    assert "PROBLEM" not in shown
    assert os.listdir(base) == []


def test_where_the_kernel_forbids_it_one_line_says_so(base: Path) -> None:
    # Root without capabilities may not map itself: the same refusal as on a system without user namespaces.
    done = subprocess.run(
        [
            *("setpriv", "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all"),
            *(sys.executable, "-m", "locum.cli.main", "lab", "up"),
        ],
        env={**os.environ, "LOCUM_LAB_DIR": "/tmp/locum-forbidden"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "user namespace" in done.stderr
    assert not os.path.exists("/tmp/locum-forbidden") or os.listdir("/tmp/locum-forbidden") == []
    assert os.listdir(base) == []


def test_a_lab_on_etcd_and_nothing_left(base: Path) -> None:
    lab(base, "up", "--store", "etcd", "--addresses", "4")
    assert lab(base, "status").count("OK") == 3
    lab(base, "fault", "n1", "kill-etcd")
    lab(base, "heal")
    lab(base, "down")
    assert list(base.iterdir()) == []
