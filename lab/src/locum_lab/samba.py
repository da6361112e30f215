"""A real SMB server on every node: smbd, with read and write access for all to the lab's shared files; for 50.samba.

All paths are in the node's own directory. The servers do not know each other: there is no clustered database.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from locum.errors import LocumError

PORT = 445
SHARE = "files"

_CONFIGURATION = """\
[global]
    netbios name = {node}
    server role = standalone server
    smb ports = {port}
    disable netbios = yes
    map to guest = bad user
    guest account = root
    load printers = no
    disable spoolss = yes
    log file = {directory}/smbd.log
    lock directory = {directory}/lock
    state directory = {directory}/state
    cache directory = {directory}/cache
    private dir = {directory}/private
    pid directory = {directory}/run
    ncalrpc dir = {directory}/run/ncalrpc
    usershare path =
[{share}]
    path = {shared}
    guest ok = yes
    guest only = yes
    read only = no
    force user = root
"""


def program() -> str:
    """The path of smbd. Raises LocumError that names the package when it is not installed."""
    found = shutil.which("smbd") or shutil.which("smbd", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise LocumError("smbd is not installed; it is the lab's SMB server (Debian package: samba)")
    return found


def settings(directory: Path, node: str, shared: Path) -> dict[str, object]:
    """Write the server's configuration into ``directory``; the settings of 50.samba."""
    for name in ("lock", "state", "cache", "private", "run"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    configuration = directory / "smb.conf"
    configuration.write_text(
        _CONFIGURATION.format(directory=directory, node=node, shared=shared, port=PORT, share=SHARE)
    )
    return {
        "command": [program(), "--foreground", "--no-process-group", f"--configfile={configuration}"],
        "config": str(configuration),
    }
