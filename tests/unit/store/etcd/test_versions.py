"""The gateway's answers as etcd 3.4.23 and 3.5.1 wrote them, and as grpc-gateway 2 (etcd 3.6) is specified to.

A stand-in server gives them, so that all of the client's path is run. 3.4 and 3.5 differ in the order of an error's
fields and in what a refused watch says; both put a stream's first error into an object of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from aiohttp import web

from locum.errors import StoreUnavailable
from locum.store.base import Batch, Change, Condition, Entry, Put, WatchLost
from locum.store.etcd import EtcdStore
from locum.store.etcd.endpoints import Endpoint
from locum.store.etcd.messages import Failure
from locum.store.etcd.space import Space
from locum.store.etcd_options import EtcdOptions
from tests.unit.store.harness import Watched, asynchronous, until

Answer = tuple[int, str]

HEADER: Final = (
    '{"cluster_id":"16776266722710152571","member_id":"11923601783553041644","revision":"5","raft_term":"2"}'
)
STREAM_NO_LEADER_1: Final = (
    '{"error":{"grpc_code":14,"http_code":503,"message":"etcdserver: no leader","http_status":"Service Unavailable"}}'
)


def error(version: str, text: str, code: int) -> str:
    """The body of a refused request."""
    if version == "3.4.23":
        return f'{{"error":"{text}","message":"{text}","code":{code}}}'
    if version == "3.5.1":
        return f'{{"error":"{text}","code":{code},"message":"{text}"}}'
    return f'{{"code":{code},"message":"{text}","details":[]}}'


def refused_watch(version: str, text: str, reason: str) -> str:
    """The one message of a watch that etcd's authentication refuses; 3.4 gives the cause, later ones do not."""
    if version == "3.4.23":
        return (
            f'{{"result":{{"header":{HEADER},"watch_id":"-1","created":true,"canceled":true,'
            f'"cancel_reason":"rpc error: code = {reason} desc = {text}"}}}}\n'
        )
    return (
        f'{{"result":{{"header":{HEADER},"created":true,"canceled":true,'
        '"cancel_reason":"rpc error: code = PermissionDenied desc = etcdserver: permission denied"}}\n'
    )


def stream_no_leader(version: str) -> str:
    if version == "3.6":
        return '{"error":{"code":14,"message":"etcdserver: no leader","details":[]}}'
    return STREAM_NO_LEADER_1


