"""A real FTP server on every node: vsftpd, which lets anybody read the lab's shared files. 40.vsftpd starts it."""

from __future__ import annotations

import shutil
from pathlib import Path

from locum.errors import LocumError

PORT = 21
#: Where data connections go. 40.vsftpd reads them in the configuration and has the connections registered.
DATA_PORTS = tuple(range(50021, 50041))

#: The rate keeps a transfer of some megabytes going for long enough to be interrupted. Without the two "isolate"s the
#: server moves its sessions into network namespaces, where the lab does not find them.
_CONFIGURATION = """\
listen_ipv6=YES
listen_port={port}
pasv_min_port={first}
pasv_max_port={last}
background=NO
anonymous_enable=YES
no_anon_password=YES
anon_root={shared}
anon_max_rate={rate}
run_as_launching_user=YES
secure_chroot_dir={directory}/empty
xferlog_enable=YES
vsftpd_log_file={directory}/transfers.log
seccomp_sandbox=NO
isolate=NO
isolate_network=NO
"""

#: Bytes a second that a client gets.
RATE = 4_000_000


def program() -> str:
    """The path of vsftpd. Raises LocumError that names the package when it is not installed."""
    found = shutil.which("vsftpd") or shutil.which("vsftpd", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise LocumError("vsftpd is not installed; it is the lab's FTP server (Debian package: vsftpd)")
    return found


def settings(directory: Path, shared: Path) -> dict[str, object]:
    """Write the server's configuration into ``directory``; the settings of 40.vsftpd."""
    (directory / "empty").mkdir(parents=True, exist_ok=True)
    configuration = directory / "vsftpd.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            directory=directory, shared=shared, port=PORT, rate=RATE, first=DATA_PORTS[0], last=DATA_PORTS[-1]
        )
    )
    return {"command": [program(), str(configuration)], "directories": [str(shared)]}
