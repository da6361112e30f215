"""The messages of etcd's JSON gateway, and the meaning of its answers.

Rules of this file: pure. It knows etcd's messages (api/etcdserverpb/rpc.proto, in the JSON mapping of grpc-gateway:
64-bit integers are strings, bytes are base64, fields with a zero value are left out) and its error texts
(api/v3rpc/rpctypes/error.go); it knows no HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from locum.outside import UNDECODABLE
from locum.store.base import Batch, Change, Condition, Entry, Operation, Put


class Header(msgspec.Struct, frozen=True):
    """``ResponseHeader``. ``revision`` is the store's at the time of the answer."""

    cluster_id: int = 0
    member_id: int = 0
    revision: int = 0


class KeyValue(msgspec.Struct, frozen=True):
    """``mvccpb.KeyValue``, the needed fields."""

    key: bytes = b""
    value: bytes = b""
    mod_revision: int = 0


class RangeResponse(msgspec.Struct, frozen=True):
    """Answer to a range request."""

    header: Header
    kvs: list[KeyValue] = []
    more: bool = False


class TxnResponse(msgspec.Struct, frozen=True):
    """Answer to a transaction."""

    header: Header
    succeeded: bool = False


class AuthenticateResponse(msgspec.Struct, frozen=True):
    """Answer to a request for a token."""

    header: Header
    token: str = ""


class Event(msgspec.Struct, frozen=True):
    """``mvccpb.Event``: a PUT (the zero value) or a DELETE."""

    kv: KeyValue
    type: str = "PUT"


class WatchResponse(msgspec.Struct, frozen=True):
    """One message of a watch. ``fragment``: the events of this message continue in the next one."""

    header: Header = Header()
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""
    fragment: bool = False
    events: list[Event] = []


class StatusResponse(msgspec.Struct, frozen=True, rename="camel"):
    """A member's report about itself. Sizes in bytes; ``db_size_in_use``: the size of a defragmented file.

    ``raft_applied_index``: how far it has carried out the members' agreed log; 0: not reported.
    """

    header: Header
    version: str = ""
    db_size: int = 0
    db_size_in_use: int = 0
    raft_applied_index: int = 0


class StreamError(msgspec.Struct, frozen=True):
    """The end of a stream by an error. grpc-gateway 1.x (etcd 3.4, 3.5) also has ``grpc_code``, 2.x ``code``."""

    message: str = ""


class StreamMessage(msgspec.Struct, frozen=True):
    """One line of a stream."""

    result: WatchResponse | None = None
    error: StreamError | None = None


class ErrorResponse(msgspec.Struct, frozen=True):
    """Body of an answer that is not a success.

    ``error`` has the same text as ``message`` (grpc-gateway 1.x; 2.x leaves it out), or is the only field where a
    stream was refused before its first message.
    """

    message: str = ""
    error: str | StreamError = ""

    @property
    def text(self) -> str:
        """etcd's error text."""
        return self.message or (self.error if isinstance(self.error, str) else self.error.message)


# Not strict: the gateway writes 64-bit integers as strings.
range_responses: Final = msgspec.json.Decoder(RangeResponse, strict=False)
txn_responses: Final = msgspec.json.Decoder(TxnResponse, strict=False)
status_responses: Final = msgspec.json.Decoder(StatusResponse, strict=False)
authenticate_responses: Final = msgspec.json.Decoder(AuthenticateResponse, strict=False)
stream_messages: Final = msgspec.json.Decoder(StreamMessage, strict=False)
error_responses: Final = msgspec.json.Decoder(ErrorResponse, strict=False)

_encode: Final = msgspec.json.Encoder().encode


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all that start with ``prefix``; a zero byte means "no end" (clientv3.GetPrefixRangeEnd)."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else b"\0"


def range_request(prefix: bytes, *, after: bytes = b"", revision: int = 0, limit: int = 0) -> bytes:
    """All keys under ``prefix`` (that come after the key ``after``), linearizable unless at a ``revision``."""
    start = after + b"\0" if after else (prefix or b"\0")
    return _encode({"key": start, "range_end": prefix_end(prefix), "revision": revision, "limit": limit})


