"""A real web server on every node: nginx, which answers each request with the node's name; for the script 50.web."""

from __future__ import annotations

import shutil
from pathlib import Path

from locum.errors import LocumError

PORT = 80

_CONFIGURATION = """\
# The web server of lab node {name}.
daemon off;
user root;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_timeout 0;
    server {{
        listen {port};
        listen [::]:{port} ipv6only=on;
        default_type text/plain;
        location / {{ return 200 "{name}\\n"; }}
    }}
}}
"""


def program() -> str:
    """The path of nginx. Raises LocumError that names the package when it is not installed."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise LocumError("nginx is not installed; it is the demo's web server (Debian package: nginx-light)")
    return found


def configure(directory: Path, name: str) -> None:
    """Write the configuration of the web server of node ``name`` into ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "nginx.conf").write_text(_CONFIGURATION.format(name=name, directory=directory, port=PORT))


def command(directory: Path) -> list[str]:
    """The command that runs the web server in the foreground."""
    return [program(), "-p", str(directory), "-e", str(directory / "error.log"), "-c", str(directory / "nginx.conf")]
