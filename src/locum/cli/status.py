"""``locum status``: the state of the cluster and its reasons."""

from __future__ import annotations

import time
from collections.abc import Iterator

import click

from locum.api.model import AddressReport, DaemonState, GuardStop, LoopReport, NodeReport, StatusReport
from locum.cli import output
from locum.cli.ask import ask_status, decode_status, old_lines, watch_status
from locum.cli.check import CheckCommand, WrongCheck, run_check
from locum.cli.options import json_option, socket_option, watch_option
from locum.cli.output import Cell, Content, Screen

#: The style of a node's state on a terminal.
STATE_STYLES = {"OK": "green", "PARTIALLYONLINE": "yellow", "DISABLED": "yellow", "STOPPED": "yellow"}

#: The most reasons listed for addresses not in their place, and the most addresses named for each.
LISTED, NAMED = 12, 6


@click.command("status", cls=CheckCommand)
@json_option
@watch_option
@click.option(
    "--check",
    is_flag=True,
    help="For monitoring: one line; exit status 0: all served, 2: an address is not, 3: this node is cut off.",
)
@click.option("--warnings", is_flag=True, help="With --check: exit status 1 for warnings and nodes that are not OK.")
@socket_option
@click.pass_context
def status(ctx: click.Context, *, socket_path: str, as_json: bool, watch: bool, check: bool, warnings: bool) -> None:
    """Show the state of the cluster and its reasons, as this node's daemon sees them.

    Exit status 3 when the daemon has no contact with the store, so that the state may be outdated.
    """
    if check:
        if watch:
            raise WrongCheck("--check and --watch exclude each other", ctx)
        ctx.exit(run_check(socket_path, as_json=as_json, warnings=warnings))
    if warnings:
        raise click.UsageError("--warnings goes with --check", ctx)
    if not watch:
        reply = ask_status(socket_path, as_json=as_json)
        if as_json:
            output.emit_json(reply.result)
        else:
            output.emit(render(decode_status(reply.result), output.screen(), time.time()))
        ctx.exit(reply.status)
    elif as_json:
        for result in watch_status(socket_path):
            output.emit_json(result, compact=True)
    else:
        on = output.screen()
        output.show_changes(_pictures(socket_path, on), on)


def _pictures(socket_path: str, on: Screen) -> Iterator[list[str]]:
    for result in watch_status(socket_path):
        yield render(decode_status(result), on, time.time())


def render(report: StatusReport, on: Screen, wall: float) -> list[str]:
    """Format the report as text; ``wall`` is unix time in seconds (bans end by it)."""
    lines = old_lines(report, on, wall)
    lines += output.facts(
        [
            ("Seen by", _seen_by(report)),
            ("Leader", report.leader or Cell("none", "yellow")),
            ("Plan", _plan(report)),
            ("State", _progress(report)),
            ("Store", _store(report.daemon)),
            ("Gate", _gate(report.daemon)),
            ("Scripts", _scripts(report.daemon)),
            ("Loop", _loop(report.daemon)),
        ],
        on,
    )
    lines += ["", *node_table(report.nodes, on, wall)]
    if report.addresses:
        lines += ["", *_address_summary(report.addresses, on)]
    if report.warnings:
        lines += ["", "Warnings:", *output.items(report.warnings, on, "yellow")]
    return lines


def _seen_by(report: StatusReport) -> str:
    stage = report.daemon.stage if report.daemon is not None else "member"
    words = {
        "joining": ", which is joining the cluster",
        "lost": ", which lost its membership",
        "left": ", which leaves",
    }
    return report.node + words.get(stage, "")


def _plan(report: StatusReport) -> Content:
    return f"{report.epoch} ({report.cause})" if report.epoch else Cell("none yet", "yellow")


def _progress(report: StatusReport) -> Content:
    if report.stale:
        return Cell("unknown: this is the last state known to this node", "red")
    if report.progress == "settled":
        return Cell("settled", "green")
    doing = "no plan yet" if report.progress == "none" else report.progress
    if not report.waiting_for:
        return Cell(doing, "yellow")
    return Cell(f"{doing}, waiting for {'; '.join(report.waiting_for)}", "yellow")


def _store(daemon: DaemonState | None) -> Content:
    if daemon is None or not daemon.store:
        return ""
    if daemon.store_problem:
        return Cell(f"{daemon.store}: {daemon.store_problem}", "red")
    held = f"{daemon.hold_left:.1f} s left" if daemon.hold_left > 0 else "none left"
    return f"{daemon.store} (hold {daemon.hold:g} s, {held})"


