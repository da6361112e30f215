"""Labs of an ordinary user: a user namespace in which the user is root, kept by a holder process.

Network namespaces need privileges. A user namespace gives them to an ordinary user for the namespaces inside it
(user_namespaces(7)), where the kernel allows that. The holder keeps a set of namespaces (user, network, mount, pid)
alive between two commands; a command that lacks privileges is started again inside it. When the holder ends, the kernel
ends everything inside, so there are no leftovers.

One holder serves all labs of a user. Unlike root's labs, other users' tools cannot look into the namespaces, and the
nodes do not see the system's /run.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from locum.errors import LocumError, PermissionRequired
from locum_lab import processes, state
from locum_lab.processes import Process

# <linux/capability.h>
_CAP_NET_ADMIN, _CAP_SYS_ADMIN = 12, 21

# /run/netns cannot be made in the system's /run, hence a private one. The shell, as process 1, collects orphans.
_HOLDER_SCRIPT = 'mount -t tmpfs -o mode=755 tmpfs /run && : > "$1" && while :; do sleep 3600; done'


class _Holder(msgspec.Struct, frozen=True):
    """``outer`` is unshare, whose end ends everything; ``inner`` is process 1 of the namespaces."""

    outer: Process
    inner: Process


def privileged() -> bool:
    """Whether this process may make network namespaces and configure them."""
    with open("/proc/self/status", encoding="ascii") as file:
        effective = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    return all(effective >> capability & 1 for capability in (_CAP_NET_ADMIN, _CAP_SYS_ADMIN))


def run_inside(arguments: Sequence[str]) -> int:
    """Run ``python -m locum_lab.command ARGUMENTS`` inside the holder's namespaces; return its exit status.

    The holder is started when missing and ended with the last lab. Raises PermissionRequired when the kernel does not
    allow user namespaces.
    """
    base = state.base()
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    holder = _existing(base) or _start(base)
    inside = subprocess.Popen(
        [
            *("nsenter", "--target", str(holder.inner.pid)),
            *("--user", "--preserve-credentials", "--net", "--mount", "--pid", "--"),
            *(sys.executable, "-m", "locum_lab.command", *arguments),
        ],
        env={**os.environ, "LOCUM_LAB_DIR": str(base), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    started = processes.find(inside.pid)

    def forward(number: int, _frame: object) -> None:
        # nsenter only waits; the command is its child.
        for process in processes.family([inside.pid]) if started is not None else ():
            processes.send(process, signal.Signals(number))

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to the command as well
    status = inside.wait()
    if not state.known():
        _end(base, holder)
    return 128 - status if status < 0 else status


def _file(base: Path) -> Path:
    return base / "holder.json"


def _existing(base: Path) -> _Holder | None:
    try:
        holder = msgspec.json.decode(_file(base).read_bytes(), type=_Holder)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    return holder if processes.alive(holder.inner) else None


def _start(base: Path) -> _Holder:
    # Leftovers of the last holder's labs can only be files: their processes and namespaces ended with it.
    for name in state.known():
        shutil.rmtree(base / name, ignore_errors=True)
    ready, log = base / "holder.ready", base / "holder.log"
    ready.unlink(missing_ok=True)
    with log.open("wb") as output:
        unshare = subprocess.Popen(
            [
                *("unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child"),
                *("--mount-proc", "--", "sh", "-c", _HOLDER_SCRIPT, "holder", str(ready)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    while not ready.exists():
        if unshare.poll() is not None:
            reason = log.read_text(errors="replace").strip() or "no reason given"
            log.unlink()
            raise PermissionRequired(
                f"a lab needs root or a user namespace, and this kernel does not allow you one ({reason}). Run as "
                "root, or have the administrator allow them: sysctl user.max_user_namespaces, "
                "kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns"
            )
        time.sleep(0.002)
    outer = processes.find(unshare.pid)
    children = [process for process in processes.family([unshare.pid]) if _parent(process) == unshare.pid]
    if outer is None or not children:
        raise LocumError(f"the process that holds the user namespace ended at once; see {log}")
    holder = _Holder(outer, children[0])
    _file(base).write_bytes(msgspec.json.encode(holder))
    return holder


def _parent(process: Process) -> int:
    stat = processes.read_stat(process.pid)
    return stat.parent if stat is not None else 0


def _end(base: Path, holder: _Holder) -> None:
    processes.send(holder.inner, signal.SIGKILL)
    processes.wait_gone([holder.inner, holder.outer], 10.0)
    for name in ("holder.json", "holder.ready", "holder.log"):
        (base / name).unlink(missing_ok=True)
    state.remove_base()
