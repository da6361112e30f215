"""locum.script: settings, directories, addresses and failures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from locum import script
from locum.script import Fail
from tests.unit.script.scene import configure

pytestmark = pytest.mark.usefixtures("environment")


def test_settings_are_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, port=80, hosts=["a", "b"], tls=True)
    assert script.settings() == {"port": 80, "hosts": ["a", "b"], "tls": True}


def test_settings_of_a_script_started_by_hand_are_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCUM_SETTINGS")
    monkeypatch.setenv("LOCUM_SETTING_START_TIMEOUT", "7")
    assert script.settings() == {"start_timeout": "7"}


@pytest.mark.parametrize("value", [["a", "b"], "a b", "a,b", "a, b"])
def test_lists_of_words(monkeypatch: pytest.MonkeyPatch, value: object) -> None:
    configure(monkeypatch, names=value)
    assert script.setting_list("names") == ["a", "b"]
    assert script.setting_list("others", ["c"]) == ["c"]


def test_state_directory_exists(environment: Path) -> None:
    assert script.state_dir() == str(environment / "state" / "scripts" / "50.web")
    assert os.path.isdir(script.state_dir())


def test_without_the_environment_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCUM_SCRIPT_STATE")
    with pytest.raises(Fail, match="LOCUM_SCRIPT_STATE is not set: try the script with 'locum event run --dir"):
        script.state_dir()


def test_addresses_and_interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    assert script.public_addresses() == []
    assert script.interfaces() == []
    monkeypatch.setenv("LOCUM_ADDRESSES", "10.0.0.1/24@eth0,fd00::1/64@eth1")
    monkeypatch.setenv("LOCUM_INTERFACES", "eth0,eth1")
    assert script.public_addresses() == [
        script.PublicAddress("10.0.0.1", 24, "eth0"),
        script.PublicAddress("fd00::1", 64, "eth1"),
    ]
    assert script.interfaces() == ["eth0", "eth1"]


@pytest.mark.parametrize(("given", "status"), [(0, 1), (1, 1), (77, 77), (256, 1), (-3, 1)])
def test_a_failure_is_never_a_success(given: int, status: int) -> None:
    assert Fail("why", given).status == status
