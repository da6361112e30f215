"""NFS on the nodes of a lab: NFS-Ganesha with its own port mapper, rpc.statd and message bus, managed by 60.nfs.

These programs use fixed paths below /run and /var/lib/nfs, which exist once per machine. So every node has a *room*: a
mount namespace in which these two are directories of the node. The directories are ordinary ones outside, and each
program enters its own room, which shows the same ones.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import locum
from locum.errors import LocumError
from locum_lab import state

#: Program and its Debian package.
_PROGRAMS = {
    "ganesha.nfsd": "nfs-ganesha and nfs-ganesha-vfs",
    "rpcbind": "rpcbind",
    "rpc.statd": "nfs-common",
    "dbus-daemon": "dbus-daemon",
    "dbus-send": "dbus-bin",
    "nfs-cat": "libnfs-utils",
}

PORT = 2049
#: The server's name for the lab's clients, besides the addresses.
HOST_NAME = "nfs.lab"
#: Seconds of the grace period and of the lease.
GRACE, LEASE = 8, 6
#: The export's path in NFSv4; NFSv3 clients mount its directory.
PSEUDO = "/export"

_BUS = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/> <allow own="*"/> <allow send_destination="*"/> <allow receive_sender="*"/>
  </policy>
</busconfig>
"""

_GANESHA = """\
# NFS-Ganesha of lab node {node}.
NFS_CORE_PARAM {{
    NFS_Protocols = 3, 4; NFS_Port = {port}; MNT_Port = 20048; NLM_Port = 32803;
    Enable_RQUOTA = false; Clustered = false;
}}
NFSv4 {{
    Grace_Period = {grace}; Lease_Lifetime = {lease};
    RecoveryBackend = fs; RecoveryRoot = "{recovery}/{node}";
    Server_Scope = "{scope}"; Server_Owner = "{node}";
}}
EXPORT {{
    Export_Id = 1; Path = "{export}"; Pseudo = "{pseudo}";
    Access_Type = RW; Squash = None; SecType = sys; Protocols = 3, 4; Transports = TCP, UDP;
    FSAL {{ Name = VFS; }}
}}
LOG {{ Default_Log_Level = EVENT; }}
"""

_ROOM = """\
#!/bin/sh
# Run a program where /run and /var/lib/nfs are those of this node. To be started with "unshare --mount".
set -e
mount --make-rprivate /
mkdir -p {run}/{labs}
mount --rbind {base} {run}/{labs}
mount --rbind {run} /run
mount --bind {var} /var/lib/nfs
exec "$@"
"""

# Every number that an NFSv4 client receives begins with the epoch: it must be unique for each server.
_SERVER = """\
#!/bin/sh
exec ganesha.nfsd -E $(( ($(date +%s) * 256 + {number}) & 0xffffffff )) "$@"
"""

_CALLOUT = """\
#!/bin/sh
# The call-out of rpc.statd: its environment names this node's daemon.
export LOCUM_SOCKET={socket} LOCUM_STATE={state}
PYTHONPATH={package} exec {python} -S -m locum.nfs.callout "$@"
"""


def programs() -> None:
    """Raise LocumError with the packages of missing programs."""
    missing = [package for name, package in _PROGRAMS.items() if _which(name) is None]
    if missing:
        raise LocumError(f"NFS in the lab needs Debian packages: {', '.join(missing)}")


def export_directory(shared: Path) -> Path:
    """The directory that all nodes export; it represents a cluster's file system."""
    return shared / "nfs"


def settings(directory: Path, node: str, shared: Path) -> Mapping[str, object]:
    """Prepare ``directory`` for a node and return the settings of its 60.nfs."""
    run, var = directory / "run", directory / "var"
    # NFS-Ganesha does not follow symbolic links to its export, and clients need one path on all nodes.
    export = export_directory(shared.resolve())
    recovery = shared.resolve() / "nfs-recovery"
    for path in (run / "dbus", run / "ganesha", var / "sm", var / "sm.bak", var / "ganesha", export, recovery):
        path.mkdir(parents=True, exist_ok=True)
    export.chmod(0o777)
    base = state.base()
    _script(directory / "room", _ROOM.format(run=_q(run), var=_q(var), labs=base.name, base=_q(base)))
    home = directory.parent
    _script(
        directory / "callout",
        _CALLOUT.format(
            socket=_q(home / "runtime" / "control.sock"),
            state=_q(home / "state"),
            python=_q(Path(sys.executable)),
            package=_q(Path(locum.__file__).parents[1]),
        ),
    )
    (directory / "bus.conf").write_text(_BUS)
    config = directory / "ganesha.conf"
    names = {"export": export, "pseudo": PSEUDO, "recovery": recovery, "scope": HOST_NAME}
    config.write_text(_GANESHA.format(node=node, port=PORT, grace=GRACE, lease=LEASE, **names))
    number = int("".join(filter(str.isdigit, node)) or 0) % 256
    _script(directory / "server", _SERVER.format(number=number))
    room = ["unshare", "--mount", str(directory / "room")]
    return {
        "backend": "ganesha",
        "exports": [str(export_directory(shared))],
        "recovery": str(recovery),
        "config": str(config),
        "host_name": HOST_NAME,
        "port": PORT,
        "sm": str(var / "sm"),
        "timeout": 20,
        "check_timeout": 2,
        "nfs_unhealthy_after": 1,
        "restart_pause": 0.5,
        "notify_timeout": 20,
        "rpcbind_command": [*room, "rpcbind", "-f", "-w"],
        "bus_command": [*room, "dbus-daemon", "--nofork", "--nopidfile", f"--config-file={directory / 'bus.conf'}"],
        "statd_command": [
            *[*room, "rpc.statd", "-F", "-L", "-n", HOST_NAME, "-P", "/var/lib/nfs"],
            *["-p", "32765", "-H", str(directory / "callout")],
        ],
        "nfs_command": [
            *[*room, str(directory / "server"), "-F", "-L", str(directory / "ganesha.log"), "-f", str(config)],
            *["-p", "/run/ganesha/ganesha.pid"],
        ],
        "grace_command": [
            *[*room, "dbus-send", "--print-reply", "--system", "--reply-timeout=3000", "--dest=org.ganesha.nfsd"],
            *["/org/ganesha/nfsd/admin", "org.ganesha.nfsd.admin.grace"],
        ],
    }


def _script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _which(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")


def _q(path: Path) -> str:
    return shlex.quote(str(path))