def first_request(prefix: bytes, start: bytes) -> bytes:
    """The first key under ``prefix`` from ``start`` on, without its value; linearizable."""
    return _encode({"key": start or b"\0", "range_end": prefix_end(prefix), "keys_only": True, "limit": 1})


def probe_request(key: bytes) -> bytes:
    """The cheapest linearizable read: one key, without its value."""
    return _encode({"key": key, "keys_only": True, "limit": 1})


def look_back_request(key: bytes, revision: int) -> bytes:
    """One key as it was at ``revision``; refused when that is compacted."""
    return _encode({"key": key, "revision": str(revision), "keys_only": True, "limit": 1})


def txn_request(prefix: bytes, conditions: Sequence[Condition], operations: Sequence[Operation]) -> bytes:
    """A commit. An absent key has ``mod_revision`` 0 in a comparison, which equals 0 in a condition."""
    success: list[object] = [
        {"request_put": {"key": prefix + operation.key.encode(), "value": operation.value}}
        if isinstance(operation, Put)
        else {"request_delete_range": {"key": prefix + operation.key.encode()}}
        for operation in operations
    ]
    if not success:
        # For etcd a transaction without operations need not be linearizable
        # (etcdserver/v3_server.go, isTxnSerializable).
        success.append({"request_range": {"key": prefix or b"\0", "keys_only": True, "limit": 1}})
    compare = [
        {
            "key": prefix + condition.key.encode(),
            "target": "MOD",
            # etcd has no "at least".
            "result": "GREATER" if condition.at_least else "EQUAL",
            "mod_revision": str(condition.revision - condition.at_least),
        }
        for condition in conditions
    ]
    return _encode({"compare": compare, "success": success})


def authenticate_request(user: str, password: str) -> bytes:
    """A request for a token."""
    return _encode({"name": user, "password": password})


def from_the_future(token: str, applied: int) -> bool:
    """Whether a member that has applied ``applied`` entries of Raft's log keeps every request with ``token`` waiting.

    A token of the kind "simple" ends with the index of the entry that made it. A member that has not reached it waits
    (auth/simple_token.go, isValidSimpleToken): forever, when etcd was restored and counts from an earlier index.
    """
    _, dot, index = token.rpartition(".")
    return bool(dot) and applied > 0 and index.isascii() and index.isdecimal() and int(index) > applied


def watch_request(prefix: bytes, start: int) -> bytes:
    """All events under ``prefix`` from revision ``start``. Fragments keep large messages under gRPC's limit."""
    request = {
        "key": prefix or b"\0",
        "range_end": prefix_end(prefix),
        "start_revision": str(start),
        "fragment": True,
    }
    return _encode({"create_request": request})


def entries(prefix: bytes, kvs: Sequence[KeyValue]) -> list[Entry]:
    """The entries of a range response; ``prefix`` is removed from the keys."""
    return [Entry(_text(kv.key, prefix), kv.value, kv.mod_revision) for kv in kvs]


def batches(prefix: bytes, events: Sequence[Event]) -> list[Batch]:
    """Events in the order of their revisions, one batch for each revision; ``prefix`` is removed from the keys."""
    result: list[Batch] = []
    changes: list[Change] = []
    for event in events:
        revision = event.kv.mod_revision
        if changes and changes[-1].revision != revision:
            result.append(Batch(changes[-1].revision, tuple(changes)))
            changes = []
        value = None if event.type == "DELETE" else event.kv.value
        changes.append(Change(_text(event.kv.key, prefix), value, revision))
    if changes:
        result.append(Batch(changes[-1].revision, tuple(changes)))
    return result


def _text(key: bytes, prefix: bytes) -> str:
    # Keys that are not UTF-8 are not Locum's; they must not make the rest unreadable.
    return key[len(prefix) :].decode(errors="backslashreplace")


class Failure(Exception):
    """Base of the failures of a request; the message is the cause, without the endpoint."""


class NotCarriedOut(Failure):
    """The request had no effect and may be tried elsewhere. ``waiting``: it will succeed once there is a leader."""

    def __init__(self, message: str, waiting: bool = False) -> None:
        super().__init__(message)
        self.waiting = waiting


