"""Disable Multipath TCP (RFC 8684) on public addresses: their clients get plain TCP.

An MPTCP connection does not end with the TCP connections that carry it. When an address moves and its TCP connection
is reset, the client's kernel waits for another path and reports nothing for ``net.mptcp.close_timeout`` (a minute); so
does the old node's socket. No segment of the new holder can end it: that needs a key which only the two ends know. And
a connection that has found a second path, to the node's own address, stays with a node that no longer serves.

The option is therefore removed from every SYN to and from a public address: both ends then fall back to TCP, as behind
a middlebox that does not know it (section 3.7), and :mod:`locum.connections.tracker` handles every move.

This file uses a separate nftables table, so that the gate (:mod:`locum.machine.gate.gate`), on which safety rests, does
not depend on it. It needs Linux 5.18 and nft 1.0.2; without them it logs one warning.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

from locum import nft, tasks
from locum.errors import LocumError
from locum.machine.gate.gate_watch import GateWatch
from locum.machine.netlink.nftables import NFPROTO_INET, Batch, NftSocket
from locum.threads import NoAnswer, Worker

TABLE = "locum_plain_tcp"

#: Limit for nft, in seconds.
LIMIT = 30.0
#: How long the end of the agent waits for it, in seconds.
PATIENCE = 1.0

_GONE = """\
add table inet {table}
delete table inet {table}
"""
_RULES = """\
table inet {table} {{
	comment "{comment}"
	# Before connection tracking and destination NAT.
	chain arrive {{
		type filter hook prerouting priority -301; policy accept;
{arrive}	}}
	chain leave {{
		type filter hook output priority -301; policy accept;
{leave}	}}
}}
"""
_RULE = "\t\t{family} {side} {{ {addresses} }} tcp flags & (syn | ack) == syn reset tcp option mptcp\n"


def ruleset(addresses: Iterable[str]) -> tuple[str | None, str]:
    """The comment that marks the table (None: no table), and the text for ``nft -f -``.

    ``addresses`` are in canonical form.
    """
    wanted = sorted(set(addresses))
    gone = _GONE.format(table=TABLE)
    if not wanted:
        return None, gone
    groups = [("ip", [a for a in wanted if ":" not in a]), ("ip6", [a for a in wanted if ":" in a])]

    def rules(side: str) -> str:
        parts = (_RULE.format(family=f, side=side, addresses=", ".join(group)) for f, group in groups if group)
        return "".join(parts)

    arrive, leave = rules("daddr"), rules("saddr")
    comment = f"Locum: no Multipath TCP on public addresses. Rules {zlib.crc32((arrive + leave).encode()):08x}"
    return comment, gone + _RULES.format(table=TABLE, comment=comment, arrive=arrive, leave=leave)


class PlainTcp:
    """Keeps the table in the network namespace in which the object was started.

    ``wanted`` gives the current public addresses, none when MPTCP is allowed. ``ignored_ports``: netlink
    ports whose transactions never touch the table; the gate's come several times a second.
    """

    def __init__(
        self, wanted: Callable[[], Iterable[str]], log: Callable[[str, str], None], ignored_ports: Iterable[int] = ()
    ) -> None:
        self._wanted = wanted
        self._log = log
        self._ignored_ports = tuple(ignored_ports)
        self._netfilter: NftSocket | None = None
        self._watch: GateWatch | None = None
        self._worker = Worker("plain tcp")
        self._task: asyncio.Task[None] | None = None
        # Whether another look must follow the current one.
        self._again = False
        self._refused: str | None = None

    def verify(self) -> tuple[str, ...]:
        """Problems of the table in the kernel; () when it is correct, or impossible here."""
        comment, _ = ruleset(self._wanted())
        if self._netfilter is None or (comment is not None and comment == self._refused):
            return ()
        present = self._netfilter.table_comment(NFPROTO_INET, TABLE)
        return () if present == comment else (f"nftables table {TABLE!r} is missing or outdated",)

    def start(self) -> None:
        """Begin, in the running event loop; the loop's next turn loads the table."""
        try:
            self._netfilter = NftSocket()
            self._watch = GateWatch((self._netfilter.port, *self._ignored_ports), lambda _: self.look(), self._verified)
            self._watch.start(asyncio.get_running_loop())
        except LocumError as problem:
            tasks.start(self._complain(str(problem)), "telling that Multipath TCP is possible")
        self.look()

    def look(self) -> None:
        """Load the table if it is missing or outdated."""
        self._again = True
        if self._task is None:
            self._task = tasks.start(self._keep(), "keeping Multipath TCP away")

    async def _keep(self) -> None:
        try:
            while self._again:
                self._again = False
                await self._look()
        finally:
            self._task = None

    async def _verified(self) -> tuple[str, ...]:
        return await self._worker.run("looking at the table against Multipath TCP", None, self.verify)

    async def _look(self) -> None:
        try:
            wrong = await self._verified()
        except LocumError as error:
            wrong = (str(error),)
        if not wrong:
            return
        comment, text = ruleset(self._wanted())
        try:
            problem = await self._worker.run("loading the table against Multipath TCP", None, _nft, text)
        except NoAnswer as error:
            problem = str(error)
        # Not again before the wanted table changes: a running kernel does not gain features.
        self._refused = comment if problem else None
        if problem:
            await self._complain(problem)
        else:
            # The wanted table may have changed meanwhile.
            self._again = True

    async def _complain(self, problem: str) -> None:
        try:
            possible = await self._worker.run("looking whether Multipath TCP is possible", None, _possible)
        except NoAnswer:
            possible = True
        if possible:
            self._log(
                f"Multipath TCP cannot be disabled on public addresses ({problem}): clients may wait a minute after "
                "a move; set the sysctl net.mptcp.enabled=0, or GODEBUG=multipathtcp=0 for servers written in Go",
                "warning",
            )

    async def close(self) -> None:
        """Stop; the table stays for the next agent. Idempotent."""
        if self._watch is not None:
            self._watch.close()
        if self._task is not None:
            # An nft that waits for the kernel's lock ends by itself.
            await asyncio.wait([self._task], timeout=PATIENCE)
        self._worker.close()
        if self._netfilter is not None and not self._worker.busy():
            self._netfilter.close()
        self._netfilter = None


def remove() -> None:
    """Remove the table of a daemon that has ended. Raises LocumError."""
    netfilter = NftSocket()
    try:
        netfilter.commit(Batch().delete_table(NFPROTO_INET, TABLE), "cannot remove an nftables table")
    finally:
        netfilter.close()


def _possible() -> bool:
    """Whether sockets of this network namespace can use MPTCP."""
    try:
        return Path("/proc/sys/net/mptcp/enabled").read_text(encoding="ascii").strip() == "1"
    except OSError:
        return False


def _nft(text: str) -> str:
    """Let nft load ``text``; return the problem, or ""."""
    try:
        return nft.load(text, LIMIT).partition("\n")[0]
    except nft.CannotRun as problem:
        return str(problem)
