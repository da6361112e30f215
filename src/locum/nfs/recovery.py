"""Telling the clients of addresses that came here to reclaim their locks.

Rules of this file: it asks the daemon whom to tell, tells them (:mod:`locum.nfs.nsm`), and has those forgotten that
gave no answer. When it is time to do so is the script's decision: not before the lock manager is in its grace period
and registered with the port mapper.

A client that acknowledged stays on the list although it may hold no lock any more: if it had others through this node
already, the lock manager monitors it already, and will not say so again. The price is one needless message at the next
move.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from locum.nfs import nsm
from locum.nfs.daemon import NoDaemon, Refused, ask

#: Seconds that a notification is tried.
DEFAULT_TIMEOUT = 60.0


def clients_of(addresses: Sequence[str]) -> list[dict[str, Any]]:
    """The records of the clients that hold locks through ``addresses``. Raises NoDaemon and Refused."""
    if not addresses:
        return []
    found: list[dict[str, Any]] = ask({"op": "statd-clients", "addresses": list(addresses)})
    return found


def new_state() -> int:
    """A new state number of the cluster: odd, and larger than any before. Raises NoDaemon and Refused."""
    return int(ask({"op": "statd-state", "advance": True})["state"])


def notifications(records: Iterable[dict[str, Any]], state: int, host: str) -> list[nsm.Notification]:
    """What to send: from each address, with the address as name and once more with the configured name of the NFS
    server: a client knows us by the one that it mounted. A client of another family than the address's is not sent to.
    """
    found = []
    for record in records:
        source, client = record["address"], record["client"]
        target = _address_of(client, v6=":" in source)
        if target is None:
            continue
        for name in dict.fromkeys([source, host] if host else [source]):
            found.append(nsm.Notification(source, target, name, state))
    return found


def notify(records: Sequence[dict[str, Any]], host: str, timeout: float) -> str:
    """Tell all of ``records``; returns a line that says what became of it. Raises NoDaemon and Refused."""
    state = new_state()
    outcomes = nsm.notify(notifications(records, state, host), timeout)
    answered = {(one.notification.source, one.notification.client) for one in outcomes if not one.problem}
    silent = {
        (one.notification.source, one.notification.client): one.problem
        for one in outcomes
        if one.problem and (one.notification.source, one.notification.client) not in answered
    }
    # An address that has left meanwhile explains the silence: its clients are the new holder's to tell, and to forget.
    gone = [
        (record["address"], record["client"], record["revision"])
        for record in records
        if (record["address"], _address_of(record["client"], v6=":" in record["address"])) in silent
        and _is_here(record["address"])
    ]
    for begin in range(0, len(gone), 200):
        ask({"op": "statd-forget", "forget": gone[begin : begin + 200]}, timeout=30)
    text = f"state {state}: {len(answered)} clients notified"
    if silent:
        text += f", {len(silent)} did not answer: " + "; ".join(
            f"{client} from {source}: {problem}" for (source, client), problem in list(silent.items())[:10]
        )
    return text


def notify_detached(records: Sequence[dict[str, Any]], host: str, timeout: float, log: str) -> None:
    """:func:`notify` in a process of its own, which the event does not wait for. It writes to the file ``log``."""
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
            text = notify(records, host, timeout)
            status = 0
        except (NoDaemon, Refused, OSError) as error:
            text = f"not all could be done: {error}"
        os.write(2, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n".encode())
    finally:
        os._exit(status)


def _address_of(client: str, *, v6: bool) -> str | None:
    """The client's address of that family; a name is looked up."""
    import socket  # noqa: PLC0415

    family = socket.AF_INET6 if v6 else socket.AF_INET
    try:
        socket.inet_pton(family, client)
        return client
    except OSError:
        pass
    if ":" in client or client.replace(".", "").isdigit():
        return None  # an address of the other family
    try:
        found = socket.getaddrinfo(client, None, family, socket.SOCK_DGRAM)
    except OSError:
        return None
    return str(found[0][4][0]) if found else None


def _is_here(address: str) -> bool:
    try:
        nsm.bound_socket(address).close()
    except OSError:
        return False
    return True
