"""The etcd store when etcd wants certificates and passwords."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from locum.errors import StoreUnavailable, UsageError
from locum.store.base import Put
from locum.store.etcd import EtcdStore
from locum.store.etcd_options import EtcdOptions
from tests.lab.store.certificates import Authority
from tests.lab.store.etcd import Cluster
from tests.lab.store.etcd_clients import Beats, opened, running, with_authentication
from tests.unit.store.contract import put
from tests.unit.store.harness import PATIENCE, Watched, asynchronous, commit_when_possible

pytestmark = [pytest.mark.lab, pytest.mark.long]


# TLS.
def tls(directory: Path) -> tuple[Authority, tuple[str, ...]]:
    authority = Authority(directory / "tls")
    certificate, key = authority.issue("server")
    extra = (
        *("--cert-file", str(certificate), "--key-file", str(key)),
        *("--client-cert-auth", "--trusted-ca-file", str(authority.certificate)),
    )
    return authority, extra


@asynchronous
async def test_tls_with_client_certificates(tmp_path: Path) -> None:
    authority, extra = tls(tmp_path)
    certificate, key = authority.issue("client", hosts="DNS:client")
    stranger = Authority(tmp_path / "other", "other").issue("stranger")
    ca = str(authority.certificate)
    good = EtcdOptions(ca=ca, cert=str(certificate), key=str(key), attempt_timeout=2)
    async with running(tmp_path, 3, extra=extra, scheme="https", options=good) as cluster:
        async with opened(cluster.endpoints, good) as store:
            watch = Watched(store, "", (await store.read("")).revision)
            last = await put(store, "k")
            await watch.reaches(last)
            cluster.members[0].kill()
            last = await commit_when_possible(store, "k")
            await watch.reaches(last)
            assert watch.error is None
        endpoint = cluster.members[1].endpoint
        bad = [
            (EtcdOptions(ca=ca), "certificate required|bad certificate|connection"),
            (
                EtcdOptions(ca=ca, cert=str(stranger[0]), key=str(stranger[1])),
                "unknown ca|certificate|connection",
            ),
            (
                EtcdOptions(ca=str(tmp_path / "other" / "other.pem"), cert=str(certificate), key=str(key)),
                "its certificate is refused",
            ),
            (EtcdOptions(), "TLS|connection closed"),
        ]
        for options, complaint in bad:
            async with opened([endpoint], options) as store:
                with pytest.raises(StoreUnavailable, match=rf"{endpoint}: .*({complaint})"):
                    await store.read("")


@asynchronous
async def test_tls_checks_the_name(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    certificate, key = authority.issue("server", hosts="DNS:elsewhere.example")
    extra = ("--cert-file", str(certificate), "--key-file", str(key))
    cluster = Cluster(tmp_path, 1, extra=extra, scheme="https")
    (member,) = cluster.members
    cluster.start_member(member)
    try:
        async with opened(cluster.endpoints, EtcdOptions(ca=str(authority.certificate))) as store:
            async with asyncio.timeout(PATIENCE):
                while True:
                    with pytest.raises(StoreUnavailable) as caught:
                        await store.read("")
                    if "refused: IP address mismatch" in str(caught.value):
                        break
                    await asyncio.sleep(0.05)
    finally:
        cluster.stop()


@asynchronous
async def test_wrong_files_are_named(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("client")
    _, other_key = authority.issue("other")
    (tmp_path / "empty").write_text("")
    ca = str(authority.certificate)
    for options, complaint in [
        (EtcdOptions(ca=f"{tmp_path}/absent"), "ca .*/absent: no such file"),
        (EtcdOptions(ca=f"{tmp_path}/empty"), "ca .*/empty: "),
        (EtcdOptions(ca=ca, cert=str(certificate), key=str(other_key)), "cert .*client.pem with key .*other.key: "),
        (EtcdOptions(ca=ca, cert=f"{tmp_path}/absent", key=str(key)), "no such file"),
        (EtcdOptions(ca=ca, user="locum", password_file=f"{tmp_path}/absent"), "password_file .*/absent: no such file"),
        (EtcdOptions(ca=ca, user="locum", password_file=f"{tmp_path}/empty"), "first line is empty"),
    ]:
        async with opened(["127.0.0.1:1"], options) as store:
            with pytest.raises(StoreUnavailable, match=complaint):
                await store.read("")
            with pytest.raises(StoreUnavailable, match=complaint):
                await store.commit((), [Put("k", b"")])


def test_wrong_combinations_are_refused() -> None:
    for options, complaint in [
        (EtcdOptions(ca="/ca", cert="/cert"), "cert and key go together"),
        (EtcdOptions(ca="/ca", user="locum"), "user and password_file go together"),
        (EtcdOptions(user="locum", password_file="/password"), "allow_plain_password = true"),
    ]:
        with pytest.raises(UsageError, match=complaint):
            EtcdStore(["127.0.0.1:2379"], options)


@asynchronous
async def test_user_and_password(tmp_path: Path) -> None:
    for name, password in (("right", "secret"), ("wrong", "guess")):
        (tmp_path / name).write_text(f"{password}\nsecond line\n")
    plain = EtcdOptions(user="locum", password_file=f"{tmp_path}/right", allow_plain_password=True)
    options = msgspec.structs.replace(plain, attempt_timeout=1.0, watch_idle=1.0, probe_interval=0.2)
    async with running(tmp_path, 3) as cluster:
        await with_authentication(cluster)
        async with opened(cluster.endpoints, options) as store:
            watch = Watched(store, "", await put(store, "k"))
            last = await put(store, "k")
            await watch.reaches(last)
            for member in cluster.members:
                # A member that was restarted knows no token any more.
                member.kill()
                cluster.start_member(member)
                last = await commit_when_possible(store, "k")
                await watch.reaches(last)
            assert watch.error is None
            store._gateway._token = "not-a-token.1"
            assert (await store.read("")).entries
            assert (await store.commit((), [Put("k", b"")])).accepted
        for wrong, complaint in [
            (
                msgspec.structs.replace(plain, password_file=f"{tmp_path}/wrong"),
                "authentication failed.*check user and password_file",
            ),
            (EtcdOptions(), "configure user and password_file"),
            (msgspec.structs.replace(plain, prefix="/other/"), "permission denied"),
        ]:
            async with opened(cluster.endpoints, wrong) as store:
                with pytest.raises(StoreUnavailable, match=complaint):
                    await store.read("")
                with pytest.raises(StoreUnavailable, match=complaint):
                    await store.commit((), [Put("k", b"")])
                assert "etcd" in str(await Watched(store, "", 1).ends())


@asynchronous
async def test_users_beside_client_certificates(tmp_path: Path) -> None:
    """The gateway refuses a certificate with a common name then, and says why in a text that is easily missed."""
    authority, extra = tls(tmp_path)
    ca = str(authority.certificate)
    (tmp_path / "password").write_text("secret\n")

    def options(pair: tuple[Path, Path]) -> EtcdOptions:
        return EtcdOptions(
            ca=ca, cert=str(pair[0]), key=str(pair[1]), user="locum", password_file=str(tmp_path / "password")
        )

    named = authority.issue("client", hosts="DNS:client")
    nameless = authority.issue("nameless", hosts="DNS:client", common_name=False)
    plain = EtcdOptions(ca=ca, cert=str(named[0]), key=str(named[1]))
    async with running(tmp_path, 1, extra=extra, scheme="https", options=plain) as cluster:
        await with_authentication(cluster, "--cacert", ca, "--cert", str(named[0]), "--key", str(named[1]))
        async with opened(cluster.endpoints, options(named)) as store:
            with pytest.raises(StoreUnavailable, match=r"common name \(CN\); use one without"):
                await store.read("")
        async with opened(cluster.endpoints, options(nameless)) as store:
            watch = Watched(store, "", await put(store, "k"))
            last = await put(store, "k")
            await watch.reaches(last)


@asynchronous
async def test_authentication_that_is_enabled_later(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n")
    options = EtcdOptions(user="locum", password_file=f"{tmp_path}/password", allow_plain_password=True)
    async with running(tmp_path, 1) as cluster, opened(cluster.endpoints, options) as store:
        beats = Beats(store)
        await beats.go_on()
        assert "authentication is not enabled" in "".join(store.credential_warnings)
        await with_authentication(cluster)
        await beats.go_on()
        await beats.stop()
        assert beats.failures == []
        assert store.credential_warnings == ()
