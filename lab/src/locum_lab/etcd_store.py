"""The lab on etcd: a member in each node's namespace, on the private network, so that it fails with its host.

A cut of the node's private network suffices: the member is beyond it like the rest of the node. Data is on a tmpfs,
since all members of a lab share this machine's disk.

Members are not part of Locum: ``kill-all`` and ``freeze`` do not affect them; ``kill-etcd`` and ``freeze-etcd`` do.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from locum.errors import LocumError
from locum_lab import namespaces, processes
from locum_lab.layout import Layout
from locum_lab.processes import Children, Process

CLIENT_PORT = 2379
PEER_PORT = 2380

#: More members would only slow down every commit.
_MOST_MEMBERS = 5
#: Limit for a new cluster to elect a leader and answer, in seconds.
_READY_WITHIN = 60.0
#: Limit for a killed process to end, in seconds.
_GONE_WITHIN = 10.0


class MemberStatus(msgspec.Struct, frozen=True):
    """A member's status: its identity and that of the leader it knows, "0" without one."""

    member: str
    leader: str


class EtcdLabStore:
    """An etcd cluster on the first nodes of a lab."""

    def __init__(self, layout: Layout, directory: Path, children: Children) -> None:
        self._layout = layout
        self._directory = directory
        self._children = children

    @property
    def hosts(self) -> tuple[str, ...]:
        """The nodes with a member: an odd number, since one more survives no additional loss and slows agreement."""
        most = min(self._layout.nodes, _MOST_MEMBERS)
        return self._layout.node_names[: most - 1 + most % 2]

    def start(self) -> tuple[Process, ...]:
        """Start every member, in the order of ``hosts``."""
        program()
        self._data.mkdir()
        namespaces.run(["mount", "-t", "tmpfs", "-o", "mode=700", "locum-lab", str(self._data)])
        return tuple(self._start_member(node) for node in self.hosts)

    def restart(self, node: str, running: tuple[Process, ...]) -> tuple[Process, ...]:
        """Start the node's member again if it does not run; returns ``running`` with it."""
        place = self._place(node)
        if processes.alive(running[place]):
            return running
        return (*running[:place], self._start_member(node), *running[place + 1 :])

    def copy(self, target: Path) -> None:
        """Save a snapshot, as etcd's manual recommends for backups."""
        node = self.hosts[0]
        self._etcdctl(node, "--endpoints", self._address(node, CLIENT_PORT), "snapshot", "save", str(target))

    def go_back(self, copy: Path | None, running: tuple[Process, ...]) -> tuple[Process, ...]:
        """Kill every member; all start empty, or from the snapshot ``copy``."""
        end(running)
        for node in self.hosts:
            shutil.rmtree(self._data / node, ignore_errors=True)
            if copy is not None:
                self._etcdctl(
                    node,
                    *("snapshot", "restore", str(copy), "--name", node, "--data-dir", str(self._data / node)),
                    *("--initial-advertise-peer-urls", self._address(node, PEER_PORT)),
                    *("--initial-cluster", self._members, "--initial-cluster-token", self._layout.name),
                )
        return tuple(self._start_member(node) for node in self.hosts)

    def _etcdctl(self, node: str, *arguments: str) -> None:
        command = ["ip", "netns", "exec", self._layout.namespace(node), "env", "ETCDCTL_API=3", "etcdctl", *arguments]
        namespaces.run(command)

    def process(self, node: str, running: tuple[Process, ...]) -> Process:
        """The node's member."""
        return running[self._place(node)]

    def wait_ready(self) -> None:
        """Wait until every member answers and knows the leader. Raises LocumError."""
        deadline = time.monotonic() + _READY_WITHIN
        waiting = list(self.hosts)
        while waiting:
            waiting = [node for node in waiting if not self._serves(node)]
            if waiting and time.monotonic() > deadline:
                raise LocumError(f"etcd does not serve on {', '.join(waiting)}; see {self._log(waiting[0])}")
            if waiting:
                time.sleep(0.02)

    def url(self, node: str) -> str:
        # The nearest first: the node's own member, if it has one.
        order = sorted(self.hosts, key=lambda host: host != node)
        return "etcd://" + ",".join(f"{self._layout.private_address(host)}:{CLIENT_PORT}" for host in order)

    def open_path(self, node: str) -> Process | None:
        return None

    def cut(self, path: Process | None) -> None:
        pass  # the private network is the path

    def heal(self, path: Process | None) -> None:
        pass

    # -- members' status -------------------------------------------------------------------------------------------

    def status(self, node: str, timeout: float = 1.0) -> MemberStatus:
        """The status of the node's member, requested on its node. Raises LocumError when it does not answer."""
        found = msgspec.json.decode(self._ask(node, "/v3/maintenance/status", b"{}", timeout))
        return MemberStatus(str(found["header"]["member_id"]), str(found.get("leader", "0")))

    def leader(self) -> str | None:
        """The node whose member calls itself the leader; None without one."""
        for node in self.hosts:
            try:
                status = self.status(node)
            except LocumError:
                continue
            if status.leader == status.member:
                return node
        return None

    def _serves(self, node: str) -> bool:
        try:
            # A linearizable read: only a member that knows a leader with a majority answers.
            self._ask(node, "/v3/kv/range", b'{"key":"AA=="}', 1.0)
        except LocumError:
            return False
        return True

    def _ask(self, node: str, path: str, body: bytes, timeout: float) -> bytes:
        from http.client import HTTPConnection, HTTPException  # noqa: PLC0415 - 20 ms, and only etcd needs it

        def ask() -> bytes:
            connection = HTTPConnection(self._layout.private_address(node), CLIENT_PORT, timeout=timeout)
            try:
                connection.request("POST", path, body)
                answer = connection.getresponse()
                text = answer.read()
            finally:
                connection.close()
            if answer.status != 200:
                raise LocumError(f"etcd on {node}: {text.decode(errors='replace').strip()}")
            return text

        try:
            return namespaces.inside(self._layout.namespace(node), ask)
        except (OSError, HTTPException) as error:
            raise LocumError(f"etcd on {node} does not answer: {error}") from error

    # -- members ---------------------------------------------------------------------------------------------------

    @property
    def _data(self) -> Path:
        return self._directory / "etcd"

    def _log(self, node: str) -> Path:
        return self._directory / "nodes" / node / "etcd.log"

    def _place(self, node: str) -> int:
        if node not in self.hosts:
            raise LocumError(f"{node} has no etcd member; there is one on {', '.join(self.hosts)}")
        return self.hosts.index(node)

    def _start_member(self, node: str) -> Process:
        return self._children.spawn(
            self.command(node),
            namespace=self._layout.namespace(node),
            log=self._log(node),
            environment={"ETCD_UNSUPPORTED_ARCH": os.uname().machine},
        )

    def command(self, node: str) -> Sequence[str]:
        """The command line of the node's member."""
        heartbeat, election = pace(self._layout.hold)
        return (
            program(),
            *("--name", node),
            *("--data-dir", str(self._data / node)),
            *("--listen-client-urls", self._address(node, CLIENT_PORT)),
            *("--advertise-client-urls", self._address(node, CLIENT_PORT)),
            *("--listen-peer-urls", self._address(node, PEER_PORT)),
            *("--initial-advertise-peer-urls", self._address(node, PEER_PORT)),
            *("--initial-cluster", self._members),
            *("--initial-cluster-token", self._layout.name),
            *("--heartbeat-interval", str(heartbeat)),
            *("--election-timeout", str(election)),
            "--pre-vote",
            *("--auto-compaction-mode", "revision"),
            *("--auto-compaction-retention", "10000"),
            *("--logger", "zap"),
            *("--log-level", "warn"),
        )

    @property
    def _members(self) -> str:
        return ",".join(f"{host}={self._address(host, PEER_PORT)}" for host in self.hosts)

    def _address(self, node: str, port: int) -> str:
        return f"http://{self._layout.private_address(node)}:{port}"


def end(running: Sequence[Process]) -> None:
    """Kill processes and wait until they are gone. Raises LocumError."""
    for process in running:
        processes.send(process, signal.SIGKILL)
    if left := processes.wait_gone(list(running), _GONE_WITHIN):
        raise LocumError(f"pid {', '.join(str(process.pid) for process in left)} did not end when it was killed")


def pace(hold: float) -> tuple[int, int]:
    """etcd's heartbeat interval and election time-out, in milliseconds, as recommended for a hold by docs/stores.md."""
    if hold >= 12:
        return 500, 5000
    if hold >= 3.5:
        return 100, 1000
    return (50, 500) if hold >= 2 else (10, 100)


def program() -> str:
    """The path of etcd. Raises LocumError when it is not installed."""
    found = shutil.which("etcd")
    if found is None:
        raise LocumError("etcd is not installed (Debian: apt install etcd-server)")
    return found
