"""Processes by pid and start time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import msgspec

from locum.processes import is_alive
from locum_lab import processes


def test_a_reused_pid_is_another_process() -> None:
    me = processes.find(os.getpid())
    assert me is not None
    assert processes.alive(me)
    stranger = msgspec.structs.replace(me, started=me.started - 1)
    assert not processes.alive(stranger)
    assert not processes.send(stranger, signal.SIGTERM)


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen(["true"])
    process = processes.find(child.pid)
    deadline = time.monotonic() + 30
    while processes.find(child.pid) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert not processes.alive(process)
    child.wait()


def test_a_process_lives_as_long_as_one_of_its_threads() -> None:
    code = (
        "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(600,)).start();"
        "print(1, flush=True); ctypes.CDLL(None).pthread_exit(None)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        deadline = time.monotonic() + 60
        while (stat := processes.read_stat(child.pid)) is not None and stat.state != "Z":
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process = processes.find(child.pid)
        assert process is not None
        assert process in processes.family([child.pid])
        # The same for scripts and the services that they start.
        assert is_alive(process.pid, process.started)
        assert processes.send(process, signal.SIGKILL)
        while processes.alive(process) or is_alive(process.pid, process.started):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        child.wait()


def test_names_with_parentheses_and_blanks() -> None:
    code = "import ctypes,time; ctypes.CDLL(None).prctl(15, b') R 1 (', 0, 0, 0); print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        stat = processes.read_stat(child.pid)
        assert stat is not None
        assert stat.parent == os.getpid()
        child.kill()


def test_a_whole_family_dies_at_once() -> None:
    script = "sleep 60 & (sleep 60 & sleep 60) & echo ready; wait"  # the subshell becomes its last command
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        family: tuple[processes.Process, ...] = ()
        deadline = time.monotonic() + 30
        while len(family) < 4:
            family = processes.family([child.pid])
            assert time.monotonic() < deadline
        assert family[0].pid == child.pid
        victims = processes.kill_all(lambda: processes.family([child.pid]))
        assert set(victims) == set(family)
        assert processes.wait_gone(victims, 30) == ()


def test_environment_and_command() -> None:
    with subprocess.Popen(["sleep", "60"], env={"LOCUM_LAB_PART": "daemon", "EMPTY": ""}) as child:
        deadline = time.monotonic() + 30
        while not processes.environment_of(child.pid):  # Popen returns a moment before the new program is in place
            assert time.monotonic() < deadline
        assert processes.environment_of(child.pid) == {"LOCUM_LAB_PART": "daemon", "EMPTY": ""}
        assert processes.command_of(child.pid) == "sleep 60"
        child.kill()
    assert processes.environment_of(child.pid) == {}
    assert processes.command_of(child.pid) == ""
