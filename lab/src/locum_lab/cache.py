"""What takes long to make, and is kept: it appears under its name only when it is complete."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

#: How the work directories of :func:`new` begin. Whoever holds the lock may remove those that it finds.
UNFINISHED = "new-"


@contextlib.contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Hold the lock of the directory ``cache``, which is made: of two that make the same, the second one waits."""
    cache.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(cache / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def new(directory: Path) -> Iterator[Path]:
    """A work directory beside ``directory`` that becomes it when all went well, and vanishes otherwise."""
    work = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=directory.parent))
    try:
        work.chmod(0o755)
        yield work
        work.rename(directory)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
