"""``locum reload``: read the configuration again."""

from __future__ import annotations

import sys

import click

from locum.api.client import call
from locum.cli import output
from locum.cli.options import json_option, socket_option


@click.command("reload")
@json_option
@socket_option
def reload(socket_path: str, as_json: bool) -> None:
    """Have this node's daemon read its configuration again.

    A configuration with a problem changes nothing; every problem is printed.
    """
    result = call(socket_path, {"op": "reload"})
    if as_json:
        output.emit_json(result)
        return
    fields = result if isinstance(result, dict) else {}
    output.emit(fields.get("changes") or ["nothing has changed"])
    for setting in fields.get("ignored") or ():
        print(f"locum: note: {setting} has changed: restart the daemon for that", file=sys.stderr)
