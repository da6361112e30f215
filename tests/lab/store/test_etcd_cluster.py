"""The etcd store when members die, hang or lie."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import shutil
import signal
from pathlib import Path

import pytest

from locum.errors import StoreUnavailable
from locum.store.base import Condition, Put, WatchLost
from locum.store.etcd_options import EtcdOptions
from tests.lab.store.etcd import Cluster, Member
from tests.lab.store.etcd_clients import QUICK, Beats, opened, running
from tests.unit.store.contract import put
from tests.unit.store.harness import PATIENCE, Watched, asynchronous, commit_when_possible, until
from tests.unit.store.proxy import Proxy

pytestmark = [pytest.mark.lab, pytest.mark.long]


@pytest.mark.parametrize("blow", ["kill", "freeze"])
@pytest.mark.parametrize("who", ["in use", "leader"])
@asynchronous
async def test_one_member_may_fail(tmp_path: Path, who: str, blow: str) -> None:
    async with running(tmp_path, 3) as cluster:
        victim = cluster.members[0] if who == "in use" else await cluster.leader()
        # The victim is the first choice.
        first = [victim.endpoint, *(e for e in cluster.endpoints if e != victim.endpoint)]
        async with opened(first) as store, opened(cluster.endpoints[::-1]) as other:
            watches = [Watched(each, "", (await each.read("")).revision) for each in (store, other)]
            beats = Beats(store)
            await beats.go_on()
            if blow == "kill":
                victim.kill()
            else:
                victim.signal(signal.SIGSTOP)
            await beats.go_on()
            assert (await store.read("beat/")).entries
            if blow == "kill":
                cluster.start_member(victim)
            else:
                victim.signal(signal.SIGCONT)
            await beats.go_on()
            await beats.stop()
            last = await commit_when_possible(store, "last")
            for watch in watches:
                await watch.reaches(last)
                assert watch.error is None
                assert watch.revisions == sorted(set(watch.revisions))
                assert set(beats.confirmed) <= set(watch.revisions)
                assert len(watch.revisions) == last - watch.revisions[0] + 1


@asynchronous
async def test_endpoint_that_came_back_is_preferred_again(tmp_path: Path) -> None:
    async with running(tmp_path, 3) as cluster, opened(cluster.endpoints) as store:
        await put(store, "k")
        first = store._endpoints.all[0]
        assert store._endpoints.ordered()[0] is first
        cluster.members[0].kill()
        await commit_when_possible(store, "k")
        await until(lambda: store._endpoints.ordered()[0] is not first)
        cluster.start_member(cluster.members[0])
        await until(lambda: store._endpoints.ordered()[0] is first)
        await put(store, "k")


@asynchronous
async def test_lost_majority_is_an_outage_that_ends(tmp_path: Path) -> None:
    async with running(tmp_path, 3) as cluster, opened(cluster.endpoints) as store:
        watch = Watched(store, "", await put(store, "k"))
        for member in cluster.members[:2]:
            member.kill()
        impatient = EtcdOptions(timeout=1.5, attempt_timeout=0.3)
        async with opened(cluster.endpoints, impatient) as late:
            with pytest.raises(StoreUnavailable) as caught:
                await late.commit((), [Put("k", b"")])
            with pytest.raises(StoreUnavailable):
                await late.read("")
        for endpoint in cluster.endpoints[:2]:
            assert f"{endpoint}: " in str(caught.value)
        await cluster.start(QUICK)
        last = await commit_when_possible(store, "k")
        await watch.reaches(last)
        assert watch.error is None
        assert watch.revisions[-1] == last


@asynchronous
async def test_commit_waits_for_a_leader_instead_of_failing(tmp_path: Path) -> None:
    async with running(tmp_path, 3) as cluster:
        patient = EtcdOptions(timeout=PATIENCE, attempt_timeout=0.3, probe_interval=0.2)
        survivor = cluster.members[2]
        async with opened([survivor.endpoint], patient) as store:
            await put(store, "k")
            for member in cluster.members[:2]:
                member.kill()
            # Until the survivor notices, commits are ambiguous; then they are not accepted, and wait.
            await until_no_leader(cluster, survivor)
            waiting = asyncio.create_task(put(store, "k"))
            await asyncio.sleep(0.5)
            assert not waiting.done()
            cluster.start_member(cluster.members[0])
            assert await waiting > 0


async def until_no_leader(cluster: Cluster, member: Member) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            status = await cluster.etcdctl("endpoint", "status", "--write-out", "fields", endpoint=member.endpoint)
            if '"Leader" : 0' in status:
                return
            await asyncio.sleep(0.02)


@asynchronous
async def test_hung_endpoint_holds_up_nobody_else(tmp_path: Path) -> None:
    async with running(tmp_path, 3) as cluster:
        leader = await cluster.leader()
        follower = next(member for member in cluster.members if member is not leader)
        endpoints = [follower.endpoint, *(e for e in cluster.endpoints if e != follower.endpoint)]
        patient = EtcdOptions(attempt_timeout=PATIENCE, timeout=PATIENCE, suspect_after=0.1)
        async with opened(endpoints, patient) as store:
            await put(store, "k")
            follower.signal(signal.SIGSTOP)
            hung = asyncio.create_task(put(store, "k"))
            await until(lambda: not store._endpoints.all[0].up)
            # Neither what is sent later nor a read waits for the one that hangs.
            last = await put(store, "k")
            assert (await store.read("k")).entries[0].revision == last
            assert not hung.done()
            follower.signal(signal.SIGCONT)
            # Its answer was waited for.
            assert await hung > last
            await until(lambda: store._endpoints.all[0].up)


@pytest.mark.parametrize("direction", ["both ways", "answers only"])
@asynchronous
async def test_watch_leaves_a_path_that_went_silent(tmp_path: Path, direction: str) -> None:
    """Nothing breaks and nothing is refused: bytes just do not arrive any more, and never will."""
    async with running(tmp_path, 3) as cluster:
        proxies = [Proxy(functools.partial(asyncio.open_connection, *e.split(":"))) for e in cluster.endpoints]
        endpoints = [f"127.0.0.1:{await proxy.serve_tcp()}" for proxy in proxies]
        async with opened(endpoints) as store, opened(cluster.endpoints) as direct:
            watch = Watched(store, "", (await store.read("")).revision)
            last = await put(direct, "k")
            await watch.reaches(last)
            (serving,) = (watch._serving for watch in store._watches)
            assert serving is not None
            silent = proxies[endpoints.index(serving.name)]
            if direction == "both ways":
                silent.stall()
            else:
                silent.to_client.clear()
            revisions = [await put(direct, "k") for _ in range(5)]
            await watch.reaches(revisions[-1])
            assert watch.revisions == [last, *revisions]
            # Calls find their way, too.
            await commit_when_possible(store, "k")
        for proxy in proxies:
            await proxy.close()


@asynchronous
async def test_unreachable_endpoints_are_named_with_their_causes() -> None:
    options = EtcdOptions(attempt_timeout=0.5, timeout=3)
    async with opened(["127.0.0.1:1", "localhost:2", "no-such-host.invalid:2379"], options) as store:
        for call in (store.read(""), store.commit((), [Put("k", b"")])):
            with pytest.raises(StoreUnavailable) as caught:
                await call
            message = str(caught.value)
            assert "127.0.0.1:1: connection refused" in message
            assert "localhost:2: connection refused" in message
            assert "no-such-host.invalid:2379: " in message
            assert "unknown whether" not in message
        assert "\n" not in message


@asynchronous
async def test_something_else_than_etcd() -> None:
    status = b""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %b\r\nContent-Length: 9\r\n\r\nNot here\n" % status)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with opened([f"127.0.0.1:{port}"], EtcdOptions(attempt_timeout=5)) as store:
        status = b"502 Bad Gateway"
        with pytest.raises(StoreUnavailable, match=r"HTTP status 502, not an answer of etcd's gateway.*Not here"):
            await store.read("")
        status = b"404 Not Found"
        with pytest.raises(StoreUnavailable, match=r"no JSON gateway: .* lacks enable-grpc-gateway: true"):
            await store.read("")
    server.close()


@asynchronous
async def test_endpoints_of_two_clusters_are_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    async with (
        running(tmp_path / "one", 1) as one,
        running(tmp_path / "two", 1, extra=("--initial-cluster-token", "two")) as two,
        opened([*one.endpoints, *two.endpoints]) as store,
    ):
        with contextlib.suppress(StoreUnavailable):
            await store.read("")
        await until(lambda: bool(store._endpoints.fatal))
        for call in (store.read(""), store.commit((), [Put("k", b"")])):
            with pytest.raises(StoreUnavailable, match="belong to different etcd clusters"):
                await call
        assert "different" in str(await Watched(store, "", 1).ends())
        async with opened(one.endpoints) as first, opened(two.endpoints) as second:
            assert (await first.read("k")).entries == (await second.read("k")).entries == ()


@asynchronous
async def test_emptied_etcd_is_noticed(tmp_path: Path) -> None:
    async with running(tmp_path, 1) as cluster, opened(cluster.endpoints) as store:
        for _ in range(5):
            old = await put(store, "k")
        watch = Watched(store, "", old)
        (member,) = cluster.members
        member.kill()
        shutil.rmtree(member.directory)
        await cluster.start(QUICK)
        assert isinstance(await watch.ends(), WatchLost)
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    snapshot = await store.read("")
                    break
                except StoreUnavailable:
                    await asyncio.sleep(0.01)
        assert snapshot.entries == ()
        assert snapshot.revision < old
        assert (await store.commit([Condition("k", 0)], [Put("k", b"")])).accepted


@asynchronous
async def test_commits_stay_whole_when_a_watch_catches_up(tmp_path: Path) -> None:
    async with running(tmp_path, 1) as cluster, opened(cluster.endpoints, EtcdOptions(attempt_timeout=10)) as store:
        start = (await store.read("")).revision
        revisions = [
            (await store.commit((), [Put(f"t/{key}", bytes([number]) * 9_000) for key in range(100)])).revision
            for number in range(12)
        ]
        watch = Watched(store, "", start)
        await watch.reaches(revisions[-1])
        assert watch.revisions == revisions
        assert [len(batch.changes) for batch in watch.batches] == [100] * 12


@asynchronous
async def test_clusters_share_an_etcd(tmp_path: Path) -> None:
    async with (
        running(tmp_path, 1) as cluster,
        opened(cluster.endpoints, EtcdOptions(prefix="/locum/a/")) as a,
        opened(cluster.endpoints, EtcdOptions(prefix="/locum/b/")) as b,
        opened(cluster.endpoints, EtcdOptions(prefix="")) as everything,
    ):
        watch = Watched(a, "", (await a.read("")).revision)
        await put(b, "k", b"b")
        assert (await a.read("")).entries == ()
        last = await put(a, "k", b"a")
        await watch.reaches(last)
        assert [change.key for batch in watch.batches for change in batch.changes] == ["k"]
        assert {e.key: e.value for e in (await everything.read("")).entries} == {
            "/locum/a/k": b"a",
            "/locum/b/k": b"b",
        }


@asynchronous
async def test_full_etcd_says_what_to_do(tmp_path: Path) -> None:
    # etcd takes no quota below its first pages; it is full after some commits.
    async with (
        running(tmp_path, 1, extra=("--quota-backend-bytes", str(4 * 1024 * 1024))) as cluster,
        opened(cluster.endpoints, EtcdOptions(attempt_timeout=10)) as store,
    ):
        await put(store, "k", b"kept")

        async def fill() -> None:
            for number in range(100):
                await store.commit((), [Put(f"big/{number}", bytes(500_000))])

        with pytest.raises(StoreUnavailable, match=r"database space exceeded; compact and defragment"):
            await fill()
        assert (await store.read("k")).entries[0].value == b"kept"
