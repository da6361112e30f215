"""What check-config, doctor and a starting daemon say of credentials."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from locum.config.credentials import examine
from locum.config.environment import check_environment, environment_warnings
from locum.config.load import parse
from locum.config.model import Settings
from locum.doctor.machine import credential_findings
from locum.errors import ConfigError
from tests.lab.store.certificates import Authority

DAY = 86400.0


class Files:
    """A node's files in ``directory``, all good at first."""

    def __init__(self, directory: Path, authority: Authority) -> None:
        self.directory = directory
        self.authority = authority
        self.put("n1", common_name=False)
        shutil.copy(authority.certificate, directory / "ca.pem")
        self.password = directory / "password"
        self.password.write_text("secret\n")
        self.password.chmod(0o600)

    def put(self, name: str, *, common_name: bool, days: int = 365) -> None:
        pair = self.authority.issue(name, common_name=common_name, days=days)
        for source, target in zip(pair, ("cert.pem", "key.pem"), strict=True):
            shutil.copy(source, self.directory / target)
            (self.directory / target).chmod(0o600)

    @property
    def settings(self) -> Settings:
        at = self.directory
        return parse(
            f'[cluster]\nstore = "etcd://h"\n[cluster.etcd]\nca = "{at}/ca.pem"\ncert = "{at}/cert.pem"\n'
            f'key = "{at}/key.pem"\nuser = "locum"\npassword_file = "{self.password}"\n',
            f"{at}/locum.toml",
        )

    def said(self) -> list[tuple[str, str]]:
        return [(remark.kind, remark.text) for remark in examine(self.settings) if remark.kind != "good"]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path, Authority(tmp_path / "authority"))


def test_good_files_are_named_with_their_last_day(files: Files) -> None:
    assert files.said() == []
    assert [remark.text.split(" /")[0] for remark in examine(files.settings)] == [
        "etcd's authority",
        "client certificate",
        "the password for etcd",
    ]


def test_a_key_that_does_not_fit_keeps_a_daemon_from_starting(files: Files) -> None:
    shutil.copy(files.authority.issue("other")[1], files.directory / "key.pem")
    (problem,) = [text for text in check_environment(files.settings) if "cluster.etcd" in text]
    assert problem.endswith("key.pem: the key belongs to another certificate")
    # A daemon that runs goes on with what was last good.
    assert not any("cluster.etcd" in text for text in check_environment(files.settings, with_credentials=False))
    assert [finding.level for finding in credential_findings(files.settings)] == ["problem"]


def test_a_certificate_that_ends_is_told_early_and_one_that_has_ended_as_a_problem(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.put("short", common_name=False, days=29)
    assert [(kind, "ends on" in text) for kind, text in files.said()] == [("warning", True)]
    assert any("ends on" in text for text in environment_warnings(files.settings))
    later = time.time() + 30 * DAY
    monkeypatch.setattr("time.time", lambda: later)
    assert [(kind, "ended on" in text) for kind, text in files.said()] == [("ended", True)]
    assert not any("ended" in text for text in check_environment(files.settings)), "a wrong clock must not stop a start"
    assert "problem" in [finding.level for finding in credential_findings(files.settings)]


@pytest.mark.parametrize(("name", "word"), [("password", "the password"), ("key.pem", "the key")])
@pytest.mark.parametrize(("mode", "told"), [(0o600, False), (0o640, True), (0o604, True)])
def test_what_others_can_read_is_told(files: Files, name: str, word: str, mode: int, told: bool) -> None:
    path = files.directory / name
    path.chmod(mode)
    if os.geteuid() == 0:
        os.chown(path, 0, 12345)
    elif mode == 0o640 and os.getegid() == 0:
        pytest.skip("its group is root's")
    assert [text for _, text in files.said() if f"may read {word}" in text] == (
        [f"{path}: users other than its owner may read {word}; make it root's and chmod 600 {path}"] if told else []
    )


def test_a_common_name_beside_a_password_is_told(files: Files) -> None:
    files.put("named", common_name=True)
    ((kind, text),) = files.said()
    assert kind == "warning"
    assert "has a common name (CN)" in text


def test_a_missing_file_is_told_once(files: Files) -> None:
    (files.directory / "ca.pem").unlink()
    assert files.said() == [
        (
            "unusable",
            f"{files.directory}/locum.toml: cluster.etcd.ca: found {files.directory}/ca.pem, which does not exist;"
            " expected a readable file",
        )
    ]


def test_a_password_without_tls_needs_plain_words(tmp_path: Path) -> None:
    text = '[cluster]\nstore = "etcd://127.0.0.1"\n[cluster.etcd]\nuser = "locum"\npassword_file = "/p"\n'
    with pytest.raises(ConfigError) as caught:
        parse(text, "x")
    assert caught.value.problems == (
        "x:4: cluster.etcd.user: user and password would be sent unencrypted: configure ca (or cert and key), or set"
        " allow_plain_password = true",
    )
    settings = parse(text.replace('"/p"', f'"{tmp_path}/p"\nallow_plain_password = true'), "x")
    (tmp_path / "p").write_text("secret\n")
    (tmp_path / "p").chmod(0o600)
    assert any("is sent unencrypted" in warning for warning in environment_warnings(settings))
    with pytest.raises(ConfigError, match="expected true or false"):
        parse(text + 'allow_plain_password = "yes"\n', "x")
