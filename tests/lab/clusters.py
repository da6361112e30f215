"""What the failover tests share: clusters under watch, scripts that write down what they saw, questions to nodes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping

import msgspec

from locum.api.model import AddressReport, NodeReport
from locum.errors import LocumError
from locum_lab.lab import Lab

#: Beside the shipped scripts: writes down each event with the times of its begin and end, and does what the files in
#: the node's directory say: fail-EVENT (exit with the status in it), hang-EVENT (sleep for ever), slow-EVENT (seconds).
RECORDER = """\
#!/bin/sh
began=$(date +%s.%N)
if [ -e {directory}/hang-$1 ]; then
    echo "$began - $*" >> {directory}/events.log
    sleep 1000
fi
if [ -e {directory}/slow-$1 ]; then
    sleep "$(cat {directory}/slow-$1)"
fi
echo "$began $(date +%s.%N) $*" >> {directory}/events.log
if [ -e {directory}/fail-$1 ]; then
    echo "told to fail $1"
    exit "$(cat {directory}/fail-$1)"
fi
exit 0
"""


class Seen(msgspec.Struct, frozen=True):
    """One run of the recording script; times are unix times."""

    began: float
    ended: float
    event: str
    arguments: tuple[str, ...]


def install_recorder(lab: Lab) -> None:
    """Put the recording script on every node, last in the order."""
    for node in lab.layout.node_names:
        lab.write_script(node, "90.recorder", RECORDER.format(directory=lab.node_directory(node)))


def tell(lab: Lab, node: str, what: str, value: str | None = "1") -> None:
    """Make the recording script of a node do something (``fail-monitor``, …), or no more when ``value`` is None."""
    path = lab.node_directory(node) / what
    if value is None:
        path.unlink(missing_ok=True)
    else:
        path.write_text(value)


def seen(lab: Lab, node: str, event: str | None = None) -> list[Seen]:
    """What the recording script of a node has seen, in order."""
    try:
        lines = (lab.node_directory(node) / "events.log").read_text().splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        began, ended, name, *arguments = line.split()
        found.append(Seen(float(began), float("inf") if ended == "-" else float(ended), name, tuple(arguments)))
    return [one for one in found if event in (None, one.event)]


def forget_events(lab: Lab) -> None:
    """Begin new records."""
    for node in lab.layout.node_names:
        (lab.node_directory(node) / "events.log").unlink(missing_ok=True)


def locum(lab: Lab, node: str, *arguments: str, status: int = 0) -> str:
    """Run ``locum`` on a node; its output, after checking its exit status."""
    done = lab.run(node, [sys.executable, "-m", "locum.cli.main", *arguments])
    assert done.returncode == status, (
        f"locum {' '.join(arguments)}: status {done.returncode}: {done.stdout}{done.stderr}"
    )
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def locum_json(lab: Lab, node: str, *arguments: str) -> dict[str, object]:
    """As :func:`locum`, with ``--json``."""
    found = json.loads(locum(lab, node, *arguments, "--json"))
    assert isinstance(found, dict)
    return found


def node_report(lab: Lab, node: str, asked: str | None = None) -> NodeReport | None:
    """What the cluster says of a node; None when nobody answers."""
    try:
        report = lab.status(asked)
    except LocumError:
        return None
    return next((one for one in report.nodes if one.name == node), None)


def address_report(lab: Lab, address: str) -> AddressReport | None:
    """What the cluster says of an address; None when nobody answers."""
    try:
        report = lab.status()
    except LocumError:
        return None
    return next((one for one in report.addresses if one.address == address), None)


def wait_state(lab: Lab, node: str, *states: str, limit: float = 30.0) -> NodeReport:
    """Wait until the cluster gives a node one of these states."""

    def found() -> NodeReport | None:
        report = node_report(lab, node)
        return report if report is not None and report.state in states else None

    report = lab.wait_for(f"{node} to be {' or '.join(states)}", found, limit)
    assert report is not None
    return report


def addresses_of(lab: Lab, node: str) -> tuple[str, ...]:
    """What a node serves now."""
    return tuple(sorted(address for address, holder in lab.served().items() if holder == node))


def wait_moved(lab: Lab, addresses: Mapping[str, str] | tuple[str, ...], away_from: str, limit: float = 30.0) -> None:
    """Wait until all of the addresses are served, by other nodes."""

    def moved() -> bool:
        served = lab.served()
        return all(served.get(address) not in (None, away_from) for address in addresses)

    lab.wait_for(f"{', '.join(addresses)} to be served elsewhere than on {away_from}", moved, limit)


def check_kernels(lab: Lab) -> None:
    """Every address is in exactly one kernel: its server's."""
    served = lab.served()
    for node in lab.layout.node_names:
        mine = {address for address, holder in served.items() if holder == node}
        assert set(lab.configured(node)) == mine, f"{node} has {lab.configured(node)}, serves {mine}"
