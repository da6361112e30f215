"""The whole state of a node in one archive, for a bug report: ``locum debug dump``.

This file collects parts independently: a part that fails, hangs or is missing becomes a note in ``README.txt`` and
delays no other. It changes nothing on the node. Secrets such as passwords are left out (:mod:`locum.doctor.secrets`).
It works beside a running or hanging daemon, and without one.
"""

from __future__ import annotations

import asyncio
import io
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from locum import __version__
from locum.api import client
from locum.clock import boottime
from locum.config.load import load
from locum.config.model import PathSettings, Settings
from locum.control_socket import NoDaemon
from locum.doctor import secrets
from locum.errors import LocumError, StoreCorrupt
from locum.node.configured import store_of
from locum.node.guard.hold_page import HoldPage
from locum.rules import schema
from locum.store.prefixed import PrefixedStore

#: Limits for the answers of the daemon, the store and a program, and for the doctor's whole examination, in seconds.
PATIENCE = 5.0
DOCTOR_PATIENCE = 60.0
#: Most bytes of one part; of a longer one, the end is kept.
LONGEST = 4 * 1024 * 1024

#: Questions to the daemon: file of the archive → request.
QUESTIONS = {
    "daemon/status.json": "status",
    "daemon/tunables.json": "tunables",
    "daemon/scripts.json": "event-list",
    "daemon/events.json": "event-status",
}
#: Programs that show the state of kernel and machine: file of the archive → command.
COMMANDS: dict[str, tuple[str, ...]] = {
    "kernel/addresses.txt": ("ip", "-d", "address", "show"),
    "kernel/routes.txt": ("ip", "route", "show", "table", "all"),
    "kernel/routes6.txt": ("ip", "-6", "route", "show", "table", "all"),
    "kernel/rules.txt": ("ip", "rule", "show"),
    "kernel/neighbours.txt": ("ip", "neighbour", "show"),
    "kernel/nftables.txt": ("nft", "list", "tables"),
    "kernel/gate-inet.txt": ("nft", "list", "table", "inet", "locum"),
    "kernel/gate-arp.txt": ("nft", "list", "table", "arp", "locum"),
    "kernel/gate-netdev.txt": ("nft", "list", "table", "netdev", "locum"),
    "kernel/sockets.txt": ("ss", "-tanp"),
    "machine/processes.txt": ("ps", "-eo", "pid,ppid,stat,wchan:24,nlwp,etimes,rss,comm"),
    "machine/memory.txt": ("free", "-k"),
    "machine/disks.txt": ("df", "-k"),
    "machine/clock.txt": ("timedatectl", "show"),
    "log/journal.txt": ("journalctl", "--no-pager", "-u", "locum", "-n", "2000", "-o", "short-precise"),
}


class Part(NamedTuple):
    """A file of the archive. ``problem``: why it is missing or incomplete, or ""."""

    name: str
    content: bytes = b""
    problem: str = ""


def collect(config_path: str, socket_path: str | None) -> Iterator[Part]:
    """All parts. ``socket_path``: the daemon's socket, None for the one in the configuration."""
    settings: Settings | None = None
    try:
        settings = load(config_path)
        yield _json("configuration.json", secrets.without(msgspec.to_builtins(settings)))
    except LocumError as error:
        yield Part("configuration.json", problem=str(error))
    paths = settings.paths if settings is not None else PathSettings()
    yield _json("versions.json", versions())
    yield from _daemon(socket_path or paths.control)
    if settings is not None:
        yield _attempt("store.json", lambda: _store(settings))
    yield _attempt("runtime.json", lambda: _runtime(paths.runtime))
    yield _attempt("files.json", lambda: {path: _listing(path) for path in (paths.runtime, paths.state, paths.events)})
    for name, command in COMMANDS.items():
        yield _command(name, command)
    doctor = (sys.executable, "-m", "locum.cli.main", "doctor", "--json", "--config", config_path)
    # Exit status 1 means that it has found a problem, which is its purpose.
    yield _command("doctor.json", doctor, DOCTOR_PATIENCE, good=(0, 1))


def write(file: IO[bytes], parts: list[Part]) -> None:
    """Write ``parts`` as a gzipped tar archive; its first file lists its contents and what is missing."""
    stamp = time.time()
    top = f"locum-debug-{platform.node()}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(stamp))}"
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for part in (Part("README.txt", _readme(parts, stamp).encode()), *parts):
            if not part.content:
                continue
            member = tarfile.TarInfo(f"{top}/{part.name}")
            member.size, member.mtime, member.mode = len(part.content), int(stamp), 0o600
            archive.addfile(member, io.BytesIO(part.content))


def _readme(parts: list[Part], wall: float) -> str:
    lines = [
        f"State of {platform.node()}, collected by locum {__version__} at",
        f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(wall))} UTC, {boottime():.3f} s after boot.",
        "Values that look like secrets are left out. Host names, addresses and output of scripts are not.",
        "",
        "Files:",
        *(f"  {part.name} ({len(part.content)} bytes)" for part in parts if part.content),
    ]
    missing = [part for part in parts if part.problem]
    if missing:
        lines += [
            "",
            "Missing or incomplete:",
            *(f"  {part.name}: {' '.join(part.problem.split())}" for part in missing),
        ]
    return "\n".join(lines) + "\n"


