"""One request to one endpoint of etcd.

Rules of this file: it knows HTTP, TLS and tokens. It chooses no endpoint. It repeats a request only when its first
attempt certainly had no effect because of credentials that are being renewed (:mod:`locum.store.etcd.renewal`). For a
failed request it reports whether the request can have had an effect: not before its first byte was handed to the
connection; after that, the effect is unknown.

Each request states the TLS settings that its connection must have. So changed settings bring new connections, and
running streams continue.
"""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Final, TypeVar

import aiohttp
import msgspec

from locum import tasks
from locum.outside import UNDECODABLE
from locum.store.etcd import messages
from locum.store.etcd.messages import (
    CertificateRefused,
    Compacted,
    Failure,
    HandshakeRefused,
    NoAuthentication,
    NotCarriedOut,
    PasswordRefused,
    Refused,
    TokenRefused,
    Unanswered,
    Unknown,
)
from locum.store.etcd.renewal import Login, Renewal, Tls, Verdict
from locum.store.etcd_options import EtcdOptions

#: etcd checks passwords with bcrypt, which is slow on purpose.
_AUTHENTICATE_SECONDS: Final = 5.0
#: Seconds after a refused password before etcd is asked again.
_DENIED_PAUSE: Final = 0.5
#: Seconds between two tokens that are replaced although etcd has not reported them as bad.
_DOUBT_PAUSE: Final = 5.0

#: A member without a leader then answers at once instead of keeping the request (clientv3.WithRequireLeader).
_REQUIRE_LEADER: Final = {"Grpc-Metadata-hasleader": "true", "Content-Type": "application/json"}

#: In place of a token, when etcd needs none.
_NO_TOKEN: Final = ""

T = TypeVar("T")


class _Sent:
    """Whether a request has been sent."""

    def __init__(self) -> None:
        self.sent = False


async def _mark(_session: object, context: SimpleNamespace, _parameters: object) -> None:
    context.trace_request_ctx.sent = True