def _gate(daemon: DaemonState | None) -> Content:
    gate = daemon.gate if daemon is not None else None
    if gate is None:
        return ""
    if gate.problem:
        return Cell(f"its state cannot be read: {gate.problem}", "red")
    if not gate.installed:
        return Cell("its rules are gone from the kernel; the daemon loads them again", "red")
    dropped = sum(gate.refused.values())
    words = f"open for {output.count(len(gate.held), 'address', 'addresses')}" if gate.open_for > 0 else "shut"
    words += f", {output.count(dropped, 'packet', 'packets')} dropped so far"
    if gate.egress_missing:
        return Cell(f"{words}; packet sockets bypass it on  {', '.join(gate.egress_missing)}", "yellow")
    return words if gate.open_for > 0 else Cell(words, "yellow")


def _scripts(daemon: DaemonState | None) -> Content:
    scripts = daemon.scripts if daemon is not None else None
    if scripts is None:
        return ""
    words = f"{scripts.in_use} in use from {scripts.directory}"
    if scripts.ignored:
        others = f" and {len(scripts.ignored) - NAMED} others" if len(scripts.ignored) > NAMED else ""
        words += f"; never run: {'; '.join(scripts.ignored[:NAMED])}{others}"
    return Cell(f"{words}; the directory is faulty: see the warnings", "yellow") if scripts.problem else words


#: A shorter stop of the daemon's event loop is not shown, seconds.
WORTH_A_LINE = 0.1


def _loop(daemon: DaemonState | None) -> Content:
    loop = daemon.loop if daemon is not None else None
    if loop is None:
        return ""
    words = []
    if loop.longest >= WORTH_A_LINE:
        words.append(f"longest stop in the last hour {_stop(loop)}")
    if loop.guard is not None and loop.guard.longest >= WORTH_A_LINE:
        words.append(f"the guard's {_stop(loop.guard)}")
    words += [f"hangs: {call}" for call in loop.hanging]
    if loop.dropped:
        words.append(f"{output.count(loop.dropped, 'log line', 'log lines')} dropped")
    if not words:
        return ""
    longest = max(loop.longest, loop.guard.longest if loop.guard is not None else 0.0)
    return Cell("; ".join(words), "yellow") if loop.hanging or longest >= 1.0 else "; ".join(words)


def _stop(stop: LoopReport | GuardStop) -> str:
    where = "with the whole process" if stop.everything else f"in {stop.where or 'an unknown place'}"
    return f"{stop.longest:.1f} s {where}"


def node_table(nodes: tuple[NodeReport, ...], on: Screen, wall: float) -> list[str]:
    """Format a line for each node."""
    if not nodes:
        return ["No node has joined yet."]
    heads = ["NUM", "NODE", "STATE", "ADDRESSES", "ROLE", "PRIVATE", "REASON"]
    rows: list[list[Content]] = []
    for node in nodes:
        role = [*(["leader"] if node.leader else []), *(["this node"] if node.local else [])]
        rows.append(
            [
                "-" if node.number is None else str(node.number),
                Cell(node.name, "bold"),
                Cell(node.state, STATE_STYLES.get(node.state, "red")),
                str(len(node.addresses)),
                ", ".join(role),
                node.private_address or "-",
                reason(node, wall),
            ]
        )
    return output.table(heads, rows, on, right=["NUM", "ADDRESSES"])


def reason(node: NodeReport, wall: float) -> str:
    """The reason why the node is not OK, with the rest of a ban."""
    if node.banned_until is not None and node.banned_until > wall:
        return f"{node.reason}; {node.banned_until - wall:.0f} s left"
    return node.reason


def _address_summary(addresses: tuple[AddressReport, ...], on: Screen) -> list[str]:
    total = output.count(len(addresses), "public address", "public addresses")
    wrong = [address for address in addresses if address.state != "served"]
    if not wrong:
        return [f"{total}, all served"]
    unserved = sum(not address.serving for address in wrong)
    moving = len(wrong) - unserved
    parts = [on.paint(f"{unserved} not served", "red")] if unserved else []
    parts += [on.paint(f"{moving} moving", "yellow")] if moving else []
    lines = [f"{total}, {', '.join(parts)}:"]
    grouped: dict[tuple[bool, str], list[str]] = {}
    for address in wrong:
        grouped.setdefault((address.serving, address.reason), []).append(f"{address.address}/{address.bits}")
    for (serving, why), which in list(grouped.items())[:LISTED]:
        others = f" and {len(which) - NAMED} others" if len(which) > NAMED else ""
        lines += output.items([f"{', '.join(which[:NAMED])}{others}: {why}"], on, "yellow" if serving else "red")
    if len(grouped) > LISTED:
        left = sum(len(which) for which in list(grouped.values())[LISTED:])
        lines.append(f"- and {left} more: 'locum ip' lists all")
    return lines
