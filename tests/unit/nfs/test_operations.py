"""Clients and state number in the store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from locum.errors import StoreUnavailable, UsageError
from locum.nfs.operations import StatdOperations
from locum.store.base import Put, Snapshot
from locum.store.memory import MemoryStore


class Cluster:
    """Nodes on one store; each serves what ``served`` says."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.served: dict[str, list[str]] = {"n1": ["10.0.0.1", "fd77::1"], "n2": ["10.0.0.2"]}

    def ask(self, node: str, operation: str, **message: object) -> Any:
        operations = StatdOperations(
            self.store,
            node,
            served=lambda: self.served[node],
            known=lambda: {address for all_ in self.served.values() for address in all_},
        ).operations()

        result = asyncio.run(_await(operations[operation]({"op": operation, **message})))
        return msgspec.to_builtins(result)

    def record(self, node: str, do: str, client: str, server: str = "host", at: float = 0.0) -> None:
        self.ask(node, "statd-record", changes=[{"do": do, "client": client, "server": server, "at": at}])

    def put(self, key: str, value: bytes) -> None:
        asyncio.run(_await(self.store.commit((), [Put(key, value)])))

    def clients(self, *addresses: str) -> list[tuple[str, str]]:
        return [(one["address"], one["client"]) for one in self.ask("n1", "statd-clients", addresses=addresses)]


async def _await(work: Any) -> Any:
    return await work


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_client_counts_for_every_address_of_its_family_here(cluster: Cluster) -> None:
    cluster.served["n1"].append("10.0.0.3")
    cluster.record("n1", "add", "10.9.9.9")
    assert cluster.clients() == [("10.0.0.1", "10.9.9.9"), ("10.0.0.3", "10.9.9.9")]
    cluster.record("n1", "add", "by.name")
    assert {address for address, client in cluster.clients() if client == "by.name"} == set(cluster.served["n1"])


def test_server_address_that_is_known_is_believed(cluster: Cluster) -> None:
    cluster.record("n1", "add", "10.9.9.9", "10.0.0.2")
    assert cluster.clients() == [("10.0.0.2", "10.9.9.9")]


def test_deleted_where_it_was_recorded_not_elsewhere(cluster: Cluster) -> None:
    cluster.record("n1", "add", "10.9.9.9")
    cluster.record("n2", "del", "10.9.9.9")
    assert cluster.clients() == [("10.0.0.1", "10.9.9.9")]
    cluster.record("n1", "del", "10.9.9.9")
    assert cluster.clients() == []


def test_late_journal_does_not_undo_what_is_newer(cluster: Cluster) -> None:
    now = time.time()
    cluster.record("n1", "add", "10.9.9.9", at=now)
    cluster.record("n1", "del", "10.9.9.9", at=now - 60)
    assert cluster.clients() == [("10.0.0.1", "10.9.9.9")]


def test_many_changes_at_once(cluster: Cluster) -> None:
    changes = [{"do": "add", "client": f"10.9.{n // 250}.{n % 250}", "server": "x", "at": 0.0} for n in range(450)]
    cluster.ask("n2", "statd-record", changes=changes)
    assert len(cluster.clients("10.0.0.2")) == 450


def test_addresses_do_not_share_beginnings(cluster: Cluster) -> None:
    cluster.served["n2"] = ["10.0.0.2", "10.0.0.21"]
    cluster.record("n2", "add", "10.9.9.9", "10.0.0.21")
    assert cluster.clients("10.0.0.2") == []


def test_a_client_has_one_record_however_it_is_spelt(cluster: Cluster) -> None:
    for client in ("ü.Example.", "xn--tda.example", "FD77:0::9", "fd77::9", "4711"):
        cluster.record("n1", "add", client)
    assert {client for _, client in cluster.clients("fd77::1")} == {"xn--tda.example", "fd77::9", "4711"}
    # A host that is called like a number is no address, and so of both families.
    assert {client for _, client in cluster.clients("10.0.0.1")} == {"xn--tda.example", "4711"}


@pytest.mark.parametrize("client", ["a/b", "with blank", "%41", "../x", "a\x1b[2J", "fe80::9%eth0", "", "a" * 300])
def test_what_is_no_host_is_no_client(cluster: Cluster, client: str) -> None:
    with pytest.raises(UsageError, match="invalid change of a statd client"):
        cluster.record("n1", "add", client)