class Gateway:
    """HTTP to any endpoint. ``names``: all endpoints, for trials of new TLS settings.

    Raises at creation: UsageError for invalid options. Files are read when they are first needed.
    """

    def __init__(self, options: EtcdOptions, names: Sequence[str] = ()) -> None:
        self.renewal = Renewal(options.files, self._try)
        self._names = names
        self._probe_body = messages.probe_request(options.prefix.encode() or b"\0")
        self._attempt = options.attempt_timeout
        self._connect = options.connect_timeout
        self._token: str | None = None
        self._login: Login | None = None
        self._authenticating: asyncio.Lock | None = None
        self._denied: tuple[Refused, float] | None = None
        self._doubting: asyncio.Task[None] | None = None
        self._doubted = float("-inf")
        self._session: aiohttp.ClientSession | None = None

    @property
    def has_user(self) -> bool:
        """Whether requests carry a token."""
        return self.renewal.files.user is not None

    async def ask(self, endpoint: str, path: str, body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
        """The decoded answer of ``endpoint`` to a request. Raises one of :mod:`messages`' failures."""
        renewed = mended = False
        while True:
            tls = await self.renewal.tls()
            token = await self._current_token(endpoint, tls)
            try:
                return await self._post(endpoint, path, body, decoder, token, self._attempt, tls)
            except TokenRefused as error:
                if self._token == token:
                    self._token = None
                if renewed or not self.has_user:
                    raise Refused(f"{error}{self._hint()}") from None
                renewed = True
            except HandshakeRefused:
                if mended or not await self.renewal.repair(tls):
                    raise
                mended = True
            except Unanswered:
                if token:
                    self._doubt(endpoint, token)
                raise
            except CertificateRefused:
                self.renewal.trouble()
                raise

    def _hint(self) -> str:
        return "" if self.has_user else "; etcd wants authentication: configure user and password_file"

    async def _current_token(self, endpoint: str, tls: Tls) -> str | None:
        logins = self.renewal.logins()
        if not logins:
            return None
        if tls.context is None and not self.renewal.files.allow_plain_password:
            raise Refused("etcd is reached without TLS, over which the password is not sent")
        if self._login is not None and self._login not in logins:
            # Another user is configured, or no user is known to work.
            self._token = None
        if self._token is not None:
            return self._token
        if self._authenticating is None:
            self._authenticating = asyncio.Lock()
        async with self._authenticating:
            if self._token is None:
                self._token = await self._authenticate(endpoint, tls)
            return self._token

    async def _authenticate(self, endpoint: str, tls: Tls) -> str:
        """A new token. Raises a Failure."""
        loop = asyncio.get_running_loop()
        if self._denied is not None and loop.time() < self._denied[1]:
            raise self._denied[0]
        tried: list[Login] = []
        refusal: Refused = PasswordRefused("no password is known")
        while waiting := [login for login in self.renewal.logins() if login not in tried]:
            login = waiting[0]
            tried.append(login)
            try:
                token = await self._authenticate_as(login, endpoint, tls)
            except NoAuthentication:
                self._login = login
                self.renewal.unneeded()
                return _NO_TOKEN
            except PasswordRefused as error:
                refusal = error
                if len(waiting) == 1:
                    # It may have just been changed.
                    await self.renewal.look()
            else:
                self._login, self._denied = login, None
                self.renewal.accepted(login)
                return token
        self._denied = refusal, loop.time() + _DENIED_PAUSE
        raise refusal

    async def _authenticate_as(self, login: Login, endpoint: str, tls: Tls) -> str:
        body = messages.authenticate_request(login.user, login.password.reveal())
        seconds = max(self._attempt, _AUTHENTICATE_SECONDS)
        try:
            answer = await self._post(
                endpoint, "/v3/auth/authenticate", body, messages.authenticate_responses, None, seconds, tls
            )
        except Unknown as error:
            # A token that was not received has no effect.
            raise NotCarriedOut(f"no token: {error}") from None
        return answer.token

    def _doubt(self, endpoint: str, token: str) -> None:
        """A request with ``token`` had no answer: find out whether the token is the cause."""
        if self._token == token and (self._doubting is None or self._doubting.done()):
            self._doubting = tasks.start(self._examine(endpoint, token), "examining an etcd token")

    async def _examine(self, endpoint: str, token: str) -> None:
        now = asyncio.get_running_loop().time()
        try:
            tls = await self.renewal.tls()
            status = await self._post(
                endpoint, "/v3/maintenance/status", b"{}", messages.status_responses, None, self._attempt, tls
            )
            stale = messages.from_the_future(token, status.raft_applied_index)
        except (TokenRefused, Refused):
            # It answers only without a token.
            stale = now - self._doubted >= _DOUBT_PAUSE
        except Failure:
            return
        if stale and self._token == token:
            self._token, self._doubted = None, now

    # -- trials ------------------------------------------------------------------------------------------------

    async def _try(self, context: ssl.SSLContext | None) -> Verdict:
        """Whether an endpoint accepts connections with ``context``; the first one that accepts decides."""
        trials = [asyncio.create_task(self._try_at(name, context)) for name in self._names]
        reached, reasons = False, []
        try:
            for trial in asyncio.as_completed(trials):
                verdict = await trial
                if verdict.accepted:
                    return verdict
                reached = reached or verdict.reached
                if verdict.reached:
                    reasons.append(verdict.reason)
            return Verdict(False, reached, "; ".join(sorted(reasons)))
        finally:
            for task in trials:
                task.cancel()
            await asyncio.gather(*trials, return_exceptions=True)

    async def _try_at(self, endpoint: str, context: ssl.SSLContext | None) -> Verdict:
        try:
            async with asyncio.timeout(self._attempt):
                request = self._request(endpoint, "/v3/kv/range", self._probe_body, None, _Sent(), context, last=True)
                async with request as response:
                    data = await response.read()
        except (TimeoutError, aiohttp.ConnectionTimeoutError):
            return Verdict(False, False)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Verdict(False, not _unreachable(error), f"{endpoint}: {_reason(error)}")
        if response.status == 200:
            return Verdict(True, True)
        failure = messages.failure(data, response.status)
        answered = isinstance(failure, TokenRefused | Refused | Compacted) or (
            isinstance(failure, NotCarriedOut) and failure.waiting
        )
        if answered and not isinstance(failure, CertificateRefused):
            return Verdict(True, True)
        return Verdict(False, True, f"{endpoint}: {failure}")

    async def _post(
        self,
        endpoint: str,
        path: str,
        body: bytes,
        decoder: msgspec.json.Decoder[T],
        token: str | None,
        seconds: float,
        tls: Tls,
    ) -> T:
        sent = _Sent()
        try:
            request = self._request(endpoint, path, body, token, sent, tls.context)
            async with asyncio.timeout(seconds), request as response:
                data = await response.read()
        except aiohttp.ClientSSLError as error:
            raise HandshakeRefused(_reason(error)) from None
        except aiohttp.ConnectionTimeoutError:
            raise self._failed(sent, f"no connection within {self._connect:g} s") from None
        except TimeoutError:
            reason = f"no answer within {seconds:g} s"
            raise (Unanswered(reason) if sent.sent else NotCarriedOut(reason)) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # With TLS 1.3 a server refuses the client's certificate after the client has finished its handshake
            # (RFC 8446 4.4.2.4): the connection simply ends.
            self.renewal.trouble()
            raise self._failed(sent, _reason(error)) from None
        if response.status != 200:
            raise messages.failure(data, response.status)
        try:
            return decoder.decode(data)
        except UNDECODABLE as error:
            raise Unknown(f"an answer that is not etcd's: {error}") from None

    @asynccontextmanager
    async def stream(self, endpoint: str, body: bytes) -> AsyncIterator[aiohttp.StreamReader]:
        """The lines of a watch at ``endpoint``. Raises one of :mod:`messages`' failures."""
        tls = await self.renewal.tls()
        token = await self._current_token(endpoint, tls)
        try:
            async with self._request(endpoint, "/v3/watch", body, token, _Sent(), tls.context) as response:
                if response.status != 200:
                    raise messages.failure(await response.read(), response.status)
                yield response.content
        except aiohttp.ConnectionTimeoutError:
            # The same text as for a request, so that the log has a repeated failure only once.
            raise Unknown(f"no connection within {self._connect:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unknown(_reason(error)) from None

    def token_refused(self) -> None:
        """A stream was refused because of its token: get a new one for the next."""
        self._token = None

    def _request(
        self,
        endpoint: str,
        path: str,
        body: bytes,
        token: str | None,
        sent: _Sent,
        context: ssl.SSLContext | None,
        *,
        last: bool = False,
    ) -> aiohttp.client._RequestContextManager:
        """``last``: the connection ends with the answer."""
        if self._session is None:
            trace = aiohttp.TraceConfig()
            trace.on_request_headers_sent.append(_mark)
            trace.on_connection_create_start.append(self._connects)
            # Idle connections are kept for long, because probes and beats use them continually.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect),
                headers=_REQUIRE_LEADER,
                skip_auto_headers=("User-Agent",),
                auto_decompress=False,
                trace_configs=[trace],
            )
        headers = {"Authorization": token} if token else {}
        if last:
            headers["Connection"] = "close"
        return self._session.post(
            f"{'http' if context is None else 'https'}://{endpoint}{path}",
            data=body,
            headers=headers,
            ssl=True if context is None else context,
            trace_request_ctx=sent,
            allow_redirects=False,
        )

    async def _connects(self, *_: object) -> None:
        self.renewal.touch()

    @staticmethod
    def _failed(sent: _Sent, reason: str) -> messages.Failure:
        return Unknown(reason) if sent.sent else NotCarriedOut(reason)

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        if self._doubting is not None:
            self._doubting.cancel()
            await asyncio.gather(self._doubting, return_exceptions=True)
        await self.renewal.close()
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()


def _unreachable(error: BaseException) -> bool:
    """Whether a connection failed before the other end could respond."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return True
    # A reset comes from an end that responds, though perhaps not with TLS.
    return isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno in (
        errno.ECONNREFUSED,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.ETIMEDOUT,
    )


def _reason(error: BaseException) -> str:
    """``error`` in few words, without facts that the caller adds."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            cause = error.certificate_error
            return f"its certificate is refused: {getattr(cause, 'verify_message', '') or cause}"
        case aiohttp.ClientConnectorDNSError():
            return f"host name not found: {error.os_error.strerror or error.os_error}"
        case aiohttp.ClientConnectorError():
            # asyncio's text differs for each address; the number identifies the cause.
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
