"""One request to one endpoint of etcd.

Rules of this file: it knows HTTP, TLS and tokens. It chooses no endpoint and repeats nothing but a request whose
token had run out. What it adds to a failed request is whether it can have had an effect: before its first byte was
handed to the connection it cannot; after that nobody knows.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Final, TypeVar

import aiohttp
import msgspec

from locum.errors import UsageError
from locum.store.etcd import messages
from locum.store.etcd.messages import NotCarriedOut, Refused, TokenRefused, Unknown
from locum.store.factory import EtcdOptions

#: etcd checks passwords with bcrypt, which is slow on purpose.
_AUTHENTICATE_SECONDS: Final = 5.0

#: A member without a leader then answers at once, instead of keeping the request (clientv3.WithRequireLeader).
_REQUIRE_LEADER: Final = {"Grpc-Metadata-hasleader": "true", "Content-Type": "application/json"}

T = TypeVar("T")


class _Sent:
    """Whether a request has left."""

    def __init__(self) -> None:
        self.sent = False


async def _mark(_session: object, context: SimpleNamespace, _parameters: object) -> None:
    context.trace_request_ctx.sent = True


def tls_context(options: EtcdOptions) -> ssl.SSLContext | None:
    """The TLS settings, or None without TLS. Raises UsageError that names the file that is wrong."""
    if not options.tls:
        return None
    if (options.cert is None) != (options.key is None):
        raise UsageError("etcd: cert and key go together")
    try:
        context = ssl.create_default_context(cafile=options.ca)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"etcd: ca {options.ca}: {_reason(error)}") from error
    if options.cert is not None:
        try:
            context.load_cert_chain(options.cert, options.key)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"etcd: cert {options.cert} with key {options.key}: {_reason(error)}") from error
    return context


def read_password(options: EtcdOptions) -> str:
    """The first line of the password file. Raises UsageError."""
    if (options.user is None) != (options.password_file is None):
        raise UsageError("etcd: user and password_file go together")
    if options.password_file is None:
        return ""
    try:
        with open(options.password_file, encoding="utf-8") as file:
            password = file.readline().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"etcd: password_file {options.password_file}: {_reason(error)}") from error
    if not password:
        raise UsageError(f"etcd: password_file {options.password_file}: its first line is empty")
    return password


class Gateway:
    """HTTP to any endpoint. Raises at creation: UsageError for files that cannot be used."""

    def __init__(self, options: EtcdOptions) -> None:
        self._tls = tls_context(options)
        self._user = options.user
        self._password = read_password(options)
        self._attempt = options.attempt_timeout
        self._connect = options.connect_timeout
        self._token: str | None = None
        self._authenticating: asyncio.Lock | None = None
        self._session: aiohttp.ClientSession | None = None

    @property
    def has_user(self) -> bool:
        """Whether requests carry a token."""
        return self._user is not None

    def url(self, endpoint: str) -> str:
        """``endpoint`` (host:port) as a URL."""
        return f"{'http' if self._tls is None else 'https'}://{endpoint}"

    async def ask(self, endpoint: str, path: str, body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
        """The decoded answer of ``endpoint`` to a request. Raises one of :mod:`messages`' failures."""
        for last in (False, True):
            token = await self._current_token(endpoint)
            try:
                return await self._post(endpoint, path, body, decoder, token, self._attempt)
            except TokenRefused as error:
                if last or self._user is None:
                    hint = "" if self._user else "; etcd wants authentication: configure user and password_file"
                    raise Refused(f"{error}{hint}") from None
                if self._token == token:
                    self._token = None
        raise AssertionError("unreachable")

    async def _current_token(self, endpoint: str) -> str | None:
        if self._user is None or self._token is not None:
            return self._token
        if self._authenticating is None:
            self._authenticating = asyncio.Lock()
        async with self._authenticating:
            if self._token is None:
                body = messages.authenticate_request(self._user, self._password)
                try:
                    answer = await self._post(
                        endpoint,
                        "/v3/auth/authenticate",
                        body,
                        messages.authenticate_responses,
                        None,
                        max(self._attempt, _AUTHENTICATE_SECONDS),
                    )
                except Unknown as error:
                    # A token that nobody received has no effect.
                    raise NotCarriedOut(f"no token: {error}") from None
                self._token = answer.token
            return self._token

    async def _post(
        self, endpoint: str, path: str, body: bytes, decoder: msgspec.json.Decoder[T], token: str | None, seconds: float
    ) -> T:
        sent = _Sent()
        try:
            async with asyncio.timeout(seconds), self._request(endpoint, path, body, token, sent) as response:
                data = await response.read()
        except aiohttp.ConnectionTimeoutError:
            raise self._failed(sent, f"no connection within {self._connect:g} s") from None
        except TimeoutError:
            raise self._failed(sent, f"no answer within {seconds:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._failed(sent, _reason(error)) from None
        if response.status != 200:
            raise messages.failure(data, response.status)
        try:
            return decoder.decode(data)
        except msgspec.DecodeError as error:
            raise Unknown(f"an answer that is not etcd's: {error}") from None

    @asynccontextmanager
    async def stream(self, endpoint: str, body: bytes) -> AsyncIterator[aiohttp.StreamReader]:
        """A watch at ``endpoint``: its lines, as they come. Raises one of :mod:`messages`' failures."""
        token = await self._current_token(endpoint)
        sent = _Sent()
        try:
            async with self._request(endpoint, "/v3/watch", body, token, sent) as response:
                if response.status != 200:
                    raise messages.failure(await response.read(), response.status)
                yield response.content
        except (aiohttp.ClientError, OSError) as error:
            raise Unknown(_reason(error)) from None

    def token_refused(self) -> None:
        """A stream was refused for its token: get a new one for the next."""
        self._token = None

    def _request(
        self, endpoint: str, path: str, body: bytes, token: str | None, sent: _Sent
    ) -> aiohttp.client._RequestContextManager:
        if self._session is None:
            trace = aiohttp.TraceConfig()
            trace.on_request_headers_sent.append(_mark)
            # Idle connections are kept for long: probes and beats use them all the time.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0, keepalive_timeout=60, ssl=self._tls if self._tls is not None else True
                ),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect),
                headers=_REQUIRE_LEADER,
                skip_auto_headers=("User-Agent",),
                auto_decompress=False,
                trace_configs=[trace],
            )
        headers = {"Authorization": token} if token else None
        return self._session.post(
            f"{self.url(endpoint)}{path}", data=body, headers=headers, trace_request_ctx=sent, allow_redirects=False
        )

    @staticmethod
    def _failed(sent: _Sent, reason: str) -> messages.Failure:
        return Unknown(reason) if sent.sent else NotCarriedOut(reason)

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()


def _reason(error: BaseException) -> str:
    """``error`` in few words, without what the caller says anyway."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            cause = error.certificate_error
            return f"its certificate is refused: {getattr(cause, 'verify_message', '') or cause}"
        case aiohttp.ClientConnectorDNSError():
            return f"host name not found: {error.os_error.strerror or error.os_error}"
        case aiohttp.ClientConnectorError():
            # asyncio has a text of its own for each address; the number says what it was.
            number = error.os_error.errno
            return (os.strerror(number) if number else str(error.os_error)).lower()
        case aiohttp.ServerDisconnectedError():
            return "connection closed before the answer"
        case aiohttp.ConnectionTimeoutError():
            return "no connection in time"
        case OSError() if error.strerror:
            return error.strerror.lower()
        case _:
            return str(error) or type(error).__name__
