"""The report of a violation: acts, speakers, and the daemons' logs, in one order of time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from locum.clock import boottime
from locum.errors import LocumError
from locum_lab.lab import Lab
from locum_lab.observer import Record

#: How much before and after a violation is reported, in seconds.
BEFORE = 8.0
AFTER = 2.0
_MOST_LINES = 400


class Line(msgspec.Struct, frozen=True, order=True):
    """An event at boot time ``t``."""

    t: float
    text: str


def timeline(lab: Lab, log: Iterable[Line], records: Iterable[Record], start: float, end: float, address: str) -> str:
    """Everything between ``start`` and ``end``, with time relative to ``start``."""
    lines = [line for line in log if start <= line.t <= end]
    lines += [
        Line(record.t, _words(record))
        for record in records
        if start <= record.t <= end and record.address == address and record.event in ("speaks", "silent", "violation")
    ]
    for node in lab.layout.node_names:
        lines += [line for line in daemon_lines(lab, node) if start <= line.t <= end]
    lines.sort()
    left_out = len(lines) - _MOST_LINES
    text = [f"{line.t - start:9.3f}  {line.text}" for line in lines[-_MOST_LINES:]]
    return "\n".join(([f"({left_out} lines before)"] if left_out > 0 else []) + text)


def _words(record: Record) -> str:
    if record.event == "violation" and record.before == record.t:
        return f"** {record.address}: heard from {record.other}, and from {record.node} less than an echo later"
    if record.event == "violation":
        return (
            f"** {record.address}: heard from {record.node}, {record.other}, and {record.node} again "
            f"within {(record.t - record.before) * 1000:.1f} ms"
        )
    return f"-- {record.address}: {record.node} {'speaks' if record.event == 'speaks' else 'was last heard'}"


def daemon_lines(lab: Lab, node: str) -> Sequence[Line]:
    """The lines of the node's daemon, with boot times computed from its local times."""
    offset = boottime() - time.time()
    try:
        text = lab.daemon_log(node).read_text(errors="replace")
    except FileNotFoundError:
        return ()
    found = []
    last = 0.0
    for line in text.splitlines():
        try:
            last = datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S.%f").timestamp() + offset
        except ValueError:
            found.append(Line(last, f"   {node} | {line}"))
        else:
            found.append(Line(last, f"   {node} | {line[24:]}"))
    return found


def views(lab: Lab) -> list[str]:
    """Each node's view of the cluster, a line for each."""
    lines = []
    for node in lab.layout.node_names:
        try:
            seen = lab.status(node)
        except LocumError as error:
            lines.append(f"{node} does not answer: {error}")
            continue
        nodes = ", ".join(f"{each.name} {each.state}" for each in seen.nodes)
        addresses = ", ".join(f"{each.address} {each.state} {each.node or '-'}" for each in seen.addresses)
        lines.append(f"{node} says: leader {seen.leader}, epoch {seen.epoch} {seen.progress}; {nodes}; {addresses}")
    return lines
