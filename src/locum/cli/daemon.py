"""``locum daemon``, ``shutdown`` and ``check-config``: one node's life."""

from __future__ import annotations

import sys

import click

from locum.cli import output
from locum.cli.options import DEFAULT_CONFIG, Number, config_option, socket_option
from locum.errors import UsageError


@click.command("daemon")
@config_option
@click.pass_context
def daemon(ctx: click.Context, config_path: str) -> None:
    """Run this node in the foreground, until SIGTERM, Ctrl-C or 'locum shutdown'.

    When it is stopped in one of these ways, other nodes serve its addresses before it ends.
    """
    from locum.daemon import preload, run_agent  # noqa: PLC0415
    from locum.node.guard.main import run  # noqa: PLC0415

    ctx.exit(run(config_path, run_agent, preload))


@click.command("shutdown")
@click.option(
    "--timeout",
    type=Number("a number of seconds", 0.1, 86400),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Longest wait.",
)
@click.option("--no-wait", is_flag=True, help="Return as soon as the node begins to leave.")
@click.option("--handed-over", is_flag=True, help="Return as soon as other nodes serve this node's addresses.")
@socket_option
def shutdown(socket_path: str, timeout: float, no_wait: bool, handed_over: bool) -> None:
    """Stop this node's daemon: its addresses move, the event shutdown runs, and it ends.

    When the command returns, a new daemon can be started. systemd starts it again only at the next boot or by
    'systemctl start locum'.
    """
    from locum.api.ending import WithinEvent, hand_over, shut_down  # noqa: PLC0415

    if no_wait and handed_over:
        raise UsageError("--no-wait and --handed-over exclude each other")
    try:
        if handed_over:
            hand_over(socket_path, timeout)
            output.emit(["the addresses are handed over; the daemon ends by itself"])
            return
        seen = shut_down(socket_path, timeout, wait=not no_wait)
    except WithinEvent as later:
        output.emit([str(later)])
        return
    if no_wait:
        output.emit(["the daemon leaves the cluster"])
    elif seen:
        output.emit(["the daemon has ended"])
    else:
        output.emit(["the daemon's agent has ended; its guard ends within a second (it cannot be watched from here)"])


@click.command("check-config")
@click.argument("config_path", metavar="[FILE]", default=DEFAULT_CONFIG, envvar="LOCUM_CONFIG")
def check_config(config_path: str) -> None:
    """Check the configuration FILE, the machine and the event scripts; print every problem. Starts nothing.

    FILE defaults to LOCUM_CONFIG in the environment, or else to /etc/locum/locum.toml.
    """
    from locum.config.load import load  # noqa: PLC0415
    from locum.node.guard.main import check  # noqa: PLC0415

    settings = load(config_path)
    for warning in check(settings):
        print(f"locum: warning: {output.clean(warning)}", file=sys.stderr)
    addresses = output.count(len(settings.addresses), "public address", "public addresses")
    output.emit([f"{config_path}: good: node {settings.node.name}, {addresses}, store {settings.cluster.store}"])
