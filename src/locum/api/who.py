"""Who gave a command: the user behind the process at the other end of the control socket, and the terminal.

From the kernel (proc(5)): ``/proc/PID/loginuid`` is the user who logged in, also behind ``sudo``; the field ``tty_nr``
of ``/proc/PID/stat`` is the controlling terminal.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from pathlib import Path

from locum.unix_sockets import Peer

#: ``/proc/PID/loginuid`` of a process that nobody logged in to start.
_NOBODY = 0xFFFFFFFF
#: Major numbers of devices (admin-guide/devices.txt): Unix 98 terminals have eight.
_CONSOLES, _FIRST_PTS, _LAST_PTS = 4, 136, 143


def who(peer: Peer) -> str:
    """``alice as root on pts/3``, ``root``, ``user 1001``: as far as the kernel still knows the process."""
    acts = _name(peer.uid)
    logged_in = _logged_in(peer.pid)
    user = acts if logged_in in (None, peer.uid) else f"{_name(logged_in or 0)} as {acts}"
    terminal = _terminal(peer.pid)
    return f"{user} on {terminal}" if terminal else user


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _logged_in(pid: int) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        found = int(Path(f"/proc/{pid}/loginuid").read_text(encoding="ascii"))
        return None if found == _NOBODY else found
    return None


def _terminal(pid: int) -> str:
    with contextlib.suppress(OSError, ValueError, IndexError):
        # After the name, which may contain anything: state, ppid, pgrp, session, tty_nr.
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        device = int(stat.rpartition(")")[2].split()[4])
        major, minor = os.major(device), os.minor(device)
        if _FIRST_PTS <= major <= _LAST_PTS:
            return f"pts/{(major - _FIRST_PTS) * 256 + minor}"
        if major == _CONSOLES:
            return f"tty{minor}" if minor < 64 else f"ttyS{minor - 64}"
    return ""
