"""A real FTP server on every node: vsftpd, with read access for all to the lab's shared files; for 40.vsftpd."""

from __future__ import annotations

import shutil
from pathlib import Path

from locum.errors import LocumError

PORT = 21
#: The ports of data connections. 40.vsftpd reads them in the configuration and has the connections recorded.
DATA_PORTS = tuple(range(50021, 50041))

#: The rate makes a transfer of some megabytes last long enough to be interrupted. Without the two "isolate" options the
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

#: A client's bytes per second.
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
