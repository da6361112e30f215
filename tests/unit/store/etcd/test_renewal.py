"""Which TLS settings and passwords are used when: the decisions, with an etcd that says yes or no as the test wants."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from pathlib import Path

import pytest

from locum.errors import StoreUnavailable, UsageError
from locum.store.credential_files import CredentialFiles
from locum.store.credentials import Secret
from locum.store.etcd import EtcdStore, renewal
from locum.store.etcd.messages import Refused, from_the_future
from locum.store.etcd.renewal import Login, Renewal, Verdict
from locum.store.etcd_options import EtcdOptions
from tests.lab.store.certificates import Authority
from tests.unit.store.harness import asynchronous, until

NO = Verdict(False, True, "m1: its certificate is refused")
YES = Verdict(True, True)
AWAY = Verdict(False, False)

Signed = tuple[Authority, list[tuple[Path, Path]]]


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    authority = Authority(tmp_path_factory.mktemp("tls"))
    return authority, [authority.issue(name) for name in ("first", "second")]


class Scene:
    """A renewal whose endpoints give the answers in ``verdicts``, the last one for ever."""

    def __init__(self, directory: Path, signed: Signed) -> None:
        self.authority, self.pairs = signed
        self.files = CredentialFiles(
            f"{directory}/ca.pem", f"{directory}/n.pem", f"{directory}/n.key", "locum", f"{directory}/password"
        )
        shutil.copy(self.authority.certificate, f"{directory}/ca.pem")
        self.password = directory / "password"
        self.password.write_text("one\n")
        self.put(0)
        self.verdicts = [YES]
        self.tried: list[ssl.SSLContext | None] = []
        self.notes: list[str] = []
        self.told: list[tuple[str, ...]] = []
        self.renewal = Renewal(self.files, self._try)
        self.renewal.on_note = self.notes.append
        self.renewal.on_warnings = self.told.append

    def put(self, number: int, *, key_only: bytes | None = None) -> None:
        """Put a pair where the node reads it; or only a key, with that content."""
        assert self.files.key is not None
        if key_only is not None:
            Path(self.files.key).write_bytes(key_only)
            return
        for source, place in zip(self.pairs[number], (self.files.cert, self.files.key), strict=True):
            assert place is not None
            shutil.copy(source, place)

    async def _try(self, context: ssl.SSLContext | None) -> Verdict:
        self.tried.append(context)
        return self.verdicts.pop(0) if len(self.verdicts) > 1 else self.verdicts[0]


@pytest.fixture
def scene(tmp_path: Path, signed: Signed) -> Scene:
    return Scene(tmp_path, signed)


@asynchronous
async def test_at_the_start_there_is_nothing_to_lose_and_nothing_is_tried(scene: Scene) -> None:
    assert (await scene.renewal.tls()).context is not None
    assert scene.tried == []
    await scene.renewal.close()


@asynchronous
async def test_new_settings_are_used_when_an_endpoint_has_accepted_them(scene: Scene) -> None:
    before = await scene.renewal.tls()
    scene.put(1)
    scene.verdicts = [AWAY, NO, YES]
    await scene.renewal.look()
    # An etcd that is away says nothing about them: no warning.
    assert (await scene.renewal.tls(), scene.renewal.warnings) == (before, ())
    await scene.renewal.look()
    (warning,) = scene.renewal.warnings
    assert "no endpoint accepts it: m1: its certificate is refused; the old one stays" in warning
    assert await scene.renewal.tls() is before
    await scene.renewal.look()
    assert await scene.renewal.tls() is not before
    assert scene.told == [(warning,), ()]
    (note,) = scene.notes
    assert note.startswith(f"read again: client certificate {scene.files.cert} (valid until 20")
    await scene.renewal.close()


@asynchronous
async def test_files_that_are_as_before_are_not_tried_again(scene: Scene) -> None:
    await scene.renewal.tls()
    scene.put(0)
    assert await scene.renewal.reread(scene.files) == ()
    assert (scene.tried, scene.notes) == ([], [])
    await scene.renewal.close()


@asynchronous
async def test_what_was_read_since_the_last_reload_is_said_by_the_next(scene: Scene) -> None:
    await scene.renewal.tls()
    scene.put(1)
    scene.password.write_text("two\n")
    await scene.renewal.look()
    said = await scene.renewal.reread(scene.files)
    assert [text.split(" /")[0] for text in said] == [
        "read again: the password for etcd",
        "read again: client certificate",
    ]
    assert await scene.renewal.reread(scene.files) == ()
    await scene.renewal.close()


@asynchronous
async def test_a_certificate_that_is_refused_later_gives_way_to_the_one_before(scene: Scene, tmp_path: Path) -> None:
    """Its authority does not: what was removed from the file is not trusted again."""
    await scene.renewal.tls()
    scene.put(1)
    shutil.copy(Authority(tmp_path, "new").certificate, f"{tmp_path}/ca.pem")
    await scene.renewal.look()
    second = await scene.renewal.tls()
    scene.verdicts = [NO, YES]
    assert not await scene.renewal.repair(second), "the files were looked at a moment ago"
    scene.renewal._looked = float("-inf")
    assert await scene.renewal.repair(second)
    first = await scene.renewal.tls()
    assert first.contents.pair != second.contents.pair
    assert first.contents.authority == second.contents.authority
    assert "the old one stays" in scene.renewal.warnings[0]
    # And back, as soon as it is accepted.
    scene.verdicts = [YES]
    await scene.renewal.look()
    assert await scene.renewal.tls() is second
    await scene.renewal.close()


@asynchronous
async def test_unusable_files_at_the_start_are_named_and_read_when_they_are_there(scene: Scene) -> None:
    """An agent that is started anew in the middle of a renewal must not give up."""
    scene.password.write_text("")
    with pytest.raises(Refused, match=r"^password_file .*/password: its first line is empty$"):
        await scene.renewal.tls()
    scene.password.write_text("one\n")
    assert (await scene.renewal.tls()).context is not None
    await scene.renewal.close()


@asynchronous
async def test_files_are_looked_at_without_a_reason_too(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewal, "LOOK_INTERVAL", 0.01)
    before = await scene.renewal.tls()
    scene.put(1)
    await until(lambda: bool(scene.notes))
    assert await scene.renewal.tls() is not before
    await scene.renewal.close()


@asynchronous
async def test_a_file_system_that_hangs_keeps_nothing_but_the_look_waiting(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await scene.renewal.tls()
    release = asyncio.Event()
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(renewal, "_PATIENCE", 0.05)
    monkeypatch.setattr(
        renewal, "stamp", lambda _: asyncio.run_coroutine_threadsafe(release.wait(), loop).result() and ()
    )
    await scene.renewal.look()
    assert "cannot be read: looking at credentials: no answer within 0.05 s" in scene.renewal.warnings[0]
    assert await scene.renewal.tls() is before
    release.set()
    await scene.renewal.close()


@asynchronous
async def test_a_new_password_is_tried_first_and_the_one_that_worked_next(scene: Scene) -> None:
    await scene.renewal.tls()
    one, two = Login("locum", Secret("one")), Login("locum", Secret("two"))
    assert scene.renewal.logins() == [one]
    scene.renewal.accepted(one)
    scene.password.write_text("two\n")
    await scene.renewal.look()
    assert scene.renewal.logins() == [two, one]
    scene.renewal.accepted(one)
    (warning,) = scene.renewal.warnings
    assert "refuses user locum with the password in" in warning
    assert "the one before, which stays in use" in warning
    scene.renewal.accepted(two)
    assert (scene.renewal.logins(), scene.renewal.warnings) == ([two], ())
    await scene.renewal.close()


@asynchronous
async def test_a_reload_with_a_wrong_combination_changes_nothing(scene: Scene) -> None:
    before = await scene.renewal.tls()
    with pytest.raises(UsageError, match="sent unencrypted"):
        await scene.renewal.reread(CredentialFiles(user="locum", password_file=scene.files.password_file))
    assert scene.renewal.files == scene.files
    assert await scene.renewal.tls() is before
    await scene.renewal.close()


@pytest.mark.parametrize(
    ("token", "applied", "waits"),
    [
        ("COLVRGNgEpNDpUmC.42", 41, True),
        ("COLVRGNgEpNDpUmC.42", 42, False),
        ("COLVRGNgEpNDpUmC.42", 0, False),
        ("eyJhbGciOiJSUzI1NiJ9.eyJleHAiOjE3OTU3ODAzODF9.TVhMcX8uJvZ", 5, False),
        ("", 5, False),
        ("x.", 5, False),
    ],
)
def test_a_token_from_the_future(token: str, applied: int, waits: bool) -> None:
    assert from_the_future(token, applied) == waits


@asynchronous
async def test_a_node_without_its_store_says_what_is_wrong_with_its_files(scene: Scene) -> None:
    """It cannot tell the other nodes; its own status shows why the store does not answer."""
    options = EtcdOptions(ca=scene.files.ca, cert=scene.files.cert, key=scene.files.key)
    store = EtcdStore(["127.0.0.1:1"], options)
    with pytest.raises(StoreUnavailable) as caught:
        await store.read("")
    assert "key" not in str(caught.value)
    scene.put(0, key_only=b"")
    await store.reread_credentials(options.files)
    with pytest.raises(StoreUnavailable, match=r"connection refused.*the last good one stays in use"):
        await store.read("")
    await store.close()
