"""Which credentials are used after a look at their files, and what is said about them."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from locum.errors import UsageError
from locum.store.credential_files import CredentialFiles
from locum.store.credentials import (
    Contents,
    Secret,
    context_of,
    described,
    ended,
    endings,
    look,
    merge,
    read_authority,
    read_pair,
    read_password,
    stamp,
)
from tests.lab.store.certificates import Authority

DAY = 86400.0


class Scene(NamedTuple):
    """Files of a node, and certificates to put there."""

    files: CredentialFiles
    authority: Authority
    first: tuple[Path, Path]
    second: tuple[Path, Path]

    def put(self, *, cert: Path | None = None, key: Path | None = None, ca: Path | None = None) -> None:
        """Copy files to where the node reads them."""
        for source, place in ((cert, self.files.cert), (key, self.files.key), (ca, self.files.ca)):
            if source is not None:
                assert place is not None
                shutil.copy(source, place)

    def contents(self, now: float | None = None) -> Contents:
        """What the files say; they are good."""
        contents, problems = merge(None, look(self.files), time.time() if now is None else now)
        assert contents is not None
        assert problems == ()
        return contents


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, tuple[Path, Path], tuple[Path, Path]]:
    authority = Authority(tmp_path_factory.mktemp("tls"))
    return authority, authority.issue("first", days=100), authority.issue("second", days=200)


@pytest.fixture
def scene(tmp_path: Path, signed: tuple[Authority, tuple[Path, Path], tuple[Path, Path]]) -> Scene:
    files = CredentialFiles(
        f"{tmp_path}/ca.pem", f"{tmp_path}/n.pem", f"{tmp_path}/n.key", "locum", f"{tmp_path}/password"
    )
    found = Scene(files, *signed)
    found.put(cert=found.first[0], key=found.first[1], ca=found.authority.certificate)
    (tmp_path / "password").write_text("hunter2\nsecond line\n")
    return found


def test_good_files_are_used_whole(scene: Scene) -> None:
    contents = scene.contents()
    assert contents.password == Secret("hunter2")
    assert described(None, contents)[2] == "the password for etcd"
    context = context_of(contents)
    assert context.check_hostname
    assert [c["subject"] for c in context.get_ca_certs()] == [((("commonName", "authority"),),)]


@pytest.mark.parametrize("half", ["cert", "key"])
def test_a_pair_that_does_not_fit_stays_as_it_was_last_good(scene: Scene, half: str) -> None:
    """A renewal writes one file after the other, in whatever order."""
    before = scene.contents()
    cert, key = scene.second
    scene.put(**{half: cert if half == "cert" else key})
    now, problems = merge(before, look(scene.files), time.time())
    assert now == before
    assert problems == (
        f"etcd: cert {scene.files.cert} with key {scene.files.key}: the key belongs to another certificate;"
        " the last good one stays in use",
    )
    scene.put(cert=cert, key=key)
    after, problems = merge(before, look(scene.files), time.time())
    assert problems == ()
    assert after is not None
    assert after.pair != before.pair
    assert "(valid until " in described(before, after)[0]


@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\nMIIB", b"\xff\xfe"])
@pytest.mark.parametrize("which", ["ca", "cert", "key"])
def test_a_file_that_is_half_written_changes_nothing_else(scene: Scene, which: str, content: bytes) -> None:
    before = scene.contents()
    Path(getattr(scene.files, which)).write_bytes(content)
    assert scene.files.password_file is not None
    Path(scene.files.password_file).write_text("new\n")
    now, (problem,) = merge(before, look(scene.files), time.time())
    assert now == before._replace(password=Secret("new"))
    assert str(getattr(scene.files, which)) in problem
    assert merge(None, look(scene.files), time.time())[0] is None


def test_a_certificate_out_of_its_time_does_not_replace_one_that_is_valid(scene: Scene) -> None:
    before = scene.contents()
    scene.put(cert=scene.second[0], key=scene.second[1])
    later = time.time() + 150 * DAY
    # The old one has ended; or neither is valid yet, as after a start with a clock that was reset.
    assert merge(before, look(scene.files), later)[0] == scene.contents(later)
    assert merge(before, look(scene.files), time.time() - DAY)[0] == scene.contents()
    longer = scene.contents(later)
    scene.put(cert=scene.first[0], key=scene.first[1])
    kept, (problem,) = merge(longer, look(scene.files), later)
    assert kept == longer
    assert "has ended; the last good one stays in use" in problem


def test_what_ends_soon_or_has_ended_is_said_with_its_day(scene: Scene) -> None:
    contents, now = scene.contents(), time.time()
    assert endings(contents, now) == ()
    assert not ended(contents, now)
    (soon,) = endings(contents, now + 71 * DAY)
    assert soon.startswith(f"client certificate {scene.files.cert} ends on 20")
    # The same text on every day until then: what changes is written to the store and logged.
    assert endings(contents, now + 80 * DAY) == (soon,)
    (over,) = endings(contents, now + 101 * DAY)
    assert " ended on " in over
    assert ended(contents, now + 101 * DAY)
    early = endings(contents, now - DAY)
    assert any("is the clock right?" in text for text in early)
    assert any("etcd's authority" in text for text in endings(contents, now + 720 * DAY))


def test_an_authority_that_takes_over_ends_with_the_later_one(tmp_path: Path, scene: Scene) -> None:
    old, new = read_authority(str(scene.authority.certificate)), Authority(tmp_path, "new").certificate
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(old.pem + new.read_bytes())
    both = read_authority(str(bundle))
    assert len(both.certificates) == 2
    assert both.until == max(old.until, read_authority(str(new)).until)


def test_a_file_that_is_replaced_is_noticed_by_its_status(scene: Scene) -> None:
    before = stamp(scene.files)
    assert stamp(scene.files) == before
    assert scene.files.key is not None
    status = os.stat(scene.files.key)
    content = Path(scene.files.key).read_bytes()
    Path(scene.files.key + ".new").write_bytes(content)
    # Same size and times, as 'cp --preserve' leaves them.
    os.utime(scene.files.key + ".new", ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(scene.files.key + ".new", scene.files.key)
    assert stamp(scene.files) != before
    os.unlink(scene.files.key)
    assert stamp(scene.files)[2] is None


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked(scene: Scene, tmp_path: Path) -> None:
    encrypted = tmp_path / "encrypted.key"
    command = ["openssl", "ec", "-aes256", "-passout", "pass:x", "-in", str(scene.first[1]), "-out", str(encrypted)]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(UsageError, match=r"encrypted\.key: it is encrypted, and a daemon cannot ask for a passphrase"):
        read_pair(str(scene.first[0]), str(encrypted))


def test_the_password_shows_itself_nowhere(scene: Scene, tmp_path: Path) -> None:
    contents = scene.contents()
    seen = look(scene.files)
    for shown in (
        repr(contents),
        repr(seen),
        str(contents.password),
        f"{contents.password!r}",
        repr(described(None, contents)),
    ):
        assert "hunter2" not in shown
    assert "PRIVATE KEY" not in repr(contents)
    bad = tmp_path / "bad"
    bad.write_bytes(b"hunter2\xff\n")
    with pytest.raises(UsageError) as caught:
        read_password(str(bad))
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        (CredentialFiles(cert="/c"), "cert and key go together"),
        (CredentialFiles(ca="/c", user="u"), "user and password_file go together"),
        (CredentialFiles(user="u", password_file="/p"), "sent unencrypted.*allow_plain_password = true"),
    ],
)
def test_combinations_that_cannot_be_used(files: CredentialFiles, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        files.check()
    CredentialFiles(user="u", password_file="/p", allow_plain_password=True).check()
    CredentialFiles(ca="/c", user="u", password_file="/p").check()
