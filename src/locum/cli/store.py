"""``locum store``: the embedded store as a separate process, for several nodes on one machine."""

from __future__ import annotations

import click


@click.command("store")
@click.option(
    "--socket",
    required=True,
    type=click.Path(),
    metavar="PATH",
    help='Socket to serve at; nodes name it as store = "unix:PATH".',
)
@click.option(
    "--data",
    type=click.Path(),
    metavar="FILE",
    help="Keep the store in FILE. Without it, a restart of this process loses everything, claims included.",
)
@click.option(
    "--group", metavar="NAME", help="Group whose members may connect, in addition to root and the user of this process."
)
def store(socket: str, data: str | None, group: str | None) -> None:
    """Serve a store to the nodes of this machine, until SIGTERM or Ctrl-C."""
    # Not at the top: the other commands do not need asyncio and answer faster without it.
    import asyncio  # noqa: PLC0415

    from locum.store.server import group_id, serve  # noqa: PLC0415

    asyncio.run(serve(socket, data, group=group_id(group)))
