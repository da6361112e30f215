"""``locum debug dump``: one private file that has everything, with and without a daemon, and no secrets."""

from __future__ import annotations

import json
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from locum.api.answers import failure, success
from locum.cli.main import main
from locum.doctor import dump, secrets
from locum.errors import LocumError
from locum.rules.schema import TunableRecord
from tests.unit.cli.conftest import Command

CONFIG = """\
[node]
name = "n1"
[cluster]
store = "unix:{directory}/nobody.sock"
[paths]
runtime = "{directory}/run"
state = "{directory}/state"
events = "{directory}/events"
[[address]]
address = "192.0.2.1/24"
interfaces = ["lo"]
[scripts."50.web"]
url = "http://admin:hunter2@192.0.2.1/"
db_password = "hunter3"
password_file = "/etc/web.password"
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs of the machine are not what these tests are about; one that is missing is."""
    monkeypatch.setattr(dump, "COMMANDS", {"kernel/addresses.txt": ("echo", "hello"), "x.txt": ("no-such-program",)})
    monkeypatch.setattr(dump, "DOCTOR_PATIENCE", 60.0)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "events").mkdir()
    path = tmp_path / "locum.toml"
    path.write_text(CONFIG.format(directory=tmp_path))
    return path


def contents(archive: Path) -> dict[str, str]:
    """File → text, without the archive's own folder."""
    with tarfile.open(archive) as tar:
        found = {}
        for member in tar.getmembers():
            file = tar.extractfile(member)
            assert file is not None
            found[member.name.partition("/")[2]] = file.read().decode()
        return found


def test_everything_of_a_running_node_is_in_one_private_file(locum: Command, tmp_path: Path, config: Path) -> None:
    internals: Any = {"running": "monitor", "keys": {}, "log": ["first line", "second line"]}
    locum.scene.answers.update(
        {
            "event-list": lambda _: success({"directory": "/etc/locum/events", "scripts": []}),
            "event-status": lambda _: success({}),
            "debug": lambda _: success(internals),
        }
    )
    archive = tmp_path / "dump.tar.gz"
    said = locum("debug", "dump", str(archive), "--config", str(config))
    assert said.startswith(f"{archive}: ")
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    files = contents(archive)
    assert json.loads(files["daemon/status.json"])["node"] == "n2"
    assert json.loads(files["daemon/internals.json"])["running"] == "monitor"
    assert files["log/daemon.txt"] == "first line\nsecond line\n"
    assert files["kernel/addresses.txt"] == "hello\n"
    assert json.loads(files["configuration.json"])["node"]["name"] == "n1"
    assert "locum" in json.loads(files["versions.json"])
    assert any(finding["check"] == "store" for finding in json.loads(files["doctor.json"]))
    # The store does not answer, and a program is missing: both are said, and nothing else is missing for it.
    assert "store.json: " in files["README.txt"]
    assert "x.txt: no-such-program is not installed" in files["README.txt"]


def test_without_a_daemon_the_rest_is_there_and_the_archive_says_so(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "dump.tar.gz"
    socket = str(tmp_path / "none.sock")
    assert main(["debug", "dump", str(archive), "--config", str(config), "--socket", socket]) == 0
    files = contents(archive)
    assert "the daemon is down: " in files["README.txt"]
    assert "missing: daemon: the daemon is down" in capsys.readouterr().out
    assert "configuration.json" in files
    assert "kernel/addresses.txt" in files
    assert not any(name.startswith("daemon/") for name in files)


def test_a_daemon_that_fails_one_question_is_asked_the_others(locum: Command, tmp_path: Path, config: Path) -> None:
    locum.scene.answers["tunables"] = lambda _: failure(LocumError("defective"))
    locum.scene.answers["event-list"] = lambda _: success({})
    locum.scene.answers["event-status"] = lambda _: success({})
    locum.scene.answers["debug"] = lambda _: failure(LocumError("unknown operation"))
    archive = tmp_path / "dump.tar.gz"
    locum("debug", "dump", str(archive), "--config", str(config))
    files = contents(archive)
    assert "daemon/status.json" in files
    assert "daemon/events.json" in files
    assert "daemon/tunables.json: defective" in files["README.txt"]
    assert "daemon/internals.json: unknown operation" in files["README.txt"]


def test_no_secret_of_the_configuration_is_in_it(tmp_path: Path, config: Path) -> None:
    archive = tmp_path / "dump.tar.gz"
    main(["debug", "dump", str(archive), "--config", str(config), "--socket", str(tmp_path / "none.sock")])
    files = contents(archive)
    assert "hunter" not in "".join(files.values())
    settings = json.loads(files["configuration.json"])["scripts"]["50.web"]
    assert settings["db_password"] == secrets.LEFT_OUT
    assert settings["password_file"] == "/etc/web.password"
    assert settings["url"] == "http://admin:(left out)@192.0.2.1/"


def test_an_existing_file_is_not_replaced(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dump, "collect", lambda *_: iter([dump.Part("a.txt", b"a")]))
    archive = tmp_path / "dump.tar.gz"
    archive.write_text("precious")
    assert main(["debug", "dump", str(archive), "--config", str(config)]) == 2
    assert archive.read_text() == "precious"
    assert "is not replaced" in capsys.readouterr().err


def test_the_file_is_named_after_node_and_time_unless_it_is_given(
    tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dump, "collect", lambda *_: iter([dump.Part("a.txt", b"a")]))
    monkeypatch.chdir(tmp_path)
    assert main(["debug", "dump", "--config", str(config)]) == 0
    (archive,) = tmp_path.glob("locum-debug-*.tar.gz")
    assert contents(archive)["a.txt"] == "a"


def test_of_the_store_only_records_of_ours_are_shown() -> None:
    assert dump._value("tunable/EventTimeout", b'{"value": 30.0}') == {"record": TunableRecord(30.0)}
    foreign = dump._value("some/other", b"hunter2")
    assert foreign == {"foreign": True, "bytes": 7}
    spoiled = dump._value("tunable/EventTimeout", b"hunter2")
    assert spoiled["bytes"] == 7
    assert "hunter2" not in str(spoiled)


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("password", True),
        ("db_password", True),
        ("API_KEY", True),
        ("auth_token", True),
        ("passphrase", True),
        ("client_secret", True),
        ("password_file", False),
        ("key", False),
        ("passive_ports", False),
        ("bypass", False),
        ("url", False),
    ],
)
def test_secrets_are_told_by_their_names(name: str, secret: bool) -> None:
    assert secrets.is_secret(name) is secret


def test_flags_and_nothing_are_not_left_out() -> None:
    value = {"allow_plain_password": True, "password": None, "nested": [{"token": "x"}], "tokens": ["a"]}
    assert secrets.without(value) == {
        "allow_plain_password": True,
        "password": None,
        "nested": [{"token": secrets.LEFT_OUT}],
        "tokens": secrets.LEFT_OUT,
    }
