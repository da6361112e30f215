"""Renewal of credentials while a store is in use.

Rules of this file: it knows when to read the files and which of two sets to use; :mod:`locum.store.credentials` reads
and judges them. It knows no HTTP: the ``trial`` that it is given finds out whether etcd accepts TLS settings.

Certificates and passwords live shorter than daemons. So the files are examined (a ``stat`` of each, in a separate
thread) every few seconds, when a connection is made, when an endpoint refuses a handshake, a token or a password, and
at a reload; they are read when they have changed. Then:

* TLS settings that differ from those in use are tried at every endpoint, on a separate connection, and used as soon
  as *one* accepts them. Until then the present ones stay in use, and a warning says why. So neither a half-written file
  nor the same wrong file on all nodes costs an address.
* When the client certificate in use is refused later, the previous one is tried again. An authority that was replaced
  is never trusted again once an endpoint has accepted its successor.
* A password is used for the next token. When etcd refuses it, the last working one is tried as well: so the file may
  have a new password before etcd does, and etcd may be restored to an older one.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from locum import tasks
from locum.store.credential_files import CredentialFiles
from locum.store.credentials import (
    Contents,
    Look,
    Pair,
    Secret,
    Stamp,
    context_of,
    described,
    endings,
    look,
    merge,
    stamp,
)
from locum.store.etcd.messages import Refused
from locum.threads import NoAnswer, Worker

#: Seconds between two looks at the files in normal operation.
LOOK_INTERVAL: Final = 5.0
#: Shortest time between two looks after a refusal, in seconds.
_TROUBLE_PAUSE: Final = 0.5
#: Longest wait for the file system, in seconds.
_PATIENCE: Final = 2.0


class Tls(NamedTuple):
    """TLS settings made from ``contents``; ``context`` is None without TLS."""

    contents: Contents
    context: ssl.SSLContext | None


class Verdict(NamedTuple):
    """The endpoints' verdict on TLS settings: ``accepted`` by at least one; if not, whether one was ``reached``."""

    accepted: bool
    reached: bool
    reason: str = ""


class Login(NamedTuple):
    """A user and a password."""

    user: str
    password: Secret


