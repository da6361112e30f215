"""Certificates, the authority and passwords that change while a store is in use, with etcd restarted after each change.

The load is a commit every 20 ms, as many nodes' beats are: what fails or waits is counted.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from locum.store.etcd import EtcdStore
from locum.store.etcd_options import EtcdOptions
from tests.lab.store.certificates import Authority
from tests.lab.store.etcd import Cluster
from tests.lab.store.etcd_clients import Beats, with_authentication
from tests.unit.store.harness import Watched, asynchronous, until

pytestmark = [pytest.mark.lab, pytest.mark.long]


class Site:
    """Three members and a client: their files, and what is put there."""

    def __init__(self, directory: Path, members: int = 3) -> None:
        self.directory = directory
        for name in ("server", "client"):
            (directory / name).mkdir()
        self.old = Authority(directory / "old", "old")
        self.new = Authority(directory / "new", "new")
        self.put("server", self.old, trusted=(self.old,))
        self.put("client", self.old, trusted=(self.old,))
        (directory / "password").write_text("secret\n")
        self.options = EtcdOptions(
            ca=f"{directory}/client/ca.pem",
            cert=f"{directory}/client/cert.pem",
            key=f"{directory}/client/key.pem",
            attempt_timeout=1.0,
            watch_idle=1.0,
            probe_interval=0.2,
        )
        server = directory / "server"
        self.cluster = Cluster(
            directory,
            members,
            extra=(
                *("--cert-file", f"{server}/cert.pem", "--key-file", f"{server}/key.pem"),
                *("--client-cert-auth", "--trusted-ca-file", f"{server}/ca.pem"),
            ),
            scheme="https",
        )
        self.notes: list[str] = []
        self.warnings: tuple[str, ...] = ()

    def put(self, whose: str, signer: Authority | None = None, *, trusted: tuple[Authority, ...] = ()) -> None:
        """Give ``whose`` directory a pair from ``signer``, and the authorities that are ``trusted``."""
        place = self.directory / whose
        if signer is not None:
            # Without a common name, which etcd's gateway refuses beside passwords.
            pair = signer.issue(f"{whose}-{time.monotonic_ns()}", common_name=False)
            for source, name in zip(pair, ("cert.pem", "key.pem"), strict=True):
                shutil.copy(source, place / f"{name}.part")
                (place / f"{name}.part").replace(place / name)
        if trusted:
            (place / "ca.part").write_bytes(b"".join(a.certificate.read_bytes() for a in trusted))
            (place / "ca.part").replace(place / "ca.pem")

    async def restart_members(self) -> None:
        """All members, one after the other, as an admin does."""
        for member in self.cluster.members:
            member.kill()
            self.cluster.start_member(member)
            await self.cluster.ready(self.options)

    @asynccontextmanager
    async def store(self, options: EtcdOptions | None = None) -> AsyncIterator[EtcdStore]:
        """A store in use; what it says goes to ``notes`` and ``warnings``."""
        store = EtcdStore(self.cluster.endpoints, options if options is not None else self.options)

        def warn(texts: tuple[str, ...]) -> None:
            self.warnings = texts

        store.watch_credentials(self.notes.append, warn)
        try:
            yield store
        finally:
            await store.close()

    async def reread(self, what: str) -> None:
        """Wait until ``what`` was read again, by itself."""
        await until(lambda: any(note.startswith(f"read again: {what}") for note in self.notes))
        self.notes.clear()


@asynchronous
async def test_rotation_of_everything_while_members_restart(tmp_path: Path) -> None:
    site = Site(tmp_path)
    try:
        await site.cluster.start(site.options)
        async with site.store() as store:
            beats, watch = Beats(store), Watched(store, "", 1)
            await beats.go_on()
            # Nodes and members trust both; then both get new certificates; then both trust the new authority alone.
            site.put("client", trusted=(site.old, site.new))
            await site.reread("etcd's authority")
            site.put("server", trusted=(site.old, site.new))
            await site.restart_members()
            site.put("client", site.new)
            await site.reread("client certificate")
            site.put("server", site.new)
            await site.restart_members()
            site.put("client", trusted=(site.new,))
            await site.reread("etcd's authority")
            site.put("server", trusted=(site.new,))
            await site.restart_members()
            await beats.go_on()
            await watch.reaches(beats.confirmed[-1])
            await beats.stop()
            assert watch.error is None
            assert site.warnings == ()
            # A member that dies takes the answer to one commit along; nothing was refused for its credentials.
            assert not [failure for failure in beats.failures if "certificate" in failure], beats.failures
            assert len(beats.failures) <= 3 * len(site.cluster.members), beats.failures
    finally:
        site.cluster.stop()


@asynchronous
async def test_files_that_are_wrong_on_all_nodes_change_nothing_and_are_named(tmp_path: Path) -> None:
    site = Site(tmp_path, 1)
    try:
        await site.cluster.start(site.options)
        async with site.store() as store:
            beats = Beats(store)
            await beats.go_on()
            # An authority that is good in itself, and is not that of etcd.
            site.put("client", trusted=(site.new,))
            await until(lambda: any("not used, no endpoint accepts it" in text for text in site.warnings))
            (member,) = site.cluster.members
            await store.reread_credentials(site.options.files)
            await beats.go_on()
            before = len(beats.confirmed)
            member.kill()
            site.cluster.start_member(member)
            await until(lambda: len(beats.confirmed) > before + 10)
            site.put("client", trusted=(site.old,))
            await until(lambda: site.warnings == ())
            await beats.stop()
    finally:
        site.cluster.stop()


@asynchronous
async def test_a_renewal_that_is_missed_is_found_when_etcd_refuses_the_handshake(tmp_path: Path) -> None:
    """Both ends change at once, in the worst order: the members first."""
    site = Site(tmp_path, 1)
    try:
        await site.cluster.start(site.options)
        async with site.store() as store:
            beats = Beats(store)
            await beats.go_on()
            (member,) = site.cluster.members
            member.kill()
            site.put("server", site.new, trusted=(site.new,))
            site.cluster.start_member(member)
            await until(lambda: any("refused" in failure for failure in beats.failures))
            site.put("client", site.new, trusted=(site.new,))
            await beats.go_on()
            await beats.stop()
            assert any("client certificate" in note for note in site.notes)
    finally:
        site.cluster.stop()


# Passwords.


def with_password(site: Site) -> EtcdOptions:
    return msgspec.structs.replace(site.options, user="locum", password_file=f"{site.directory}/password")


def etcdctl_tls(site: Site) -> tuple[str, ...]:
    client = site.directory / "client"
    return "--cacert", f"{client}/ca.pem", "--cert", f"{client}/cert.pem", "--key", f"{client}/key.pem"


async def as_root(site: Site, *command: str) -> None:
    await site.cluster.etcdctl(
        *etcdctl_tls(site),
        *("--user", "root:rootpassword"),
        *command,
        endpoint=f"https://{site.cluster.members[0].endpoint}",
    )


async def change_password(site: Site, password: str) -> None:
    """As ``etcdctl user passwd`` does, which would read the password from a terminal."""
    root = msgspec.structs.replace(site.options, user="root", password_file=f"{site.directory}/root")
    (site.directory / "root").write_text("rootpassword\n")
    async with site.store(root) as store:
        await store.read("")
        # etcd hashes the password, which takes a busy machine its time.
        store._gateway._attempt = 30.0
        body = msgspec.json.encode({"name": "locum", "password": password})
        await store._gateway.ask(
            site.cluster.members[0].endpoint, "/v3/auth/user/changepw", body, msgspec.json.Decoder(dict[str, object])
        )


@asynchronous
async def test_a_new_password_under_load(tmp_path: Path) -> None:
    site = Site(tmp_path)
    try:
        await site.cluster.start(site.options)
        await with_authentication(site.cluster, *etcdctl_tls(site))
        async with site.store(with_password(site)) as store:
            beats, watch = Beats(store), Watched(store, "", 1)
            await beats.go_on()
            # The file first, then etcd. In between tokens may be lost: members restart.
            (tmp_path / "password").write_text("other\n")
            await site.reread("the password")
            store._gateway._token = None
            await beats.go_on()
            await until(lambda: any("still accepts the one before" in text for text in site.warnings))
            await change_password(site, "other")
            await beats.go_on()
            await until(lambda: site.warnings == ())
            assert beats.failures == []
            # Etcd first, then the file: an outage for as long as the file is late, and not a moment longer.
            await change_password(site, "third")
            await until(lambda: any("check user and password_file" in failure for failure in beats.failures))
            (tmp_path / "password").write_text("third\n")
            await beats.go_on()
            await watch.reaches(beats.confirmed[-1])
            await beats.stop()
            assert watch.error is None
            assert not [f for f in (*beats.failures, *site.notes) if "other" in f or "third" in f or "secret" in f]
    finally:
        site.cluster.stop()


@asynchronous
async def test_after_a_restore_a_token_of_before_is_given_up(tmp_path: Path) -> None:
    """The restored etcd counts anew, and keeps a request waiting until it has come to where the token was made."""
    site = Site(tmp_path, 1)
    options = with_password(site)
    try:
        await site.cluster.start(site.options)
        await with_authentication(site.cluster, *etcdctl_tls(site))
        async with site.store(options) as store:
            beats = Beats(store)
            await beats.go_on()
            await as_root(site, "snapshot", "save", str(tmp_path / "snapshot"))
            (member,) = site.cluster.members
            store._gateway._token = None
            await beats.go_on()
            member.kill()
            shutil.rmtree(member.directory)
            restore = await asyncio.create_subprocess_exec(
                *("etcdctl", "snapshot", "restore", str(tmp_path / "snapshot")),
                *("--name", member.name, "--data-dir", str(member.directory)),
                *("--initial-cluster", f"{member.name}={member.peer}", "--initial-advertise-peer-urls", member.peer),
                env={"PATH": "/usr/bin:/bin", "ETCDCTL_API": "3"},
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            assert await restore.wait() == 0
            site.cluster.start_member(member)
            await beats.go_on()
            await beats.stop()
    finally:
        site.cluster.stop()


@asynchronous
async def test_no_password_travels_in_clear_while_etcd_has_no_tls_yet(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, 1)
    (tmp_path / "password").write_text("secret\n")
    authority = Authority(tmp_path)
    store = EtcdStore(cluster.endpoints)
    try:
        await cluster.start()
        assert (await store.read("")).entries == ()
        new = EtcdOptions(ca=str(authority.certificate), user="locum", password_file=f"{tmp_path}/password")
        await with_authentication(cluster)
        await store.reread_credentials(new.files)
        with pytest.raises(Exception, match="without TLS, over which the password is not sent"):
            await store.read("")
        assert store._gateway._token is None
        assert any("no endpoint accepts it" in text for text in store.credential_warnings)
    finally:
        await store.close()
        cluster.stop()
