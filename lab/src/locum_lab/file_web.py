"""The web server nginx as a file server of every node, with the lab's shared files. 41.nginx starts it."""

from __future__ import annotations

from pathlib import Path

from locum_lab import web

#: Not 80: a lab can run the plain service ``web`` beside it.
PORT = 8080

_CONFIGURATION = """\
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
    server {{
        listen {port};
        listen [::]:{port} ipv6only=on;
        default_type application/octet-stream;
        root {shared};
        limit_rate {rate};
        location = / {{ return 200 "here\\n"; }}
    }}
}}
"""

#: A client's bytes per second, so that a transfer lasts long enough to be interrupted.
RATE = 4_000_000


def settings(directory: Path, shared: Path) -> dict[str, object]:
    """Write the server's configuration into ``directory``; the settings of 41.nginx."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "nginx.conf").write_text(
        _CONFIGURATION.format(directory=directory, shared=shared, port=PORT, rate=RATE)
    )
    return {"command": web.command(directory), "ports": [PORT], "directories": [str(shared)]}