class Renewal:
    """The credentials of one store. ``trial`` finds out whether TLS settings are accepted; it never raises."""

    def __init__(self, files: CredentialFiles, trial: Callable[[ssl.SSLContext | None], Awaitable[Verdict]]) -> None:
        files.check()
        #: The paths.
        self.files = files
        self._trial = trial
        self._worker = Worker("credentials", room=4)
        self._stamp: Stamp | None = None
        self._seen: Look | None = None
        #: The last good contents of the files, and their present problems.
        self._contents: Contents | None = None
        self._problems: tuple[str, ...] = ()
        self._used: Tls | None = None
        #: The present contents while no endpoint has accepted them; and the reason.
        self._pending: Tls | None = None
        self._refusal = ""
        self._previous: Pair | None = None
        self._worked: Login | None = None
        self._login_note = ""
        self._troubled = False
        self._looking: asyncio.Task[None] | None = None
        self._looked = float("-inf")
        self._tracker: asyncio.Task[None] | None = None
        self._news: list[str] = []
        self._warned: tuple[str, ...] = ()
        #: Called with each line for the log.
        self.on_note: Callable[[str], None] = lambda _: None
        #: Called with all warnings when they have changed.
        self.on_warnings: Callable[[tuple[str, ...]], None] = lambda _: None

    async def tls(self) -> Tls:
        """The TLS settings to use. Raises Refused with the reason while the files are unusable."""
        if self._tracker is None or self._tracker.done():
            self._tracker = tasks.start(self._keep_looking(), "looking at etcd's credentials")
        if self._used is None:
            await self.look()
        if self._used is None:
            raise Refused("; ".join(self._problems).removeprefix("etcd: ") or "the credentials have not been read yet")
        return self._used

    async def reread(self, files: CredentialFiles) -> tuple[str, ...]:
        """Read the files again, possibly other ones; returns the changes since the last time, in words.

        Raises UsageError, without effect, for an invalid combination.
        """
        files.check()
        if self._looking is not None:
            await asyncio.wait([self._looking])
        self.files, self._stamp = files, None
        await self.look()
        news, self._news = tuple(self._news), []
        return news

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings for admins."""
        found = list(self._problems)
        if self._pending is not None and self._refusal:
            what = " and ".join(described(self._tls_of(self._used), self._tls_of(self._pending)))
            found.append(f"etcd: {what} not used, no endpoint accepts it: {self._refusal}; the old one stays")
        if self._login_note:
            found.append(self._login_note)
        if self._used is not None:
            found += endings(self._used.contents, time.time())
        return tuple(found)

    # -- passwords ---------------------------------------------------------------------------------------------

    def logins(self) -> list[Login]:
        """The logins to try for a token, the best first: the files' present one, then the last that etcd accepted."""
        found = []
        if self.files.user is not None and self._contents is not None and self._contents.password is not None:
            found.append(Login(self.files.user, self._contents.password))
            if self._worked is not None and self._worked not in found:
                found.append(self._worked)
        return found

    def accepted(self, login: Login) -> None:
        """etcd gave a token for ``login``."""
        wanted = self.logins()[:1]
        self._worked = login
        self._note_login(
            f"etcd refuses user {wanted[0].user} with the password in {self.files.password_file}; it still accepts"
            f" {'the one before' if wanted[0].user == login.user else login.user}, which stays in use"
            if wanted and wanted[0] != login
            else ""
        )

    def unneeded(self) -> None:
        """etcd needs no token: its authentication is not enabled."""
        self._note_login("etcd: user and password are configured, but its authentication is not enabled")

    def _note_login(self, text: str) -> None:
        if text != self._login_note:
            self._login_note = text
            self._tell()

    # -- looking -----------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Examine the files, read changed ones, and try them. Concurrent callers share one look."""
        if self._looking is None or self._looking.done():
            self._looking = tasks.start(self._look(), "reading etcd's credentials")
        # A cancelled caller must not end the look of the others.
        await asyncio.shield(self._looking)

    async def repair(self, refused: Tls) -> bool:
        """An endpoint refused ``refused``: look for better settings. Returns whether others are in use now."""
        self._troubled = True
        if self._used is refused and self._due():
            await self.look()
        return self._used is not refused

    def trouble(self) -> None:
        """A failure may be caused by credentials: look at them soon."""
        self._troubled = True
        self.touch()

    def touch(self) -> None:
        """A connection is being made: start a look at the credentials without waiting for it."""
        if self._due() and (self._looking is None or self._looking.done()):
            self._looking = tasks.start(self._look(), "reading etcd's credentials")

    def _due(self) -> bool:
        return asyncio.get_running_loop().time() - self._looked >= _TROUBLE_PAUSE

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            await self.look()

    async def _look(self) -> None:
        troubled, self._troubled = self._troubled, False
        try:
            await self._read()
            await self._settle(troubled)
        except NoAnswer as error:
            self._problems = (f"etcd: the files of its credentials cannot be read: {error}",)
        finally:
            self._looked = asyncio.get_running_loop().time()
            self._tell()

    async def _read(self) -> None:
        """Read the files. Raises NoAnswer."""
        files = self.files
        # Before the reading: changes in between are read the next time.
        now = await self._worker.run("looking at credentials", _PATIENCE, stamp, files)
        if now != self._stamp or self._seen is None:
            self._seen = await self._worker.run("reading credentials", _PATIENCE, look, files)
            self._stamp = now
        before = self._contents
        contents, self._problems = merge(self._contents, self._seen, time.time())
        if contents is None:
            return
        self._contents = contents
        if before is not None and contents.password != before.password:
            self._say(described(before._replace(authority=None, pair=None), Contents(password=contents.password)))

    async def _settle(self, troubled: bool) -> None:
        """Put the best TLS settings in use. Raises NoAnswer."""
        if self._contents is None:
            return
        newest = self._tls_of(self._contents)
        if self._used is None:
            self._used = await self._made(newest)
            return
        if newest == self._used.contents and (self._used.context is not None) == self.files.tls:
            self._pending, self._refusal = None, ""
        elif self._pending is None or self._pending.contents != newest:
            self._pending, self._refusal = await self._made(newest), ""
        if self._pending is not None:
            verdict = await self._trial(self._pending.context)
            if verdict.accepted:
                self._say(described(self._used.contents, self._pending.contents) or ("TLS settings",))
                self._previous = self._used.contents.pair
                self._used, self._pending, self._refusal = self._pending, None, ""
                return
            self._refusal = verdict.reason if verdict.reached else self._refusal
        if troubled and self._pending is None and self._previous not in (None, self._used.contents.pair):
            await self._go_back(self._used)

    async def _go_back(self, used: Tls) -> None:
        """Return to the previous client certificate if etcd accepts it and no longer the present one."""
        verdict = await self._trial(used.context)
        if verdict.accepted or not verdict.reached:
            return
        before = await self._made(used.contents._replace(pair=self._previous))
        if before is not None and (await self._trial(before.context)).accepted:
            self._used, self._previous = before, None
            self._pending, self._refusal = used, verdict.reason

    async def _made(self, contents: Contents) -> Tls | None:
        if not self.files.tls:
            return Tls(contents, None)
        try:
            context = await self._worker.run("making TLS settings", _PATIENCE, context_of, contents)
        except (ssl.SSLError, OSError) as error:
            self._problems = (*self._problems, f"etcd: TLS settings: {error}")
            return None
        return Tls(contents, context)

    @staticmethod
    def _tls_of(what: Tls | Contents | None) -> Contents:
        """The part that concerns TLS."""
        contents = what.contents if isinstance(what, Tls) else what
        return Contents() if contents is None else contents._replace(password=None)

    # -- telling -----------------------------------------------------------------------------------------------

    def _say(self, what: tuple[str, ...]) -> None:
        for text in what:
            self._news.append(f"read again: {text}")
            self.on_note(f"read again: {text}")

    def _tell(self) -> None:
        if (warnings := self.warnings) != self._warned:
            self._warned = warnings
            self.on_warnings(warnings)

    async def close(self) -> None:
        """End all looks. Idempotent."""
        tasks = [task for task in (self._tracker, self._looking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._worker.close()
