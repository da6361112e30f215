"""The effect of each fault on the client of each service: ``locum lab services-table``.

A lab is built, an ordinary client fetches a file, the fault is applied in the middle, and the client continues by
itself. The result is the table of ``docs/services.md``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from locum.errors import LocumError
from locum_lab import processes, transfers
from locum_lab.lab import Lab
from locum_lab.layout import Layout
from locum_lab.transfers import CLIENTS, Transfer

#: Row of the table → the kind of fault; None: an admin moves the address.
FAULTS: dict[str, str | None] = {
    "nothing": "",
    "planned move": None,
    "killed service": "service",
    "hung service": "hang",
    "killed agent": "kill-agent",
    "killed everything": "kill-all",
    "lost link": "link",
    "cut host": "cut",
}

#: Seconds between two monitors. A fault noticed sooner was noticed by an event; only monitor notices a hung service.
MONITOR_INTERVAL = 15


class Seen(msgspec.Struct, frozen=True):
    """One transfer and one fault. ``client``: one of transfers.CLIENTS. ``stall``: seconds in which nothing arrived.
    ``noticed``: seconds from the fault until the cluster reported the node as unhealthy or gone, None when it never
    did. ``errors``: the client's complaints. ``intact``: the file is complete and correct. ``problem``: why the
    transfer did not end.
    """

    client: str
    fault: str
    stall: float
    noticed: float | None
    errors: tuple[str, ...]
    intact: bool
    problem: str = ""


def measure(lab: Lab, protocol: str, fault: str, limit: float = 90.0, client_timeout: int = transfers.TIMEOUT) -> Seen:
    """Fetch a file, apply the fault to the node that serves it, wait for the end. Heals, and waits for rest.

    ``limit`` is for everything, ``client_timeout`` the client's own limit for each wait, both in seconds.
    """
    lab.wait_served()
    address = lab.layout.public_addresses[0].address
    holder = lab.served()[address]
    with Transfer(lab, protocol, address, timeout=client_timeout) as transfer:
        transfer.wait_under_way()
        said = len(transfer.output())
        kind = FAULTS[fault]
        since = time.monotonic()
        if kind is None:
            other = next(node for node in lab.layout.node_names if node != holder)
            transfer.look_while(lambda: _move(lab, address, other))
        elif kind:
            transfer.look_while(lambda: lab.fault(holder, kind))
        noticed = _watch(lab, holder, transfer, time.monotonic(), limit) if kind else None
        problem = ""
        try:
            transfer.wait_end(limit)
        except LocumError as error:
            problem = str(error)
        seen = Seen(
            protocol,
            fault,
            round(transfer.stall(since), 3),
            noticed,
            transfer.complaints(said),
            not problem and transfer.intact(),
            problem,
        )
    lab.heal()
    lab.wait_served()
    return seen


def _move(lab: Lab, address: str, node: str) -> None:
    done = lab.run(node, [sys.executable, "-m", "locum.cli.main", "ip", "move", address, node])
    if done.returncode != 0:
        raise LocumError(f"locum ip move: {done.stdout}{done.stderr}")


def _watch(lab: Lab, node: str, transfer: Transfer, since: float, limit: float) -> float | None:
    """Seconds until the cluster reports the node as not OK, None when the transfer ended first."""
    while transfer.look() and time.monotonic() < since + limit:
        try:
            report = lab.status()
        except LocumError:
            continue
        if any(item.name == node and item.state != "OK" for item in report.nodes):
            return round(time.monotonic() - since, 3)
        time.sleep(0.005)
    return None


def run(
    protocols: Sequence[str],
    faults: Sequence[str],
    say: Callable[[str], None],
    name: str = "services-table",
    hold: float = 2.0,
) -> list[Seen]:
    """Measure everything, in a separate lab for each service, so that none waits for another's monitor.

    ``say`` gets a line for each row.
    """
    rows: list[Seen] = []
    for services in dict.fromkeys(transfers.named(protocol).services for protocol in protocols):
        lab = Lab.up(
            Layout(name=name, nodes=3, addresses=6, hold=hold),
            services=services,
            owner=processes.find(os.getpid()),
            settings=f"[tunables]\nMonitorInterval = {MONITOR_INTERVAL}\nNoIPFailback = 1",
        )
        try:
            lab.wait_served()
            transfers.slow_down(lab)
            for protocol in (each for each in protocols if CLIENTS[each].services == services):
                for fault in faults:
                    rows.append(measure(lab, protocol, fault))
                    say(line(rows[-1]))
        finally:
            lab.down()
    return rows


HEAD = (
    "| client | fault | nothing arrived for (s) | noticed after (s) | the client said | file |\n"
    "|---|---|---:|---:|---|---|"
)


def line(seen: Seen) -> str:
    """A row of the table, in Markdown."""
    noticed = "-" if seen.noticed is None else f"{seen.noticed:.2f}"
    said = ", ".join(seen.errors) or "nothing"
    file = "right" if seen.intact else "WRONG"
    return f"| {seen.client} | {seen.fault} | {seen.stall:.2f} | {noticed} | {said} | {file} |"


def main(
    protocols: Sequence[str] = (), faults: Sequence[str] = (), json_file: Path | None = None, hold: float = 2.0
) -> int:
    """Print the table row by row; 1 when a transfer did not end with the right file."""
    print(HEAD, flush=True)
    rows = run(protocols or tuple(CLIENTS), faults or tuple(FAULTS), lambda row: print(row, flush=True), hold=hold)
    if json_file is not None:
        json_file.write_text(json.dumps(msgspec.to_builtins(rows), indent=1) + "\n")
    for row in rows:
        if row.problem:
            print(f"{row.client}, {row.fault}: {row.problem}", file=sys.stderr)
    return 0 if all(row.intact for row in rows) else 1


if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(main([word for word in words if word in CLIENTS], [word for word in words if word in FAULTS]))