def versions() -> dict[str, object]:
    """The versions of Locum, of its platform, and of the Python packages that it imports."""
    packages: dict[str, str] = {}
    for name in ("aiohttp", "click", "msgspec", "rich"):
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = "not installed"
    release: dict[str, str] = {}
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        pass
    return {
        "locum": __version__,
        "from": str(Path(__file__).parents[1]),
        "python": sys.version,
        "packages": packages,
        "kernel": " ".join(platform.uname()),
        "system": release.get("PRETTY_NAME", ""),
        "uid": os.geteuid(),
    }


def _daemon(socket_path: str) -> Iterator[Part]:
    """The daemon's answers. After a daemon that is down or silent at the first question, the others are skipped."""
    for name, operation in QUESTIONS.items():
        try:
            answer = client.call(socket_path, {"op": operation}, PATIENCE)
        except LocumError as error:
            what = "the daemon is down" if isinstance(error, NoDaemon) else "the daemon does not answer"
            if name == "daemon/status.json":
                yield Part("daemon", problem=f"{what}: {error}")
                return
            yield Part(name, problem=str(error))
        else:
            yield _json(name, secrets.without(answer))
    try:
        report = client.call(socket_path, {"op": "debug"}, PATIENCE)
    except LocumError as error:
        yield Part("daemon/internals.json", problem=str(error))
        return
    log = report.pop("log", []) if isinstance(report, dict) else []
    yield _json("daemon/internals.json", secrets.without(report))
    yield Part("log/daemon.txt", _text("\n".join(map(str, log)) + "\n"))


def _store(settings: Settings) -> object:
    """Every key of the cluster in the store now; of bulk data only the number of keys."""

    async def read() -> object:
        whole = store_of(settings)
        try:
            async with asyncio.timeout(PATIENCE):
                name = settings.cluster.name
                snapshot = await PrefixedStore(whole, f"{name}/").read("")
                bulk = await PrefixedStore(whole, f"{name}.bulk/").read("")
        finally:
            await whole.close()
        kinds: dict[str, int] = {}
        for entry in bulk.entries:
            kind = entry.key.partition("/")[0]
            kinds[kind] = kinds.get(kind, 0) + 1
        keys = {e.key: {"revision": e.revision, **_value(e.key, e.value)} for e in snapshot.entries}
        return {"revision": snapshot.revision, "keys": keys, "bulk": kinds}

    try:
        return asyncio.run(read())
    except TimeoutError:
        raise LocumError(f"the store has not answered within {PATIENCE:g} s") from None


def _value(key: str, value: bytes) -> dict[str, object]:
    """A record of Locum's; of any other value, which may be a secret, only its size."""
    try:
        record = schema.decode(key, value)
    except StoreCorrupt as error:
        return {"problem": str(error), "bytes": len(value)}
    return {"record": record} if record is not None else {"foreign": True, "bytes": len(value)}


def _runtime(runtime: str) -> object:
    """The state shared by guard and agent: the hold page, and the notes of taken addresses."""
    found: dict[str, object] = {"boottime": boottime()}
    page = Path(runtime, "hold")
    # Opening a page writes to it, so a copy is read.
    with tempfile.NamedTemporaryFile() as copy:
        copy.write(page.read_bytes())
        copy.flush()
        shown = HoldPage(copy.name)
        found["hold"] = {
            "deadline": shown.deadline,
            "left": shown.deadline - boottime(),
            "slot": shown.slot,
            "incarnation": shown.incarnation,
            "pulse": shown.pulse,
            "revision": shown.revision,
            "quiet": shown.quiet,
        }
        shown.close()
    for folder in ("held", "listen"):
        directory = Path(runtime, folder)
        if directory.is_dir():
            found[folder] = {f.name: f.read_text("utf-8", "replace")[:200] for f in sorted(directory.iterdir())}
    return found


def _listing(directory: str) -> object:
    """Path → size, mode, owner and age of everything below ``directory``."""
    found = {}
    for folder, folders, files in os.walk(directory):
        for name in [*folders, *files]:
            path = os.path.join(folder, name)
            try:
                status = os.lstat(path)
            except OSError:
                continue
            found[os.path.relpath(path, directory)] = {
                "bytes": status.st_size,
                "mode": f"{status.st_mode:o}",
                "uid": status.st_uid,
                "gid": status.st_gid,
                "modified": status.st_mtime,
            }
    return found


def _command(name: str, command: tuple[str, ...], patience: float = PATIENCE, good: tuple[int, ...] = (0,)) -> Part:
    """The output of a program."""
    environment = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=patience, check=False, env=environment
        )
    except FileNotFoundError:
        return Part(name, problem=f"{command[0]} is not installed")
    except subprocess.TimeoutExpired as error:
        return Part(name, _text(error.stdout or b""), f"{command[0]} has not ended within {patience:g} s")
    except OSError as error:
        return Part(name, problem=f"{command[0]} cannot be run: {error.strerror or error}")
    said = done.stderr.decode("utf-8", "replace").strip()
    failed = "" if done.returncode in good else f"{command[0]} ended with status {done.returncode}: {said}"
    return Part(name, _text(done.stdout), failed)


def _attempt(name: str, make: Callable[[], object]) -> Part:
    """A part that may fail."""
    try:
        return _json(name, make())
    except (LocumError, OSError, ValueError) as error:
        return Part(name, problem=str(error))


def _json(name: str, value: object) -> Part:
    return Part(name, _text(msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"))


def _text(content: str | bytes) -> bytes:
    data = content.encode("utf-8", "replace") if isinstance(content, str) else content
    if len(data) > LONGEST:
        data = b"[the beginning is left out]\n" + data[-LONGEST:]
    return secrets.without_passwords_in_urls(data)
