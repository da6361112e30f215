"""``locum statd-callout``: called by rpc.statd when clients begin or cease to hold NFS locks (``rpc.statd -H``)."""

from __future__ import annotations

import click


@click.command(name="statd-callout", context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="add-client|del-client CLIENT [SERVER [STATE]]")
@click.pass_context
def statd_callout(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Record in the cluster that CLIENT holds, or no longer holds, NFS locks.

    For rpc.statd, as its high-availability call-out. It finds the daemon by LOCUM_SOCKET and its state directory by
    LOCUM_STATE, or at their default places. When the daemon cannot be reached, the change is kept in a journal.
    """
    from locum.nfs import callout  # noqa: PLC0415

    ctx.exit(callout.main(list(arguments)))
