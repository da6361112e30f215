"""The files of a store's credentials, and the valid combinations.

Rules of this file: pure, and light to import, because checks of a configuration use it. :mod:`locum.store.credentials`
reads the files.
"""

from __future__ import annotations

from typing import Final

import msgspec

from locum.errors import UsageError

#: Why user and password are refused without TLS.
PLAIN_PASSWORD: Final = (
    "user and password would be sent unencrypted: configure ca (or cert and key), or set allow_plain_password = true"
)


class CredentialFiles(msgspec.Struct, frozen=True):
    """Paths of credentials. ``ca``, ``cert`` and ``key`` are PEM files; any of them turns TLS on. ``user`` goes with
    ``password_file`` (its first line), which is sent without TLS only if ``allow_plain_password``."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    user: str | None = None
    password_file: str | None = None
    allow_plain_password: bool = False

    @property
    def tls(self) -> bool:
        """Whether the store uses TLS."""
        return bool(self.ca or self.cert or self.key)

    def check(self) -> None:
        """Raise UsageError for an invalid combination."""
        if (self.cert is None) != (self.key is None):
            raise UsageError("etcd: cert and key go together")
        if (self.user is None) != (self.password_file is None):
            raise UsageError("etcd: user and password_file go together")
        if self.user is not None and not self.tls and not self.allow_plain_password:
            raise UsageError(f"etcd: {PLAIN_PASSWORD}")
