"""What runs in the loops that keep the hold must not wait for anything but their selectors.

The modules of the agent's and the guard's loop are read here, and every call by name that can stand in the kernel (a
file, a directory, a lock of the kernel, a program, a name to be resolved) must either be handed over to a thread, which
shows in that it is an argument and not a call, or stand in the table below with the reason why it may be there.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import locum

ROOT = Path(locum.__file__).parent

#: What the two loops run. Modules that they only use on threads, and pure ones, are not here.
LOOPS = (
    "node",
    "node/guard/watch.py",
    "node/guard/wakeups.py",
    "node/guard/silence.py",
    "node/guard/configuration.py",
    "node/guard/life.py",
    "node/guard/main.py",
    "node/guard/children.py",
    "node/guard/hold_page.py",
    "api/control.py",
    "daemon.py",
    "api/reload.py",
    "api/status_report.py",
    "api/admin_ops.py",
    "api/gate_report.py",
    "nfs/operations.py",
    "events/engine.py",
    "events/runner_client.py",
    "connections/tracker.py",
    "connections/recorder.py",
    "connections/tickle_store.py",
    "connections/operations.py",
    "connections/listeners.py",
    "machine/gate/gate_watch.py",
    "machine/kernel_monitor.py",
    "machine/wire_watch.py",
    "connections/plain_tcp.py",
    "machine/netlink/subscription.py",
    "store/client.py",
    "store/etcd",
    "unix_sockets.py",
    "json_lines_async.py",
)

#: Calls that can wait, by how they look: whole names, and names of methods whatever the object.
FUNCTIONS = frozenset(
    [
        *("open", "print", "input"),
        *("time.sleep", "subprocess.run", "subprocess.Popen", "subprocess.check_output", "subprocess.call"),
        *("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostname", "socket.create_connection"),
        *("pwd.getpwnam", "pwd.getpwuid", "grp.getgrnam", "grp.getgrgid", "group_id"),
        *("os.stat", "os.lstat", "os.listdir", "os.scandir", "os.walk", "os.open", "os.unlink", "os.replace"),
        *("os.makedirs", "os.mkdir", "os.rmdir", "os.rename", "os.link", "os.symlink", "os.readlink", "os.fsync"),
        *("os.access", "os.chmod", "os.chown", "os.truncate", "os.getgrouplist", "os.system", "os.popen", "os.wait"),
        *("os.waitpid", "os.posix_spawn", "os.execv", "os.fork", "os.write", "os.read", "os.statvfs", "os.utime"),
        *("os.path.exists", "os.path.isdir", "os.path.isfile", "os.path.islink", "os.path.realpath", "os.path.getsize"),
        *("os.path.getmtime", "os.path.expanduser", "os.path.lexists", "os.path.samefile"),
        *("shutil.which", "shutil.copy", "shutil.rmtree", "tempfile.mkdtemp", "tempfile.NamedTemporaryFile"),
        *("traceback.print_exc", "traceback.print_exception", "sys.stderr.write", "sys.stderr.flush"),
        *(
            "sys.stdout.write",
            "sys.stdout.flush",
            "ssl.create_default_context",
            "load",
            "nft.load",
            "check_environment",
        ),
        *("environment_warnings", "remove_public", "destroy", "judged_before", "machine_identity", "sqlite3.connect"),
        *("clear_addresses", "left_behind", "machine.notes.addresses", "machine.addresses.list", "kernel.remove"),
        *("Gate", "GuardGate", "enforcement_of", "found_here", "HoldPage", "TakenNotes"),
        # Lists of what other programs have; threads that are joined at the end; files behind a harmless name.
        *("route.links", "route.addresses", "sock_diag.tcp_sockets", "listening_ports"),
        *("_possible", "_nft", "ThreadPoolExecutor", "notes.clear", "fcntl.flock"),
    ]
)
METHODS = frozenset(
    [
        # Files, programs, threads.
        *("read_text", "write_text", "read_bytes", "write_bytes", "stat", "exists", "is_dir", "is_file", "iterdir"),
        *("unlink", "mkdir", "resolve", "glob", "communicate", "getaddrinfo", "load_cert_chain"),
        # The kernel's locks: locum.machine, locum.machine.netlink, locum.connections.
        *("install", "adopt", "judged", "configure", "ensure_interfaces", "verify", "arm", "confirm", "shut"),
        *(
            "allow",
            "deny",
            "request",
            "request_many",
            "dump",
            "renew",
            "announce",
            "sweep",
            "table_comment",
            "supported",
        ),
        # What the guard's ports do (locum.node.guard.ports).
        *("end_connections", "pause", "await_calls"),
        # Files of ours.
        *("scan", "survey", "refresh"),
    ]
)

#: Module: function: call → why it may be there.
ALLOWED: dict[str, str] = {
    # -- the start of a process: there is no hold yet, or the pulse is told of before (agent) -------------------------
    "node/guard/main.py:check": "before the guard's loop: the daemon starts, and may refuse to",
    "node/guard/main.py:run": "before the guard's loop",
    "node/guard/life.py:left_behind": "before the guard's loop",
    "node/guard/life.py:clean_slate": "before the guard's loop",
    "node/guard/life.py:run:GuardGate": "before the guard's loop",
    "node/guard/hold_page.py": "opened once at the start; afterwards it is memory",
    "daemon.py:serve:HoldPage": "the start of an agent; a runtime directory that hangs lets no agent start",
    "daemon.py:serve:TakenNotes": "the start of an agent, as above",
    "daemon.py:serve:machine_identity": "the start of an agent",
    "node/configured.py:machine_identity": "the start of an agent; /proc and the host's name",
    "api/control.py:start:group_id": "the start of an agent; the pulse has begun",
    "unix_sockets.py:_locked": "the control socket is made once, at the start, after the pulse has begun; the next too",
    "unix_sockets.py:_remove_stale": "as above",
    "unix_sockets.py:_name_of": "as above; /proc",
    "unix_sockets.py:_give": "as above",
    "unix_sockets.py:_identity": "as above, and at the end",
    "unix_sockets.py:close": "the end of the agent",
    # -- on a thread, though it looks like a call ----------------------------------------------------------------------
    "node/guard/life.py:clear_addresses": "runs on the silencer's thread, and once before the guard's loop",
    "node/guard/life.py:clear": "runs on the silencer's thread",
    "node/guard/main.py:_charge:load": "runs on the thread that reads the configuration",
    "node/gate_work.py": "runs on the gate's thread",
    "node/taken_notes.py": "runs on the thread for notes; read at the start of an agent",
    "node/served_addresses.py:_renew_now": "runs on the thread for addresses",
    "node/announcements.py:_announce_now": "runs on the thread for addresses",
    "node/port_watch.py:load": "runs on the thread for files",
    "api/reload.py:_read": "runs on the thread that reads the configuration",
    "events/engine.py:_prepare": "runs on the thread for the runtime directory",
    "events/engine.py:_refresh": "runs on the thread that looks at the directory",
    "events/runner_client.py:spawn": "runs on the spawner's thread",
    "machine/kernel_monitor.py:look": "runs on the thread for addresses",
    "machine/wire_watch.py:_read_macs": "runs on the thread of the wire watch",
    "connections/listeners.py:listening_ports": "runs on the thread of the listener watch",
    "connections/plain_tcp.py:verify": "runs on the thread against Multipath TCP",
    "connections/plain_tcp.py:_possible": "runs on the thread against Multipath TCP",
    "connections/plain_tcp.py:_nft": "runs on the thread against Multipath TCP",
    # -- memory, in spite of the name ----------------------------------------------------------------------------------
    "node/steps.py:confirm:self._page.confirm": "memory",
    "node/driver.py:_start:self._steps.confirm": "hands over",
    "node/driver.py:_beat:self._steps.gate.arm": "hands over, and waits without blocking",
    "node/life.py:take_over:steps.adopt": "hands over, and waits without blocking",
    "node/auditor.py:_repair:steps.addresses.renew": "hands over, and waits without blocking",
    "daemon.py:watch_wire:wire.configure": "opens packet sockets; asks the kernel about interfaces on a thread",
    "node/auditor.py:_look:Gate": "runs on the thread of the audit",
    "api/reload.py:put_in_force:self._engine.configure": "memory",
    "connections/tracker.py:_released:self.recorder": "memory",
    "connections/tracker.py:dropped:self.recorder": "memory",
    "connections/tracker.py:_reset_all:self.recorder": "memory",
    "connections/tracker.py:_sweep:self._destroyer": "makes an iterator; its steps run on the tracker's thread",
    # -- short by their nature -----------------------------------------------------------------------------------------
    "node/guard/children.py:poll:os.waitpid": "WNOHANG",
    "node/guard/children.py:start:os.fork": "copies page tables: milliseconds",
    "node/guard/children.py:execute": "in the child",
    "node/guard/children.py:start:traceback.print_exc": "in the child; standard error never waits (locum.lines)",
    "node/guard/children.py:start:print": "in the child; standard error never waits (locum.lines)",
    "node/guard/wakeups.py:_drain:os.read": "a pipe of our own, non-blocking",
    "node/guard/wakeups.py:pause:time.sleep": "for callers that may wait; see pause and await_calls below",
    "node/guard/watch.py:close:self._wakeups.pause": "after the loop, for ten milliseconds, and not for ever",
    "node/guard/silence.py:finish:wakeups.await_calls": "after the loop, and for a limited time",
    "node/guard/configuration.py:await_reread:wakeups.await_calls": "half a second at most, before a fork",
    "daemon.py:serve:reloader.request": "hands over",
    "api/control.py:answer:traceback.print_exc": "standard error never waits (locum.lines)",
    "daemon.py:_say:traceback.print_exception": "standard error never waits (locum.lines)",
    "daemon.py:run_agent:print": "after the loop; standard error never waits (locum.lines)",
}


class Found(NamedTuple):
    """A call that can wait: ``place`` is module:function, ``call`` how it is written."""

    place: str
    call: str
    line: int


def name_of(node: ast.expr) -> str:
    """``os.path.exists`` of the expression that is called; "" of what is no plain name."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ".".join(["", *reversed(parts)]) if parts else ""
    return ".".join([node.id, *reversed(parts)])


