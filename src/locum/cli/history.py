"""``locum history``: what has happened in the cluster, and why."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

import click

from locum import hosts
from locum.api.telling import NAMED, sentences, stamp
from locum.cli import output
from locum.cli.ask import ask, decode
from locum.cli.options import Number, asking_options
from locum.cli.output import Screen
from locum.rules.occurrences import Occurrence

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_FORMS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d", "%H:%M:%S", "%H:%M")


@click.command("history")
@click.argument("about", required=False, default="", metavar="[ADDRESS|NODE]")
@click.option("--since", default="", metavar="TIME", help="From then on: 15m, 2h, 3d ago; 09:18; 2026-11-28 09:18.")
@click.option(
    "-n", "--number", type=Number("a number", 1, 2000, whole=True), default=50, show_default=True, help="The latest N."
)
@click.option("--all", "everything", is_flag=True, help="Name every address, however many moved together.")
@asking_options
def history(about: str, *, since: str, number: float, everything: bool, as_json: bool, socket_path: str) -> int:
    """Tell what has happened in the cluster, the latest last: moves of addresses and why, nodes' states, commands.

    With an ADDRESS or a NODE only what concerns it. The history is in the store: every node tells the same.
    """
    try:
        about = hosts.address(about)
    except ValueError:
        pass  # a node
    request = {"op": "history", "about": about, "since": moment(since, time.time()), "limit": int(number)}
    reply = ask(socket_path, request)
    if as_json:
        output.emit_json(reply.result)
    else:
        found = decode(reply.result, list[Occurrence])
        output.emit(render(found, output.screen(), named=10**6 if everything else NAMED) or [_nothing(about, since)])
    return reply.status


def _nothing(about: str, since: str) -> str:
    return f"Nothing is known{' about ' + about if about else ''}{' since ' + since if since else ''}."


def render(found: Iterable[Occurrence], on: Screen, named: int = NAMED) -> list[str]:
    """Format occurrences as text: a line each, folded under its text."""
    lines: list[str] = []
    for one in found:
        for number, sentence in enumerate(sentences(one, named)):
            when = stamp(one.at) if number == 0 else " " * len(stamp(one.at))
            indent = len(when) + len(output.GAP)
            first, *rest = output.wrap(output.clean(sentence), indent, on.width)
            lines += [on.paint(when, "dim") + output.GAP + first, *(" " * indent + line for line in rest)]
    return lines


def moment(text: str, now: float) -> float:
    """The unix time in seconds that ``text`` means, 0 for "". Raises click.BadParameter."""
    if not text:
        return 0.0
    if found := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])(?:\s*ago)?", text):
        return now - float(found[1]) * _UNITS[found[2]]
    today = time.strftime("%Y-%m-%d", time.localtime(now))
    for form in _FORMS:
        try:
            dated = form if form.startswith("%Y") else f"%Y-%m-%d {form}"
            read = time.mktime(time.strptime(text if form.startswith("%Y") else f"{today} {text}", dated))
        except ValueError:
            continue
        # A time of day that is still to come was yesterday's.
        return read - 86400 if read > now and not form.startswith("%Y") else read
    raise click.BadParameter(
        f"{text!r} is no time: 15m, 2h or 3d (ago), 09:18, 2026-11-28 or '2026-11-28 09:18'", param_hint="'--since'"
    )
