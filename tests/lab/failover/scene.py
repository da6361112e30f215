"""Clusters under watch: the observer and the client, and questions to both."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from locum_lab.lab import Lab
from locum_lab.watching import Watching
from tests.lab.clusters import (
    addresses_of,
    check_kernels,
)

Cluster = Callable[..., Lab]
LOCUM = (sys.executable, "-m", "locum.cli.main")


@contextlib.contextmanager
def watched(lab: Lab) -> Iterator[Watching]:
    """The observer and the client while the block runs; at the end, nobody may have seen two holders (I1)."""
    with Watching(lab) as watching:
        lab.wait_for("every address to be answered", lambda: all_answered(lab, watching))
        yield watching
        last = watching.end()
        found = [record for record in watching.records if record.event == "violation"]
        assert last.violations == 0, f"{last.violations} times two holders: {found}"


def all_answered(lab: Lab, watching: Watching) -> bool:
    """Whether each address was answered at least once."""
    watching.read()
    return len({attempt.address for attempt in watching.attempts if attempt.ok}) == lab.layout.addresses


def wait_even(lab: Lab) -> None:
    """Wait until the three nodes serve two addresses each."""

    def counts() -> bool:
        return sorted(len(addresses_of(lab, node)) for node in lab.layout.node_names) == [2, 2, 2]

    lab.wait_for("two addresses on each node", counts)


def answered_elsewhere(watching: Watching, addresses: tuple[str, ...], victim: str) -> bool:
    """Whether the client's last answer for each address came from another node than the victim."""
    watching.read()
    last = {attempt.address: attempt.node for attempt in watching.attempts if attempt.ok}
    return all(last[address] != victim for address in addresses)


def kernels_are_right(lab: Lab) -> bool:
    """As check_kernels, as a question."""
    try:
        check_kernels(lab)
    except AssertionError:
        return False
    return True


def all_silent(lab: Lab, watching: Watching) -> bool:
    """Whether the observer hears nobody for any address."""
    watching.read()
    heard = dict.fromkeys((public.address for public in lab.layout.public_addresses), True)
    for record in watching.records:
        if record.event in ("speaks", "silent"):
            heard[record.address] = record.event == "speaks"
    return not any(heard.values())


def answered_since(lab: Lab, watching: Watching, start: float) -> bool:
    """Whether each address was answered after ``start``."""
    watching.read()
    found = {attempt.address for attempt in watching.attempts if attempt.ok and attempt.t > start}
    return len(found) == lab.layout.addresses


def remove(lab: Lab, node: str, address: str) -> None:
    """Take an address from a node by hand."""
    done = lab.run(node, ["ip", "address", "del", f"{address}/{64 if ':' in address else 24}", "dev", "eth1"])
    assert done.returncode == 0, done.stderr
