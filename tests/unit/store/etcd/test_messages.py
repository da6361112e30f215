"""What is said to etcd's gateway, what its answers mean, and which endpoint is asked."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.store.base import Batch, Change, Condition, Delete, Put
from locum.store.etcd import messages
from locum.store.etcd.endpoints import Endpoints
from locum.store.etcd.gateway import Gateway
from locum.store.etcd.messages import (
    Compacted,
    Event,
    Header,
    KeyValue,
    NoAuthentication,
    NotCarriedOut,
    PasswordRefused,
    Refused,
    TokenRefused,
    Unknown,
)
from locum.store.etcd_options import EtcdOptions
from tests.unit.store.harness import asynchronous


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@given(st.binary(max_size=4), st.lists(st.binary(max_size=6), max_size=20))
def test_prefix_end_is_the_end_of_the_prefix(prefix: bytes, keys: list[bytes]) -> None:
    end = messages.prefix_end(prefix)
    for key in keys:
        inside = key >= prefix and (end == b"\0" or key < end)
        assert inside == key.startswith(prefix)


def test_commit_as_a_transaction() -> None:
    request = json.loads(
        messages.txn_request(b"/l/", [Condition("a", 0), Condition("b", 7)], [Put("a", b"x"), Delete("ü")])
    )
    assert request == {
        "compare": [
            {"key": b64("/l/a"), "target": "MOD", "result": "EQUAL", "mod_revision": "0"},
            {"key": b64("/l/b"), "target": "MOD", "result": "EQUAL", "mod_revision": "7"},
        ],
        "success": [
            {"request_put": {"key": b64("/l/a"), "value": b64("x")}},
            {"request_delete_range": {"key": b64("/l/ü")}},
        ],
    }


def test_check_without_operations_is_made_linearizable() -> None:
    request = json.loads(messages.txn_request(b"/l/", [Condition("a", 3)], []))
    assert [list(operation) for operation in request["success"]] == [["request_range"]]
    assert "serializable" not in request["success"][0]["request_range"]


def event(key: bytes, value: bytes | None, revision: int) -> Event:
    kind = "DELETE" if value is None else "PUT"
    return Event(KeyValue(key, value or b"", revision), kind)


def test_events_become_batches() -> None:
    events = [event(b"/l/a", b"1", 5), event(b"/l/b", None, 5), event(b"/l/a", b"", 6), event(b"/l/\xff", b"", 9)]
    assert messages.batches(b"/l/", events) == [
        Batch(5, (Change("a", b"1", 5), Change("b", None, 5))),
        Batch(6, (Change("a", b"", 6),)),
        Batch(9, (Change("\\xff", b"", 9),)),
    ]
    assert messages.batches(b"/l/", []) == []


def test_answers_of_the_gateway_are_understood() -> None:
    """As etcd 3.4.23 wrote them."""
    line = (
        b'{"result":{"header":{"cluster_id":"14841639068965178418","member_id":"10276657743932975437","revision":"4",'
        b'"raft_term":"2"},"events":[{"type":"DELETE","kv":{"key":"aw==","mod_revision":"4"}},'
        b'{"kv":{"key":"a2s=","create_revision":"3","mod_revision":"4","version":"1"}}]}}'
    )
    message = messages.stream_messages.decode(line)
    assert message.result is not None
    assert message.result.header == Header(14841639068965178418, 10276657743932975437, 4)
    assert messages.batches(b"", message.result.events) == [Batch(4, (Change("k", None, 4), Change("kk", b"", 4)))]
    refused = messages.txn_responses.decode(b'{"header":{"cluster_id":"1","revision":"2"}}')
    assert (refused.succeeded, refused.header.revision) == (False, 2)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("etcdserver: no leader", NotCarriedOut),
        ("etcdserver: too many requests", NotCarriedOut),
        ("etcdserver: rpc not supported for learner", NotCarriedOut),
        ("etcdserver: invalid auth token", TokenRefused),
        ("etcdserver: user name is empty", TokenRefused),
        ("etcdserver: revision of auth store is old", TokenRefused),
        ("etcdserver: permission denied", Refused),
        ("etcdserver: authentication failed, invalid user ID or password", PasswordRefused),
        ("etcdserver: authentication is not enabled", NoAuthentication),
        ("auth: revision in header is old", TokenRefused),
        ("auth: invalid auth token", TokenRefused),
        ("etcdserver: mvcc: database space exceeded", Refused),
        ("etcdserver: mvcc: required revision has been compacted", Compacted),
        ("etcdserver: request timed out", Unknown),
        ("etcdserver: request timed out, possibly due to previous leader failure", Unknown),
        # A read that waited for the old leader; no commit is ever answered so.
        ("etcdserver: leader changed", NotCarriedOut),
        ("etcdserver: server stopped", Unknown),
        ("context deadline exceeded", Unknown),
        ("something new", Unknown),
    ],
)
def test_only_what_is_certain_counts_as_not_carried_out(text: str, kind: type[messages.Failure]) -> None:
    assert type(messages.classify(text)) is kind
    body = json.dumps({"error": text, "message": text, "code": 14}).encode()
    assert type(messages.failure(body, 503)) is kind
    waiting = isinstance(error := messages.classify(text), NotCarriedOut) and error.waiting
    assert waiting == (text in ("etcdserver: no leader", "etcdserver: leader changed"))


@given(st.binary(max_size=50), st.integers(201, 599))
def test_any_other_answer_leaves_it_open(body: bytes, status: int) -> None:
    assert isinstance(messages.failure(body, status), messages.Failure)


def test_times_that_suit_a_hold() -> None:
    for hold in (0.1, 0.25, 2.0, 10.0, 60.0):
        options = EtcdOptions(user="u", password_file="p").paced(hold)
        assert options.user == "u"
        # Suspected and sent elsewhere well before the hold is over.
        assert options.suspect_after < hold / 4
        assert options.suspect_after < options.watch_idle
        assert options.attempt_timeout >= 1.0


@asynchronous
async def test_order_of_endpoints() -> None:
    endpoints = Endpoints(["a", "b", "c"], Gateway(EtcdOptions()), b"k", 1.0, 1.0)
    a, b, c = endpoints.all
    down: list[str] = []
    endpoints.on_down = lambda endpoint: down.append(endpoint.name)

    def order() -> str:
        return "".join(endpoint.name for endpoint in endpoints.ordered())

    for endpoint in endpoints.all:
        endpoints.heard(endpoint, Header(1, 1, 1))
    assert order() == "abc"
    endpoints.suspect(a, 0.2)
    assert order() == "bca"
    # It may still be sent commits when all others are worse: nothing says that it is another one now.
    assert (a.up, a.known) == (False, True)
    await asyncio.sleep(0.001)
    endpoints.failed(b, Unknown("connection reset"))
    assert order() == "cab"
    assert (b.up, b.known) == (False, False)
    assert down == ["a", "b"]
    # One answer does not make it the first choice again.
    endpoints.heard(a, Header(1, 1, 1))
    assert order() == "cab"
    endpoints.heard(a, Header(1, 1, 1))
    endpoints.heard(a, Header(1, 1, 1))
    assert order() == "acb"
    # None is up: whoever says that it lives and lacks a leader goes before those that say nothing.
    endpoints.suspect(a, 0.2)
    endpoints.failed(c, messages.classify("etcdserver: no leader"))
    assert order() == "cba"
    endpoints.check()
    endpoints.heard(c, Header(2, 1, 1))
    assert "a and c belong to different etcd clusters (1 and 2)" in endpoints.fatal
    assert not c.up


def test_a_condition_that_a_key_has_not_gone_back_is_sent_as_greater() -> None:
    request = json.loads(messages.txn_request(b"/l/", [Condition("a", 7, at_least=True)], []))
    assert [(one["result"], one["mod_revision"]) for one in request["compare"]] == [("GREATER", "6")]
