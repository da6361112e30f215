"""Runs a program over a text, for callers that may be short of descriptors.

Rules of this file: it blocks, so it is for threads and commands.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence


def run_over(
    content: bytes,
    command: Sequence[str],
    limit: float,
    environment: Mapping[str, str],
    *,
    started: Callable[[int], None] = lambda _: None,
) -> tuple[int, str]:
    """Run ``command`` in ``/`` with ``content`` as its input; return its exit status and its standard error, stripped.

    ``limit``: seconds after which it is killed, and TimeoutError raised. ``started`` is called with its pid. Raises
    OSError when it cannot be started.
    """
    import subprocess  # noqa: PLC0415  (importing it takes 10 ms, and most callers never come here)

    # Files and no pipes: Python before 3.11.4 leaves pipes open when the next descriptor is refused (gh-87474).
    with (
        open(os.memfd_create("input"), "w+b") as source,
        open(os.memfd_create("errors"), "w+b") as errors,
        open(os.devnull, "wb") as nowhere,
    ):
        source.write(content)
        source.seek(0)
        with subprocess.Popen(
            command, stdin=source, stdout=nowhere, stderr=errors, env=dict(environment), cwd="/"
        ) as process:
            started(process.pid)
            try:
                status = process.wait(limit)
            except subprocess.TimeoutExpired as error:
                process.kill()
                raise TimeoutError(str(error)) from None
            except BaseException:
                process.kill()
                raise
        errors.seek(0)
        return status, errors.read().decode("utf-8", "replace").strip()
