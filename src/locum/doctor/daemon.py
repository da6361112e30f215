"""Ask the daemon of this node, if one is running, for its hold and the current state of the kernel's gate."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from locum.api import client
from locum.api.model import DaemonState, GateReport, StatusReport
from locum.config.model import Settings
from locum.control_socket import NoDaemon
from locum.doctor import Finding
from locum.errors import LocumError

#: Limit for its answer, in seconds.
PATIENCE = 5.0


def examine(settings: Settings) -> Iterator[Finding]:
    """Findings about the running daemon."""
    try:
        answer = client.call_raw(settings.paths.control, {"op": "status"}, PATIENCE)
        report = msgspec.json.decode(answer, type=StatusReport)
    except NoDaemon:
        yield Finding("daemon", "good", "not running")
        return
    except (LocumError, msgspec.DecodeError) as error:
        yield Finding("daemon", "problem", f"it does not answer: {error}", "see its log")
        return
    if report.daemon is None:
        yield Finding("daemon", "warning", "its answer lacks its own state", "it has another version: restart it")
        return
    hold = judge_hold(report.daemon)
    if report.stale and hold.level == "good":
        hold = Finding("daemon", "problem", report.warnings[0], "see 'store' below, and its log")
    yield hold
    yield judge_gate(report.daemon)
    yield from judge_network(report)


def judge_network(report: StatusReport) -> Iterator[Finding]:
    """Findings about other machines and clusters that have this cluster's addresses."""
    for warning in report.warnings:
        if "another machine claims to have" in warning:
            yield Finding(
                "network", "warning", warning, "find that machine by its hardware address; see docs/safety.md"
            )
    for address in report.addresses:
        if "another machine has it" in address.reason or "in the same store" in address.reason:
            yield Finding("network", "problem", f"{address.address} is not served: {address.reason}")


def judge_hold(daemon: DaemonState) -> Finding:
    """Whether the store accepts its beats."""
    if daemon.store_problem:
        return Finding("daemon", "problem", f"it cannot use the store: {daemon.store_problem}")
    if daemon.stage == "member" and daemon.hold_left <= 0:
        return Finding(
            "daemon", "problem", "its hold has ended: it answers for no address", "see 'store' below, and its log"
        )
    return Finding("daemon", "good", f"it runs ({daemon.stage}), {daemon.hold_left:.1f} s of its hold are left")


def judge_gate(daemon: DaemonState) -> Finding:
    """Whether the kernel enforces the node's hold."""
    gate = daemon.gate
    if gate is None:
        return Finding(
            "gate",
            "warning",
            "the running daemon has no gate: only lifetimes remove the addresses",
            "see 'enforcement'; restart the daemon when that finding is good",
        )
    if gate.problem:
        return Finding("gate", "problem", f"its state cannot be read: {gate.problem}")
    if not gate.installed:
        return Finding(
            "gate",
            "problem",
            "its rules are gone from the kernel: only the daemon itself enforces this node's hold",
            "find the program that flushes nftables' rules: it should use 'flush table', not 'flush ruleset'",
        )
    if gate.egress_missing:
        return Finding(
            "gate",
            "warning",
            f"{_seen(gate)}; packet sockets bypass it on {', '.join(gate.egress_missing)}",
            "a frozen daemon could announce an address late there; use kernel 5.16 or later",
        )
    if gate.open_for <= 0 and daemon.hold_left > 0:
        return Finding("gate", "problem", f"{_seen(gate)}, although the hold lasts", "see the daemon's log")
    return Finding("gate", "good", _seen(gate))


def _seen(gate: GateReport) -> str:
    dropped = ", ".join(f"{family} {packets}" for family, packets in sorted(gate.refused.items())) or "none"
    state = f"open for {gate.open_for:.1f} s" if gate.open_for > 0 else "shut"
    return f"{state}; addresses that may speak: {len(gate.held)}; packets dropped so far: {dropped}"
