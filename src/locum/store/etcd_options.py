"""The settings of an etcd store.

Rules of this file: values only, and light to import; the engine (:mod:`locum.store.etcd`) loads aiohttp.
"""

from __future__ import annotations

import msgspec

from locum.store.credential_files import CredentialFiles


class EtcdOptions(CredentialFiles, frozen=True):
    """The options of an etcd store besides its endpoints.

    ``prefix`` goes before every key, so that several clusters and other programs can share one etcd.

    Times in seconds. ``timeout`` bounds a call, ``attempt_timeout`` one request to one endpoint, ``connect_timeout``
    the connection for it (with TLS). TCP repeats a lost first packet only after a second, so once the network is back a
    new connection is faster than waiting. An endpoint without an answer for ``suspect_after`` is passed over by later
    requests, while its answer is still awaited. ``watch_idle``: a watch that is silent for this time is started
    elsewhere as well. ``probe_interval``: between two probes of an unused endpoint.
    """

    prefix: str = "/locum/"
    timeout: float = 5.0
    attempt_timeout: float = 2.0
    connect_timeout: float = 2.0
    suspect_after: float = 0.2
    watch_idle: float = 0.8
    probe_interval: float = 1.0

    def paced(self, hold: float) -> EtcdOptions:
        """These options with times that suit a ``hold`` in seconds.

        A node beats five times per hold, at least every half second (:mod:`locum.rules.hold`). An endpoint that hangs
        must cost it only one beat, and its watch must be trusted again before observers expire the node.
        """
        interval = min(hold / 5, 0.5)
        return msgspec.structs.replace(
            self,
            attempt_timeout=max(hold, 1.0),
            connect_timeout=max(interval, 0.25),
            suspect_after=interval / 2,
            watch_idle=max(2 * interval, 0.1),
            probe_interval=max(interval, 0.2),
        )

    @property
    def files(self) -> CredentialFiles:
        """The paths of the credentials."""
        return CredentialFiles(self.ca, self.cert, self.key, self.user, self.password_file, self.allow_plain_password)
