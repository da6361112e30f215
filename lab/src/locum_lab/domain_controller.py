"""A domain controller of Samba, made on this machine to run on another host.

On an emulated processor samba-tool needs minutes for what takes seconds here. So the domain and its accounts are made
here, in namespaces that end with the program that makes them; the result is an archive of files.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from locum.errors import LocumError
from locum_lab import cache as kept
from locum_lab import domain
from locum_lab.samba_host import SambaHost

#: Limit in seconds for the domain and its accounts.
_WITHIN = 600.0
#: What of the host's files belongs to the domain controller.
_KEPT = ("etc/samba", "var/lib/samba")
#: The archive's name in its directory of the cache.
_ARCHIVE = "made.tar.gz"

# Its network has the domain controller's address and nothing else. The process namespace ends all of them.
_ALONE = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


def get(cache: Path, address: str, public: Sequence[str]) -> bytes:
    """The archive of :func:`make`, made once and kept in the directory ``cache``."""
    recipe = [Path(file).read_text() for file in (domain.__file__, __file__)]
    key = hashlib.sha256("\0".join([_version(), *recipe, address, *public]).encode())
    directory = cache / f"domain-{key.hexdigest()[:16]}"
    with kept.locked(cache):
        if not directory.is_dir():
            for old in cache.glob("domain-*"):
                shutil.rmtree(old) if old.is_dir() else old.unlink()
            with kept.new(directory) as work:
                (work / _ARCHIVE).write_bytes(make(work / "host", address, public))
                shutil.rmtree(work / "host")
        return (directory / _ARCHIVE).read_bytes()


def make(directory: Path, address: str, public: Sequence[str]) -> bytes:
    """Make the domain of :mod:`locum_lab.domain`, whose controller has ``address`` wherever it runs.

    ``directory``: for the host's files, which are not needed afterwards. ``public``: the IPv4 addresses of the service.
    Returns a compressed tar of the domain controller's files, to be unpacked by :func:`unpack` in the root directory of
    a host with Debian's packages. Needs root, because of the access lists in the files' attributes. Raises LocumError.
    """
    files = domain.files(address, {}, "")
    host = SambaHost(directory, domain.CONTROLLER, files)
    host.path("/etc/samba/smb.conf").unlink()
    script = "\n".join(
        [
            "ip link set lo up",
            f"ip address add {address}/32 dev lo",
            domain.provision(address),
            "samba --foreground --no-process-group </dev/null >/var/log/samba/outcome 2>&1 &",
            f"until {domain.answers()} >/dev/null 2>&1; do kill -0 $!; sleep 0.2; done",
            domain.prepare(tuple(public)),
            "kill $!",
            "wait $! || true",
        ]
    )
    _run([*_ALONE, *host.command(["sh", "-euc", script])], "making a domain failed")
    packed = directory / "domain.tar.gz"
    _run(
        [
            *("tar", "--create", "--gzip", "--xattrs", "--xattrs-include=*", "--numeric-owner"),
            # Sockets of programs that have ended.
            *("--exclude=msg.sock", "--exclude=ldapi", "--exclude=ldap_priv", "--exclude=*.pid"),
            *("--file", str(packed), "--directory", str(directory), *_KEPT),
        ],
        "packing the domain controller's files failed",
    )
    return packed.read_bytes()


def unpack(archive: str, root: str = "/") -> list[str]:
    """The command that unpacks the archive of :func:`make`, which is in the file ``archive``."""
    options = ("--gzip", "--xattrs", "--xattrs-include=*", "--numeric-owner")
    return ["tar", "--extract", *options, "--file", archive, "--directory", root]


def _version() -> str:
    return subprocess.run(["samba", "--version"], capture_output=True, text=True, check=True).stdout


def _run(argv: Sequence[str], problem: str) -> None:
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_WITHIN,
            # Nothing of it has to survive a loss of power.
            env={**os.environ, "TDB_NO_FSYNC": "1"},
            text=True,
            errors="replace",
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LocumError(f"{problem}: not within {_WITHIN:g} s") from None
    if done.returncode != 0:
        last = "\n".join(done.stdout.strip().splitlines()[-15:])
        raise LocumError(f"{problem}: {argv[0]} ended with status {done.returncode}:\n{last}")