def calls(source: str, module: str) -> Iterator[Found]:
    """Every call in a module that can wait."""

    def walk(node: ast.AST, function: str) -> Iterator[Found]:
        for child in ast.iter_child_nodes(node):
            inside = function
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                inside = child.name
            if isinstance(child, ast.Call):
                name = name_of(child.func)
                method = name.rpartition(".")[2] if "." in name else ""
                if name in FUNCTIONS or method in METHODS:
                    yield Found(f"{module}:{inside}", name, child.lineno)
            yield from walk(child, inside)

    yield from walk(ast.parse(source), "")


def violations(root: Path, loops: tuple[str, ...], allowed: dict[str, str]) -> list[str]:
    """Calls that can wait and are not allowed, and allowances that nothing needs."""
    used: set[str] = set()
    found = []
    for place in loops:
        path = root / place
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            module = str(file.relative_to(root))
            for call in calls(file.read_text(encoding="utf-8"), module):
                keys = [f"{call.place}:{call.call}", call.place, module, f"{call.place}:{call.call.rpartition('.')[0]}"]
                reason = next((key for key in keys if key in allowed), None)
                if reason is None:
                    found.append(
                        f"{module}:{call.line}: {call.call} in {call.place.rpartition(':')[2] or 'the module'}"
                    )
                else:
                    used.add(reason)
    found += [f"nothing needs the allowance {key!r} any more" for key in allowed if key not in used]
    return found


