"""The store of a cluster of guests.

``outside``: one member of etcd in the lab's hub, on the private network. It is not emulated, and no guest's death takes
it away. ``etcd``: Debian's etcd in the guests, with Debian's unit, on an odd number of nodes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from locum.api.model import StatusReport
from locum.api.status_report import status_report
from locum.config.tunables import Tunables
from locum.errors import LocumError, UsageError
from locum.rules.view import View
from locum.store.base import Snapshot
from locum.store.factory import open_store
from locum.store.prefixed import PrefixedStore
from locum_lab import namespaces
from locum_lab.etcd_store import CLIENT_PORT, pace, program
from locum_lab.layout import Layout
from locum_lab.processes import Children, Process
from locum_lab.vm import setup
from locum_lab.vm.machine import Machine

KINDS = ("outside", "etcd")

#: Limits in seconds for etcd to answer.
_OUTSIDE_WITHIN = 60.0
_GUESTS_WITHIN = 600.0


def check(kind: str) -> None:
    """Raise UsageError for an unknown kind."""
    if kind not in KINDS:
        raise UsageError(f"--store {kind}: a lab of guests has {' or '.join(KINDS)}")


def members(layout: Layout) -> dict[str, str]:
    """The nodes with a member of etcd, in the kind ``etcd``: name → private address."""
    number = min(layout.nodes, 3)
    return {node: layout.private_address(node) for node in layout.node_names[: number - 1 + number % 2]}


def url(kind: str, layout: Layout) -> str:
    """The store's URL for Locum's configuration."""
    hosts = [setup.OUTSIDE_V4] if kind == "outside" else list(members(layout).values())
    return "etcd://" + ",".join(f"{host}:{CLIENT_PORT}" for host in hosts)


def status(kind: str, layout: Layout) -> StatusReport:
    """The cluster as its store has it, in the words of ``locum status``.

    A node that is asked by a command spends seconds of an emulated processor on the answer. Raises LocumError.
    """

    async def read() -> Snapshot:
        store = open_store(url(kind, layout))
        try:
            return await PrefixedStore(store, f"{layout.name}/").read("")
        finally:
            await store.close()

    view = View()
    view.reset(namespaces.inside(layout.hub, lambda: asyncio.run(read())))
    return status_report(view, layout.node_names[0], time.time(), Tunables())


def start_outside(layout: Layout, directory: Path, children: Children) -> Process:
    """Start etcd in the hub, and wait until it answers."""
    data = directory / "etcd"
    data.mkdir()
    namespaces.run(["mount", "-t", "tmpfs", "-o", "mode=700", "locum-lab", str(data)])
    client, peer = f"http://{setup.OUTSIDE_V4}:{CLIENT_PORT}", "http://127.0.0.1:2380"
    heartbeat, election = pace(layout.hold)
    process = children.spawn(
        [
            *(program(), "--name", "outside", "--data-dir", str(data / "member")),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"outside={peer}"),
            *("--heartbeat-interval", str(heartbeat), "--election-timeout", str(election)),
            *("--logger", "zap", "--log-level", "warn"),
        ],
        namespace=layout.hub,
        log=directory / "etcd.log",
    )
    health = ["ip", "netns", "exec", layout.hub, "etcdctl", "--endpoints", client, "get", "x"]

    def answers() -> bool:
        namespaces.run(["env", "ETCDCTL_API=3", *health])
        return True

    _until(answers, _OUTSIDE_WITHIN, f"etcd in the hub does not answer; see {directory}/etcd.log")
    return process


def start_in_guests(layout: Layout, machines: Mapping[str, Machine]) -> None:
    """Configure and enable Debian's etcd on the nodes that have a member, and wait until all answer."""
    chosen = members(layout)
    for name in chosen:
        text = setup.etcd_settings(chosen, name, layout.name, pace(layout.hold))
        machines[name].write("/etc/default/etcd", text)
        machines[name].sh("systemctl enable --quiet etcd && systemctl start --no-block etcd")
    endpoints = ",".join(f"http://{address}:{CLIENT_PORT}" for address in chosen.values())
    for name in chosen:

        def healthy(machine: Machine = machines[name]) -> bool:
            machine.sh(f"ETCDCTL_API=3 etcdctl --endpoints {endpoints} endpoint health")
            return True

        _until(healthy, _GUESTS_WITHIN, f"etcd does not answer on {name}")


def _until(condition: Callable[[], bool], limit: float, otherwise: str) -> None:
    deadline = time.monotonic() + limit
    while True:
        with contextlib.suppress(LocumError):
            if condition():
                return
        if time.monotonic() > deadline:
            raise LocumError(f"{otherwise} (within {limit:g} s)")
        time.sleep(0.2)
