"""``locum debug``: data for a bug report."""

from __future__ import annotations

import os
import sys
import time

import click

from locum.cli import output
from locum.cli.groups import PlainGroup
from locum.cli.options import config_option
from locum.errors import LocumError, UsageError


@click.group("debug", cls=PlainGroup)
def debug() -> None:
    """Collect data for a bug report."""


@debug.command("dump")
@click.argument("file", metavar="[FILE]", required=False)
@config_option
@click.option(
    "--socket",
    "socket_path",
    envvar="LOCUM_SOCKET",
    show_envvar=True,
    metavar="PATH",
    help="The daemon's control socket; default: the one in the configuration.",
)
def dump(file: str | None, config_path: str, socket_path: str | None) -> None:
    """Write the whole state of this node to FILE, a gzipped tar archive that only you can read.

    FILE is locum-debug-NODE-TIME.tar.gz in the working directory unless it is given; "-" is standard output. An
    existing file is not replaced. Works also when the daemon is down or hangs. Run it as root: others cannot read
    everything. Passwords are left out; host names, addresses and the output of scripts are not.
    """
    from locum.doctor import dump as work  # noqa: PLC0415  (slow to import)

    if file == "-" and sys.stdout.isatty():
        raise UsageError("the archive is binary: redirect standard output to a file, or name FILE")
    parts = list(work.collect(config_path, socket_path))
    if file == "-":
        work.write(sys.stdout.buffer, parts)
        sys.stdout.buffer.flush()
        return
    path = file or f"locum-debug-{os.uname().nodename}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.tar.gz"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise UsageError(f"{path} exists and is not replaced: name another FILE") from None
    except OSError as error:
        raise LocumError(f"cannot write {path}: {error.strerror or error}") from None
    with os.fdopen(handle, "wb") as archive:
        work.write(archive, parts)
    size = os.path.getsize(path)
    lines = [f"{path}: {size / 1024:.0f} KiB; contains host names, addresses and output of scripts, no passwords"]
    lines += [f"missing: {part.name}: {part.problem}" for part in parts if part.problem]
    output.emit([output.clean(line) for line in lines])
