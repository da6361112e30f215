"""A real etcd on loopback, for tests: any number of members, TLS and authentication if wanted, and their faults."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from locum.store.base import Put, Store
from locum.store.etcd import EtcdStore
from locum.store.etcd_options import EtcdOptions
from tests.unit.store.harness import PATIENCE, Harness, until
from tests.unit.store.proxy import Proxy


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody uses at the moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Member:
    """One etcd process."""

    def __init__(self, name: str, directory: Path, client: int, peer: int) -> None:
        self.name = name
        self.directory = directory
        self.endpoint = f"127.0.0.1:{client}"
        self.peer = f"http://127.0.0.1:{peer}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, cluster: str, extra: Sequence[str], scheme: str) -> None:
        """Start it, or start it again."""
        program = shutil.which("etcd")
        assert program is not None, "etcd is not installed (Debian: apt install etcd-server)"
        url = f"{scheme}://{self.endpoint}"
        with open(self.directory.with_suffix(".log"), "ab") as log:
            self.process = subprocess.Popen(
                [
                    program,
                    *("--name", self.name),
                    *("--data-dir", str(self.directory)),
                    *("--listen-client-urls", url),
                    *("--advertise-client-urls", url),
                    *("--listen-peer-urls", self.peer),
                    *("--initial-advertise-peer-urls", self.peer),
                    *("--initial-cluster", cluster),
                    *("--heartbeat-interval", "50"),
                    *("--election-timeout", "500"),
                    *("--logger", "zap"),
                    *extra,
                ],
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"], "ETCD_UNSUPPORTED_ARCH": os.uname().machine},
            )

    def kill(self) -> None:
        """kill -9; idempotent."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def log(self) -> str:
        """What it wrote."""
        return self.directory.with_suffix(".log").read_text(errors="replace")


class Cluster:
    """An etcd cluster. ``extra``: further options of every member; ``scheme``: how clients speak to it."""

    def __init__(self, directory: Path, count: int, *, extra: Sequence[str] = (), scheme: str = "http") -> None:
        ports = free_ports(2 * count)
        self.members = [
            Member(f"m{index}", directory / f"m{index}", ports[2 * index], ports[2 * index + 1])
            for index in range(count)
        ]
        self._extra = extra
        self._scheme = scheme
        self._initial = ",".join(f"{member.name}={member.peer}" for member in self.members)

    @property
    def endpoints(self) -> list[str]:
        """Of all members."""
        return [member.endpoint for member in self.members]

    async def start(self, options: EtcdOptions | None = None) -> None:
        """Start all members and wait until every one of them serves."""
        for member in self.members:
            if member.process is None:
                self.start_member(member)
        await self.ready(options)

    def start_member(self, member: Member) -> None:
        """Start one member."""
        member.start(self._initial, self._extra, self._scheme)

    async def ready(self, options: EtcdOptions | None = None) -> None:
        """Wait until every running member serves."""
        for member in self.members:
            if member.process is None:
                continue
            store = EtcdStore([member.endpoint], options)
            try:
                async with asyncio.timeout(PATIENCE):
                    while True:
                        assert member.process.poll() is None, f"etcd ended:\n{member.log()}"
                        try:
                            await store.read("none")
                            break
                        except Exception:
                            await asyncio.sleep(0.02)
            finally:
                await store.close()

    async def leader(self) -> Member:
        """The member that leads."""
        for member in self.members:
            if member.process is not None and await self._leads(member):
                return member
        raise AssertionError("no member leads")

    async def _leads(self, member: Member) -> bool:
        output = await self.etcdctl("endpoint", "status", "--write-out", "fields", endpoint=member.endpoint)
        fields = dict(line.split(" : ", 1) for line in output.splitlines() if " : " in line)
        return fields['"Leader"'] == fields['"MemberID"']

    async def etcdctl(self, *arguments: str, endpoint: str = "") -> str:
        """Run etcdctl; what it prints."""
        program = shutil.which("etcdctl")
        assert program is not None, "etcdctl is not installed (Debian: apt install etcd-client)"
        process = await asyncio.create_subprocess_exec(
            program,
            *("--endpoints", endpoint or self.members[0].endpoint),
            *arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": os.environ["PATH"], "ETCDCTL_API": "3"},
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()
        return output.decode()

    def stop(self) -> None:
        """End all members."""
        for member in self.members:
            if member.process is not None:
                member.signal(signal.SIGCONT)
            member.kill()


class EtcdHarness(Harness):
    """etcd with one member."""

    name = "etcd"
    remote = True
    keeps = True
    count = 1

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.cluster = Cluster(directory, self.count)
        self._proxies: list[Proxy] = []
        self._proxied: list[str] = []

    async def start(self) -> None:
        await self.cluster.start()

    async def _open(self, proxied: bool, timeout: float) -> Store:
        attempt = min(timeout, 5.0)
        options = EtcdOptions(timeout=timeout, attempt_timeout=attempt, watch_idle=0.5, probe_interval=0.2)
        if not proxied:
            return EtcdStore(self.cluster.endpoints, options)
        if not self._proxies:
            for endpoint in self.cluster.endpoints:
                host, port = endpoint.split(":")
                proxy = Proxy(lambda host=host, port=port: asyncio.open_connection(host, int(port)))  # type: ignore[misc]
                self._proxies.append(proxy)
                self._proxied.append(f"127.0.0.1:{await proxy.serve_tcp()}")
        return EtcdStore(self._proxied, options)

    @property
    def proxy(self) -> Proxy:
        (proxy,) = self._proxies
        return proxy

    async def compact(self) -> None:
        store = await self.open()
        revision = (await store.commit((), (Put("compaction/filler", b""),))).revision
        await self.cluster.etcdctl("compaction", str(revision))

    async def kill(self) -> None:
        for member in self.cluster.members:
            member.kill()

    async def restart(self) -> None:
        await self.cluster.start()

    def freeze(self) -> None:
        for member in self.cluster.members:
            member.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        for member in self.cluster.members:
            member.signal(signal.SIGCONT)

    async def stop(self) -> None:
        await super().stop()
        for proxy in self._proxies:
            await proxy.close()
        self.cluster.stop()


class Etcd3Harness(EtcdHarness):
    """etcd with three members."""

    name = "etcd3"
    count = 3


__all__ = ["Cluster", "Etcd3Harness", "EtcdHarness", "Member", "free_ports", "until"]
