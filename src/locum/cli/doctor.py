"""``locum doctor``: examine this node and its store."""

from __future__ import annotations

import click

from locum.cli import output
from locum.cli.options import config_option
from locum.doctor import Finding


@click.command("doctor")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_context
def doctor(ctx: click.Context, config_path: str, as_json: bool) -> None:
    """Examine this node and its store, and recommend changes.

    Works beside a running daemon and without one. Exit status 1 when there is a problem.
    """
    import asyncio  # noqa: PLC0415

    from locum.config.load import load  # noqa: PLC0415
    from locum.doctor import answers, daemon, machine, store, systemd  # noqa: PLC0415
    from locum.node.configured import store_of  # noqa: PLC0415
    from locum.store.prefixed import PrefixedStore  # noqa: PLC0415

    settings = load(config_path)
    findings = [
        *machine.examine(settings),
        *answers.examine(settings),
        *daemon.examine(settings),
        *systemd.examine(settings),
    ]

    async def measure() -> list[Finding]:
        whole = store_of(settings)
        connection = PrefixedStore(whole, settings.cluster.name + "/")
        try:
            found = await store.examine(connection, settings)
            if settings.cluster.store.kind == "etcd":
                from locum.doctor import etcd  # noqa: PLC0415
                from locum.store.etcd import EtcdStore  # noqa: PLC0415

                assert isinstance(whole, EtcdStore)
                found += etcd.judge(await whole.space())
            return found
        finally:
            await connection.close()

    if settings.cluster.store.kind in ("memory", "sqlite"):
        findings.append(
            Finding("store", "good", f"{settings.cluster.store}: served by the daemon itself, not measured")
        )
    else:
        findings += asyncio.run(measure())
    if as_json:
        output.emit_json(findings)
    else:
        output.emit(_lines(findings))
    ctx.exit(1 if any(finding.level == "problem" for finding in findings) else 0)


def _lines(findings: list[Finding]) -> list[str]:
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<8} {finding.check:<14} {finding.text}")
        if finding.advice:
            lines.append(f"{'':<23} → {finding.advice}")
    return lines
