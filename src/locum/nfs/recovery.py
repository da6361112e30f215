"""Notifies the clients of newly taken addresses, so that they reclaim their locks.

This file asks the daemon for the clients, notifies them (:mod:`locum.nfs.nsm`), and removes those that did not answer.
The script decides when. No client is notified before the lock manager answers: a notified client calls it at once, and
gives its locks up when it is not registered with the port mapper yet.

A client that acknowledged stays on the list although it may no longer hold a lock. If it already had others through
this node, the lock manager already monitors it and will not report it again. The cost is a needless message at the next
move.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from locum import escape, hosts
from locum.control_socket import ask
from locum.errors import LocumError
from locum.nfs import nsm

#: For how many seconds a notification is retried.
DEFAULT_TIMEOUT = 60.0
#: How long a lock manager may take to answer, in seconds; by then monitor has failed, and the addresses are elsewhere.
READY_WITHIN = 300.0
#: Between two questions whether it answers, in seconds.
_READY_AGAIN = 0.2
#: Seconds for looking up the names of all clients together, and how many are looked up at once.
_LOOKUP_WITHIN, _LOOKUPS = 10.0, 16
_HOSTS, _RESOLVER = "/etc/hosts", "/etc/resolv.conf"


def clients_of(addresses: Sequence[str]) -> list[dict[str, Any]]:
    """The records of the clients that hold locks through ``addresses``. Raises LocumError."""
    if not addresses:
        return []
    found: list[dict[str, Any]] = ask({"op": "statd-clients", "addresses": list(addresses)})
    return found


def new_state() -> int:
    """A new state number of the cluster: odd, and larger than any before. Raises LocumError."""
    return int(ask({"op": "statd-state", "advance": True})["state"])


def notifications(
    records: Iterable[dict[str, Any]], state: int, host: str, found: Mapping[tuple[str, bool], str]
) -> list[nsm.Notification]:
    """The messages to send: from each address, with the address as name and once more with the configured name of the
    NFS server: a client knows us by the name that it mounted. ``found``: from :func:`look_up`; a client without an
    address of that family gets no message."""
    return [
        nsm.Notification(record["address"], target, name, state)
        for record in records
        if (target := found.get(_client_of(record))) is not None
        for name in dict.fromkeys([record["address"], host] if host else [record["address"]])
    ]


def notify(records: Sequence[dict[str, Any]], host: str, timeout: float, state: int) -> str:
    """Notify all of ``records`` with this state number; return a line with the result. Raises LocumError."""
    found = look_up({_client_of(record) for record in records})
    outcomes = nsm.notify(notifications(records, state, host, found), timeout)
    answered = {(one.notification.source, one.notification.client) for one in outcomes if not one.problem}
    silent = {
        (one.notification.source, one.notification.client): one.problem
        for one in outcomes
        if one.problem and (one.notification.source, one.notification.client) not in answered
    }
    # An address that left meanwhile explains the silence: its new holder notifies, and removes, its clients.
    gone = [
        (record["address"], record.get("recorded") or record["client"], record["revision"])
        for record in records
        if (record["address"], found.get(_client_of(record))) in silent and _is_here(record["address"])
    ]
    for begin in range(0, len(gone), 200):
        ask({"op": "statd-forget", "forget": gone[begin : begin + 200]}, timeout=30)
    problems = [f"{client} from {source}: {problem}" for (source, client), problem in silent.items()]
    known = {client for client, _ in found}
    # They stay on record: the fault is not theirs. (A name is recorded for both families, and may have only one.)
    nameless = sorted({record["client"] for record in records if _is_name(record["client"])} - known)
    problems += [f"{client}: its name cannot be looked up" for client in nameless]
    text = f"state {state}: {len(answered)} clients notified"
    if problems:
        text += f", {len(problems)} did not answer: " + "; ".join(problems[:10])
    return text


def notify_when(ready: Callable[[], bool], records: Sequence[dict[str, Any]], host: str, timeout: float) -> str:
    """Call :func:`notify` as soon as ``ready`` holds and there is a new state number; without both within READY_WITHIN
    seconds, notify no client. A node that has just lost its store gets none, and has it back soon."""
    limit = time.monotonic() + READY_WITHIN
    problem = "the lock manager does not answer"
    while True:
        if ready():
            try:
                state = new_state()
                break
            except LocumError as error:
                problem = str(error)
        if time.monotonic() > limit:
            return f"{len(records)} clients were not notified: {problem}"
        time.sleep(_READY_AGAIN)
    return notify(records, host, timeout, state)


def notify_detached(
    ready: Callable[[], bool], records: Sequence[dict[str, Any]], host: str, timeout: float, log: str
) -> None:
    """:func:`notify_when` in a separate process, without delaying the event. It writes to the file ``log``."""
    if not records:
        return
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return
    status = 1
    try:
        os.setsid()
        if os.fork():
            status = 0
            return
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDWR)
        for number, target in ((0, null), (1, null), (2, descriptor)):
            os.dup2(target, number)
        try:
            text = notify_when(ready, records, host, timeout)
            status = 0
        except (LocumError, OSError) as error:
            text = f"not everything could be done: {error}"
        os.write(2, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {escape.paragraph(text)}\n".encode())
    finally:
        os._exit(status)


def look_up(clients: Collection[tuple[str, bool]]) -> dict[tuple[str, bool], str]:
    """The addresses of clients, given as pairs of a name or address, and whether IPv6 is wanted. An address of the
    other family, or an unresolvable name, is skipped."""
    found = {one: one[0] for one in clients if not _is_name(one[0]) and (":" in one[0]) == one[1]}
    names = [one for one in clients if _is_name(one[0])]
    if names:
        from concurrent.futures import ThreadPoolExecutor, wait  # noqa: PLC0415

        pool = ThreadPoolExecutor(_LOOKUPS)
        asked = {pool.submit(_resolve, *one): one for one in names}
        for future in wait(asked, _LOOKUP_WITHIN).done:
            address = future.result()
            if address is not None:
                found[asked[future]] = address
        pool.shutdown(wait=False, cancel_futures=True)
    return found


def _resolve(name: str, v6: bool) -> str | None:
    import socket  # noqa: PLC0415

    family = socket.AF_INET6 if v6 else socket.AF_INET
    # A host name may be 4711 (RFC 1123, section 2.1). Resolvers read it as an address, unless it ends with a dot.
    for asked in _questions(name) if hosts.is_number(name) else (name,):
        try:
            found = socket.getaddrinfo(asked, None, family, socket.SOCK_DGRAM)
        except (OSError, UnicodeError):
            continue
        if found:
            return str(found[0][4][0])
    return None


def _questions(name: str) -> Iterator[str]:
    """The questions to the resolver for a name that looks like a number: its addresses in this machine's own table, and
    the name in each search domain (hosts(5), resolv.conf(5))."""
    for words in _words(_HOSTS):
        if name in map(str.lower, words[1:]) and hosts.is_address(words[0]):
            yield words[0]
    domains: list[str] = []
    for words in _words(_RESOLVER):
        if words[0] in ("search", "domain"):
            domains = words[1:]
    yield from (f"{name}.{domain.strip('.')}." for domain in domains[:8])
    yield f"{name}."


def _words(path: str) -> list[list[str]]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read(1 << 20).splitlines()
    except OSError:
        return []
    return [words for line in lines if (words := line.partition("#")[0].split())]


def _client_of(record: Mapping[str, Any]) -> tuple[str, bool]:
    return str(record["client"]), ":" in record["address"]


def _is_name(client: str) -> bool:
    return not hosts.is_address(client)


def _is_here(address: str) -> bool:
    try:
        nsm.bound_socket(address).close()
    except OSError:
        return False
    return True