def test_no_call_in_the_loops_can_wait_for_the_kernel_but_those_with_a_reason() -> None:
    assert violations(ROOT, LOOPS, ALLOWED) == []


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("import os\nasync def f():\n    os.stat('/x')", "os.stat in f"),
        ("async def f():\n    with open('/x') as file:\n        pass", "open in f"),
        ("from pathlib import Path\ndef f():\n    return Path('/x').read_text()", ".read_text in f"),
        ("async def f(self):\n    self._gate.arm(1, 2.0)", "self._gate.arm in f"),
        (
            "class K:\n    async def f(self):\n        x = [self._directory.scan() for _ in y]",
            "self._directory.scan in f",
        ),
        ("import socket\nsocket.getaddrinfo('x', 1)", "socket.getaddrinfo in the module"),
        ("import time\nasync def f():\n    time.sleep(1)", "time.sleep in f"),
    ],
)
def test_a_call_that_can_wait_is_found(tmp_path: Path, text: str, call: str) -> None:
    (tmp_path / "loop.py").write_text(text)
    assert any(call in line for line in violations(tmp_path, ("loop.py",), {}))


@pytest.mark.parametrize(
    "text",
    [
        "import os\nasync def f(worker):\n    await worker.run('looking', 2.0, os.stat, '/x')",
        "async def f(self):\n    await self._calls.on_gate('arming', self._gate.arm, 1, 2.0)",
    ],
)
def test_what_is_handed_to_a_thread_is_no_call(tmp_path: Path, text: str) -> None:
    (tmp_path / "loop.py").write_text(text)
    assert violations(tmp_path, ("loop.py",), {}) == []


def test_an_allowance_that_nothing_needs_is_found(tmp_path: Path) -> None:
    (tmp_path / "loop.py").write_text("x = 1")
    assert violations(tmp_path, ("loop.py",), {"loop.py:f:open": "once"}) == [
        "nothing needs the allowance 'loop.py:f:open' any more"
    ]