class Unknown(Failure):
    """The effect of the request is unknown."""


class Refused(Failure):
    """The request had no effect, and will have none on any endpoint until an administrator changes something."""


class PasswordRefused(Refused):
    """etcd gives no token for this user and password."""


class NoAuthentication(Refused):
    """etcd gives no tokens: its authentication is not enabled, and requests need none."""


class CertificateRefused(Refused):
    """The gateway takes no request over a connection with this certificate."""


class HandshakeRefused(NotCarriedOut):
    """One end refused the other's certificate, so the connection was not made."""


class Unanswered(Unknown):
    """No answer within the limit."""


class TokenRefused(Failure):
    """The request had no effect because its token is not, or no longer, valid."""


class Compacted(Failure):
    """The request named a revision that etcd has compacted."""


def failure(body: bytes, status: int) -> Failure:
    """The failure behind an answer with an HTTP ``status`` other than 200.

    Only texts that etcd writes before it proposes a request count as "not carried out".
    """
    if status == 404:
        return NotCarriedOut(
            "it has no JSON gateway: not etcd 3.4 or later, or its configuration file lacks enable-grpc-gateway: true"
        )
    try:
        answer = error_responses.decode(body)
    except UNDECODABLE:
        text = body[:200].decode(errors="replace").strip()
        if "CommonName of client" in text:
            # embed/serve.go: with users enabled, etcd would take the name in the certificate as a user.
            return CertificateRefused(
                "with users and passwords enabled, its gateway refuses client certificates that have a common name"
                " (CN); use one without"
            )
        hint = "; it speaks TLS: configure ca" if "HTTP request to an HTTPS server" in text else ""
        return Unknown(f"HTTP status {status}, not an answer of etcd's gateway: {text!r}{hint}")
    return classify(answer.text)


#: "revision in header": etcd 3.3 and 3.4 before 3.4.15, which report it only on applying a request (auth/store.go).
_TOKEN: Final = (
    "invalid auth token",
    "user name is empty",
    "revision of auth store is old",
    "revision in header is old",
)
_PASSWORD: Final = ("authentication failed", "; check user and password_file")
_NO_AUTHENTICATION: Final = (
    "authentication is not enabled",
    "; leave out user and password_file, or enable authentication in etcd",
)
_REFUSED: Final = {
    "permission denied": "; the user's role must allow reading and writing everything under the prefix",
    "database space exceeded": "; compact and defragment etcd, then run: etcdctl alarm disarm",
    "request is too large": "; raise etcd's --max-request-bytes",
    "too many operations": "; raise etcd's --max-txn-ops to 128 or more",
    "corrupt": "",
}
_NOT_CARRIED_OUT: Final = ("too many requests", "not supported for learner", "not capable")


def classify(message: str) -> Failure:
    """The failure behind an error text of etcd."""
    text = message.removeprefix("etcdserver: ").removeprefix("auth: ")
    if any(part in text for part in _TOKEN):
        return TokenRefused(text)
    if "required revision has been compacted" in text:
        return Compacted(text)
    if _PASSWORD[0] in text:
        return PasswordRefused(text + _PASSWORD[1])
    if _NO_AUTHENTICATION[0] in text:
        return NoAuthentication(text + _NO_AUTHENTICATION[1])
    for part, hint in _REFUSED.items():
        if part in text:
            return Refused(text + hint)
    if text == "no leader":
        return NotCarriedOut("it sees no leader (has the etcd cluster a majority?)", waiting=True)
    if text == "leader changed":
        # Only a read that waited for the old leader is answered so (etcdserver/v3_server.go, ErrLeaderChanged).
        return NotCarriedOut("its leader has just changed", waiting=True)
    if any(part in text for part in _NOT_CARRIED_OUT):
        return NotCarriedOut(text)
    if "connection closed" in text or "transport" in text:
        # gRPC's words for the path between the gateway and its own member.
        return Unknown(f"its gateway does not reach its own member ({text}); is its certificate good for clientAuth?")
    return Unknown(text)