class StandIn:
    """A server that answers what ``answers`` says: path → a function of the request's body and its token."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[Any, str], Answer]] = {
            "/v3/kv/range": lambda *_: (
                200,
                f'{{"header":{HEADER},"kvs":[{{"key":"L2xvY3VtL2E=","create_revision":"2","mod_revision":"4",'
                '"version":"1","value":"MQ=="}],"count":"1"}',
            )
        }
        self.asked: list[str] = []
        self._runner: web.AppRunner | None = None
        self.endpoint = ""

    async def __aenter__(self) -> StandIn:
        application = web.Application()
        application.router.add_route("POST", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.endpoint = "{}:{}".format(*self._runner.addresses[0])
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        answer = self.answers.get(request.path)
        if answer is None:
            return web.Response(status=404, text="Not Found")
        status, body = answer(await request.json(), request.headers.get("Authorization", ""))
        return web.Response(status=status, text=body, content_type="application/json")


VERSIONS: Final = ("3.4.23", "3.5.1", "3.6")
every_version = pytest.mark.parametrize("version", VERSIONS)
QUICK: Final = EtcdOptions(timeout=20.0, watch_idle=30.0)


@asynchronous
async def test_read_commit_and_watch() -> None:
    async with StandIn() as etcd:
        responses = iter(['"succeeded":true,"responses":[{"response_put":{"header":{"revision":"5"}}}]', ""])
        etcd.answers["/v3/kv/txn"] = lambda *_: (200, f'{{"header":{HEADER},{next(responses)}}}'.replace(",}", "}"))
        etcd.answers["/v3/watch"] = lambda *_: (
            200,
            f'{{"result":{{"header":{HEADER},"created":true}}}}\n'
            f'{{"result":{{"header":{HEADER},"events":[{{"kv":{{"key":"L2xvY3VtL2E=","create_revision":"2",'
            '"mod_revision":"6","version":"1","value":"MQ=="}},{"type":"DELETE","kv":{"key":"L2xvY3VtL2I=",'
            '"mod_revision":"6"}}]}}\n',
        )
        store = EtcdStore([etcd.endpoint], QUICK)
        assert (await store.read("")).entries == (Entry("a", b"1", 4),)
        assert (await store.commit([Condition("a", 4)], [Put("a", b"1")])).accepted
        assert not (await store.commit([Condition("a", 4)], [Put("a", b"1")])).accepted
        watch = Watched(store, "", 5)
        await watch.reaches(6)
        assert watch.batches == [Batch(6, (Change("a", b"1", 6), Change("b", None, 6)))]
        await watch.stop()
        await store.close()


@every_version
@asynchronous
async def test_without_a_leader_commits_and_watches_wait_for_one(version: str) -> None:
    no_leader = (503, error(version, "etcdserver: no leader", 14))
    async with StandIn() as etcd:
        txns = iter([no_leader, no_leader, (200, f'{{"header":{HEADER},"succeeded":true}}')])
        streams = iter(
            [(503, stream_no_leader(version)), (200, f'{{"result":{{"header":{HEADER},"created":true}}}}\n')]
        )
        etcd.answers["/v3/kv/txn"] = lambda *_: next(txns)
        etcd.answers["/v3/watch"] = lambda *_: next(
            streams,
            (
                200,
                f'{{"result":{{"header":{HEADER},"created":true}}}}\n{{"result":{{"header":{HEADER},"events":'
                '[{"kv":{"key":"L2xvY3VtL2E=","mod_revision":"7"}}]}}\n',
            ),
        )
        store = EtcdStore([etcd.endpoint], QUICK)
        assert (await store.commit((), [Put("a", b"1")])).accepted
        assert etcd.asked.count("/v3/kv/txn") == 3
        watch = Watched(store, "", 5)
        await watch.reaches(7)
        assert watch.error is None
        await watch.stop()
        await store.close()


@asynchronous
async def test_a_compacted_place_is_a_lost_watch() -> None:
    async with StandIn() as etcd:
        etcd.answers["/v3/watch"] = lambda *_: (
            200,
            f'{{"result":{{"header":{HEADER},"created":true}}}}\n'
            f'{{"result":{{"header":{HEADER},"canceled":true,"compact_revision":"4"}}}}\n',
        )
        store = EtcdStore([etcd.endpoint], QUICK)
        assert isinstance(await Watched(store, "", 2).ends(), WatchLost)
        await store.close()


@every_version
@asynchronous
async def test_tokens_that_ran_out_are_renewed(version: str, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n")
    async with StandIn() as etcd:
        tokens = iter(("one.1", "two.2", "three.3"))
        valid = {"two.2", "three.3"}
        served = etcd.answers["/v3/kv/range"]

        def guarded(body: Any, token: str) -> Answer:
            return (
                served(body, token) if token in valid else (401, error(version, "etcdserver: invalid auth token", 16))
            )

        def watch(_: Any, token: str) -> Answer:
            if token in valid:
                return 200, (
                    f'{{"result":{{"header":{HEADER},"created":true}}}}\n{{"result":{{"header":{HEADER},"events":'
                    '[{"kv":{"key":"L2xvY3VtL2E=","mod_revision":"7"}}]}}\n'
                )
            return 200, refused_watch(version, "etcdserver: invalid auth token", "Unauthenticated")

        etcd.answers["/v3/kv/range"] = guarded
        etcd.answers["/v3/watch"] = watch
        etcd.answers["/v3/auth/authenticate"] = lambda body, _: (
            (200, json.dumps({"header": json.loads(HEADER), "token": next(tokens)}))
            if body == {"name": "locum", "password": "secret"}
            else (400, error(version, "etcdserver: authentication failed, invalid user ID or password", 3))
        )
        options = EtcdOptions(
            user="locum",
            password_file=str(tmp_path / "password"),
            allow_plain_password=True,
            timeout=20.0,
            watch_idle=30.0,
        )
        store = EtcdStore([etcd.endpoint], options)
        assert (await store.read("")).entries
        valid.discard("two.2")
        watched = Watched(store, "", 5)
        await watched.reaches(7)
        assert watched.error is None
        await watched.stop()
        await store.close()


WATCHING: Final = f'{{"result":{{"header":{HEADER},"created":true}}}}\n'
NEWS: Final = WATCHING + (
    f'{{"result":{{"header":{HEADER},"events":[{{"kv":{{"key":"L2xvY3VtL2E=","mod_revision":"7"}}}}]}}}}\n'
)


@every_version
@asynchronous
async def test_a_watch_survives_a_password_that_reaches_the_node_later_than_etcd(version: str, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("old\n")
    password = "old"
    async with StandIn() as etcd:

        def authenticate(body: Any, _: str) -> Answer:
            if body["password"] == password:
                return 200, json.dumps({"header": json.loads(HEADER), "token": f"{password}.1"})
            return 400, error(version, "etcdserver: authentication failed, invalid user ID or password", 3)

        def watch(_: Any, token: str) -> Answer:
            if token != f"{password}.1":
                return 200, refused_watch(version, "etcdserver: invalid auth token", "Unauthenticated")
            # Each stream of this stand-in ends at once, and the store opens the next one.
            return 200, WATCHING if password == "old" else NEWS

        etcd.answers["/v3/auth/authenticate"] = authenticate
        etcd.answers["/v3/watch"] = watch
        options = msgspec.structs.replace(
            QUICK, user="locum", password_file=str(file), allow_plain_password=True, probe_interval=0.05
        )
        store = EtcdStore([etcd.endpoint], options)
        watched = Watched(store, "", 5)
        await until(lambda: etcd.asked.count("/v3/watch") >= 2)
        password = "new"
        refused = etcd.asked.count("/v3/auth/authenticate")
        # Far more refusals than new tokens that a watch asks for.
        await until(lambda: watched.error is not None or etcd.asked.count("/v3/auth/authenticate") >= refused + 6)
        assert watched.error is None
        file.write_text("new\n")
        await watched.reaches(7)
        assert watched.error is None
        await watched.stop()
        await store.close()


@every_version
@pytest.mark.parametrize("user", ["locum", None])
@asynchronous
async def test_a_refused_watch_ends_after_a_time_and_says_why(version: str, user: str | None, tmp_path: Path) -> None:
    """At once when it has never worked: the caller learns the reason."""
    (tmp_path / "password").write_text("secret\n")
    async with StandIn() as etcd:
        token = json.dumps({"header": json.loads(HEADER), "token": "one.1"})
        denied = refused_watch(version, "etcdserver: permission denied", "PermissionDenied")
        etcd.answers["/v3/auth/authenticate"] = lambda *_: (200, token)
        etcd.answers["/v3/watch"] = lambda *_: (200, denied)
        options = QUICK
        if user is not None:
            options = msgspec.structs.replace(
                QUICK, user=user, password_file=str(tmp_path / "password"), allow_plain_password=True
            )
        store = EtcdStore([etcd.endpoint], options)
        failed: list[tuple[Endpoint, Failure]] = []
        store._endpoints.failed = lambda *what: failed.append(what)  # type: ignore[method-assign]
        assert "must allow reading" in str(await Watched(store, "", 5).ends())
        assert etcd.asked.count("/v3/watch") <= 4
        etcd.answers["/v3/watch"] = lambda *_: (200, WATCHING)
        asked = etcd.asked.count("/v3/watch")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("locum.store.etcd.watch._REFUSED_FOR", 1.0)
            watched = Watched(store, "", 5)
            await until(lambda: etcd.asked.count("/v3/watch") >= asked + 2)
            etcd.answers["/v3/watch"] = lambda *_: (200, denied)
            assert "must allow reading" in str(await watched.ends())
        # Its retries say nothing about the endpoint.
        assert not [failure for _, failure in failed if "permission denied" in str(failure)]
        await store.close()


@every_version
@pytest.mark.parametrize(
    ("status", "text", "code", "complaint"),
    [
        (403, "etcdserver: permission denied", 7, "everything under the prefix"),
        (400, "etcdserver: user name is empty", 3, "configure user and password_file"),
        (400, "etcdserver: authentication failed, invalid user ID or password", 3, "check user and password_file"),
        (429, "etcdserver: mvcc: database space exceeded", 8, "compact and defragment etcd"),
    ],
)
@asynchronous
async def test_refusals_say_what_to_do(version: str, status: int, text: str, code: int, complaint: str) -> None:
    async with StandIn() as etcd:
        etcd.answers["/v3/kv/txn"] = lambda *_: (status, error(version, text, code))
        store = EtcdStore([etcd.endpoint], QUICK)
        with pytest.raises(StoreUnavailable, match=complaint):
            await store.commit((), [Put("a", b"1")])
        assert etcd.asked.count("/v3/kv/txn") == 1
        await store.close()


@asynchronous
async def test_a_name_in_the_certificate_beside_users_is_explained() -> None:
    """Text of embed/serve.go in 3.4 and 3.5; it is no JSON."""
    text = "CommonName of client sending a request against gateway will be ignored and not used as expected\n"
    async with StandIn() as etcd:
        etcd.answers["/v3/kv/range"] = lambda *_: (400, text)
        store = EtcdStore([etcd.endpoint], QUICK)
        with pytest.raises(StoreUnavailable, match=r"common name \(CN\); use one without"):
            await store.read("")
        await store.close()


@every_version
@asynchronous
async def test_what_a_member_keeps(version: str) -> None:
    """The answer to a status request is the same but for the version; what is compacted is found out by asking."""
    oldest = 4711
    async with StandIn() as etcd:
        etcd.answers["/v3/maintenance/status"] = lambda *_: (
            200,
            f'{{"header":{{"cluster_id":"1","member_id":"2","revision":"20000","raft_term":"2"}},"version":"{version}",'
            '"dbSize":"20480","leader":"2","raftIndex":"14","raftTerm":"2","raftAppliedIndex":"14","dbSizeInUse":"16384"}',
        )
        compacted = error(version, "etcdserver: mvcc: required revision has been compacted", 11)
        etcd.answers["/v3/kv/range"] = lambda body, _: (
            (200, f'{{"header":{HEADER}}}') if int(body.get("revision", 20000)) >= oldest else (400, compacted)
        )
        store = EtcdStore([etcd.endpoint], QUICK)
        [found] = await store.space()
        assert found == Space(etcd.endpoint, version, 20480, 16384, 20000 - oldest + 1, compacted=True)
        oldest = 1
        [found] = await store.space()
        assert isinstance(found, Space)
        assert (found.history, found.compacted) == (20000, False)
        await store.close()


@asynchronous
async def test_a_member_that_does_not_say_what_it_keeps() -> None:
    async with StandIn() as etcd:
        store = EtcdStore([etcd.endpoint], QUICK)
        [found] = await store.space()
        assert isinstance(found, StoreUnavailable)
        await store.close()
