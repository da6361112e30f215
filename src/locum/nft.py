"""The program nft: where it is, and how it loads rules.

Rules of this file: it knows no table. Loading blocks while another program holds the kernel's lock for nftables.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from locum import programs

#: Directories of the program: administrators' directories are not in every user's PATH.
DIRECTORIES = ("/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin")


class CannotRun(Exception):
    """The program is missing, cannot be started, or did not end in time; the message says which."""


def find() -> str | None:
    """The path of nft; None when it is not installed (Debian package: nftables)."""
    return next((path for path in (f"{d}/nft" for d in DIRECTORIES) if os.access(path, os.X_OK)), None)


def load(
    text: str, limit: float, *, program: str | None = None, started: Callable[[int], None] = lambda _: None
) -> str:
    """Load ``text`` in one transaction; return nft's complaint, "" when the rules are in force.

    ``limit``: seconds after which nft is killed. ``program``: another nft than the installed one. ``started`` is called
    with its pid. Raises CannotRun.
    """
    program = program or find() or "nft"
    try:
        status, complaint = programs.run_over(
            text.encode(), [program, "-f", "-"], limit, {**os.environ, "LC_ALL": "C"}, started=started
        )
    except OSError as problem:
        raise CannotRun(f"cannot run {program}: {problem}") from problem
    return (complaint or f"exit status {status}") if status else ""
