"""``locum reload``: read the configuration again."""

from __future__ import annotations

import sys

import click

from locum.api.client import call
from locum.cli import output
from locum.cli.options import asking_options


@click.command("reload")
@asking_options
def reload(socket_path: str, as_json: bool) -> None:
    """Make this node's daemon read its configuration again.

    Prints the changes that took effect, including renewed certificates and passwords, and the changes that need a
    restart. A configuration with a problem changes nothing; every problem is printed.
    """
    result = call(socket_path, {"op": "reload"})
    if as_json:
        output.emit_json(result)
        return
    fields = result if isinstance(result, dict) else {}
    ignored, warnings = fields.get("ignored") or (), fields.get("warnings") or ()
    nothing = "nothing has taken effect" if ignored or warnings else "nothing has changed"
    output.emit(fields.get("changes") or [nothing])
    for setting in ignored:
        print(f"locum: note: {setting} has changed; restart the daemon to apply it", file=sys.stderr)
    for warning in warnings:
        print(f"locum: warning: {output.clean(warning)}", file=sys.stderr)