def test_records_of_another_version_are_told_and_forgotten_and_those_of_strangers_passed_over(
    cluster: Cluster,
) -> None:
    for client in ("Old.Example", "a%2Fb", "%1B[2J"):
        cluster.put(f"statd/client/10.0.0.1/{client}", b'{"at": 1, "node": "n1"}')
    [one] = cluster.ask("n1", "statd-clients", addresses=["10.0.0.1"])
    assert (one["client"], one["recorded"]) == ("old.example", "Old.Example")
    forget = [(one["address"], one["recorded"], one["revision"])]
    assert cluster.ask("n1", "statd-forget", forget=forget) == {"forgotten": 1}


def test_forgotten_only_when_not_recorded_again(cluster: Cluster) -> None:
    cluster.record("n1", "add", "10.9.9.9")
    [one] = cluster.ask("n1", "statd-clients", addresses=["10.0.0.1"])
    cluster.record("n1", "add", "10.9.9.9")
    forget = [(one["address"], one["client"], one["revision"])]
    assert cluster.ask("n1", "statd-forget", forget=forget) == {"forgotten": 0}
    [one] = cluster.ask("n1", "statd-clients", addresses=["10.0.0.1"])
    forget = [(one["address"], one["client"], one["revision"])]
    assert cluster.ask("n1", "statd-forget", forget=forget) == {"forgotten": 1}


def test_state_only_grows_and_is_odd(cluster: Cluster) -> None:
    first = cluster.ask("n1", "statd-state")["state"]
    assert first % 2 == 1
    assert cluster.ask("n2", "statd-state")["state"] == first
    numbers = [cluster.ask(node, "statd-state", advance=True)["state"] for node in ("n1", "n2", "n1")]
    assert numbers == [first + 2, first + 4, first + 6]


def test_state_when_two_ask_at_once(cluster: Cluster) -> None:
    operations = StatdOperations(cluster.store, "n1", served=list, known=list).operations()["statd-state"]

    async def both() -> list[Any]:
        return await asyncio.gather(*(_await(operations({"advance": True})) for _ in range(5)))

    numbers = [one["state"] for one in asyncio.run(both())]
    assert len(set(numbers)) == 5


@pytest.mark.parametrize("change", [{"do": "mod", "client": "a"}, {"do": "add", "client": ""}, {"client": "a"}])
def test_nonsense_is_refused(cluster: Cluster, change: Mapping[str, object]) -> None:
    with pytest.raises(UsageError):
        cluster.ask("n1", "statd-record", changes=[change])
    assert cluster.clients() == []


def test_store_that_hangs_is_not_waited_for(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(*_: object) -> None:
        await asyncio.sleep(3600)

    monkeypatch.setattr("locum.nfs.operations.LIMIT", 0.05)
    monkeypatch.setattr(cluster.store, "commit", hang)
    with pytest.raises(StoreUnavailable):
        cluster.record("n1", "add", "10.9.9.9")


def test_i8_a_late_journal_does_not_undo_what_another_node_records_meanwhile(cluster: Cluster) -> None:
    """The other record arrives between the look at what is recorded and the write."""
    cluster.record("n1", "add", "client", server="10.0.0.1", at=100.0)
    read = cluster.store.read
    moments = iter([True])

    async def read_and_be_overtaken(prefix: str) -> Snapshot:
        found = await read(prefix)
        if next(moments, False):
            cluster.store.core.commit((), [Put(found.entries[0].key, b'{"at":300.0,"node":"n2"}')])
        return found

    cluster.store.read = read_and_be_overtaken  # type: ignore[method-assign]
    cluster.record("n1", "del", "client", server="10.0.0.1", at=200.0)
    assert cluster.clients("10.0.0.1") == [("10.0.0.1", "client")]


@pytest.mark.parametrize("value", [b"9" * 5000, "²".encode(), b"-1", b"", b"garbage"])
def test_a_state_number_that_locum_would_not_write_is_replaced(cluster: Cluster, value: bytes) -> None:
    cluster.store.core.commit((), [Put("statd/state", value)])
    assert cluster.ask("n1", "statd-state")["state"] % 2 == 1
