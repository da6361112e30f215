"""What a reload says: what took effect, what needs a restart, and that nothing is passed over in silence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import cast

import pytest

from locum.api.reload import Reloader, ReloadResult, tell_guard
from locum.config.load import load
from locum.errors import ConfigError, LocumError
from locum.events.engine import EventEngine
from locum.node.driver import Driver
from locum.node.guard.enforcement import public_interfaces
from locum.node.reconfiguration import Reconfiguration
from locum.store.credential_files import CredentialFiles
from locum.store.etcd import EtcdStore

FIRST = """
[node]
name = "n1"
[cluster]
store = "memory:"
[[address]]
address = "10.0.0.1/24"
interfaces = ["lo"]
"""


class Rules:
    """The node's rules, as far as a reload needs them."""

    def __init__(self) -> None:
        self.node = self
        self.identity = self
        self.margin, self.warning, self.machine = 0.1, "", "here"
        self.unsure = ()
        self.warnings: tuple[str, ...] = ()

    def status(self) -> Rules:
        """As far as a reload needs it."""
        return self

    def configure(self, *_: object) -> None:
        """Would take the new addresses."""

    def warnings_changed(self, source: str, texts: tuple[str, ...]) -> None:
        """Would show them."""
        assert source == "configuration"
        self.warnings = texts

    def feed(self, method: Callable[..., None], *arguments: object) -> None:
        """Only warnings are looked at here."""
        if method == self.warnings_changed:
            method(*arguments)


class Scene:
    """A reloader whose node, engine and guard are not there, and what it logs."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.path.write_text(FIRST)
        self.logged: list[tuple[str, str]] = []
        monkeypatch.setattr("locum.api.reload.check_environment", lambda _, **__: [])
        monkeypatch.setattr("os.kill", lambda *_: None)
        self.rules = rules = Rules()
        self.present: set[str] = set()
        #: What the gate judges; and what happens while it is told so.
        self.judged: list[set[str]] = []
        self.meanwhile: Callable[[], None] = lambda: None
        settings = load(self.path)
        public, interfaces = [a.address for a in settings.addresses], public_interfaces(settings)

        def log(text: str, level: str) -> None:
            self.logged.append((level, text))

        self.reconfiguration = Reconfiguration(
            cast(Driver, rules), self, self.present, public, interfaces, (), tell_guard, log
        )
        self.reloader = Reloader(
            settings,
            cast(Driver, rules),
            cast(EventEngine, rules),
            self.reconfiguration,
            log=log,
        )

    async def judge(self, public: Iterable[str], _interfaces: Iterable[str]) -> None:
        """See JudgingGate."""
        self.judged.append(set(public))
        self.meanwhile()

    def reload(self) -> ReloadResult:
        """Reload, as the command does."""
        return asyncio.run(self.reloader.reload())


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(tmp_path / "locum.toml", monkeypatch)


def test_what_needs_a_restart_is_answered_and_logged(scene: Scene) -> None:
    scene.path.write_text(FIRST.replace('store = "memory:"', 'store = "memory:"\nprofile = "fast"'))
    assert scene.reload().ignored == ("cluster.hold",)
    assert ("warning", "reload: cluster.hold has changed; restart the daemon to apply it") in scene.logged
    assert scene.reloader.settings.cluster.hold == 2.0


def test_another_list_of_store_endpoints_needs_a_restart_and_says_so(scene: Scene) -> None:
    for endpoints in ("10.0.0.8:2379", "10.0.0.8:2379,10.0.0.9:2379"):
        scene.path.write_text(FIRST.replace("memory:", f"etcd://{endpoints}"))
        assert scene.reload().ignored == ("cluster.store",)
        assert scene.logged[-1] == ("warning", "reload: cluster.store has changed; restart the daemon to apply it")
    assert scene.reloader.settings.cluster.store.kind == "memory"


def test_initial_tunables_are_no_silent_change(scene: Scene) -> None:
    scene.path.write_text(FIRST + "[tunables]\nMonitorInterval = 5\n")
    (change,) = scene.reload().changes
    assert "'locum tunable set'" in change


def test_addresses_and_connections_take_effect(scene: Scene) -> None:
    scene.path.write_text(FIRST.replace("10.0.0.1", "10.0.0.2") + "[connections]\nports = [80]\n")
    result = scene.reload()
    assert result.changes == (
        "address 10.0.0.2 added",
        "address 10.0.0.1 removed",
        "settings of connections changed",
    )
    assert result.ignored == ()
    assert scene.reloader.settings.connections.ports == (80,)


class Credentials:
    """A store whose credentials were renewed once."""

    credential_warnings = ("client certificate /n.pem ends on 2031-01-01: renew it",)

    def __init__(self) -> None:
        self.news: tuple[str, ...] = ("read again: client certificate /n.pem (valid until 2031-01-01)",)
        self.files: list[CredentialFiles] = []

    async def reread_credentials(self, files: CredentialFiles) -> tuple[str, ...]:
        self.files.append(files)
        news, self.news = self.news, ()
        return news


def test_credentials_are_read_again_whether_or_not_their_paths_have_changed(scene: Scene) -> None:
    credentials = Credentials()
    scene.reloader._credentials = cast(EtcdStore, credentials)
    first = scene.reload()
    assert first.changes == ("read again: client certificate /n.pem (valid until 2031-01-01)",)
    assert first.warnings == credentials.credential_warnings
    assert scene.reload().changes == ()
    assert scene.logged[-1] == ("info", "reloaded: nothing has taken effect")
    assert credentials.files == [CredentialFiles(), CredentialFiles()]


def test_only_a_restart_is_not_called_no_change(scene: Scene) -> None:
    scene.path.write_text(FIRST + '[log]\nlevel = "debug"\n')
    for _ in range(2):
        assert scene.reload().ignored == ("log.level",)
        assert ("info", "reloaded: nothing has taken effect") in scene.logged
        assert not any("nothing has changed" in text for _, text in scene.logged)


def test_nothing_has_changed(scene: Scene) -> None:
    assert scene.reload().changes == ()
    assert scene.logged == [("info", "reloaded: nothing has changed")]


def test_a_configuration_that_became_bad_changes_nothing_and_is_a_warning_until_a_reload_succeeds(scene: Scene) -> None:
    before = scene.reloader.settings
    scene.path.write_text(FIRST.replace("10.0.0.1/24", "10.0.0.1") + "[nonsense]\n")
    with pytest.raises(ConfigError):
        scene.reload()
    assert scene.reloader.settings == before
    (warning,) = scene.rules.warnings
    assert warning.startswith(f"the configuration cannot be read: {scene.path}:7: address")
    assert "(and 1 more)" in warning
    scene.rules.warnings = ("nothing yet",)
    asyncio.run(scene.reloader.look())
    assert list(scene.rules.warnings) == [warning], "an agent that restarts warns as well"
    scene.path.write_text(FIRST)
    scene.reload()
    assert not scene.rules.warnings


def test_the_loss_of_the_file_of_addresses_is_not_the_wish_to_serve_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "public_addresses"
    monkeypatch.setattr("locum.config.load.DEFAULT_PUBLIC_ADDRESSES", str(file))
    file.write_text("10.0.0.1/24 lo\n")
    first = FIRST[: FIRST.index("[[address]]")]
    monkeypatch.setattr("tests.unit.api.test_reload.FIRST", first)
    scene = Scene(tmp_path / "locum.toml", monkeypatch)
    assert [one.address for one in scene.reloader.settings.addresses] == ["10.0.0.1"]
    file.unlink()
    with pytest.raises(ConfigError, match="it was in use and is gone"):
        scene.reload()
    assert [one.address for one in scene.reloader.settings.addresses] == ["10.0.0.1"]
    file.write_text("")
    scene.reload()
    assert scene.reloader.settings.addresses == ()


def test_i1_an_address_that_a_reload_removes_is_judged_while_a_take_of_it_may_begin(scene: Scene) -> None:
    def take_begins() -> None:
        scene.present.add("10.0.0.1")

    scene.meanwhile = take_begins
    scene.path.write_text(FIRST.replace("10.0.0.1", "10.0.0.2"))
    scene.reload()
    assert scene.judged == [{"10.0.0.1", "10.0.0.2"}]

    async def released() -> None:
        scene.meanwhile = lambda: None
        scene.reconfiguration.gone("10.0.0.1")
        await asyncio.wait(scene.reconfiguration.under_way)

    asyncio.run(released())
    assert scene.judged[-1] == {"10.0.0.2"}


def test_an_address_that_a_reload_removes_and_that_is_not_here_is_not_judged_afterwards(scene: Scene) -> None:
    scene.path.write_text(FIRST.replace("10.0.0.1", "10.0.0.2"))
    scene.reload()
    assert scene.judged == [{"10.0.0.1", "10.0.0.2"}, {"10.0.0.2"}]


@pytest.mark.parametrize(("addresses", "compared"), [("10.0.0.2", 1), ("10.0.0.1", 0)])
def test_an_added_address_may_be_here_already(scene: Scene, addresses: str, compared: int) -> None:
    """Another program had configured it before it was public: only a comparison with the kernel shows that."""
    compares: list[str] = []
    scene.reconfiguration.on_added = lambda: compares.append(str(scene.judged[0]))
    scene.path.write_text(FIRST.replace("10.0.0.1", addresses) + "[connections]\nports = [80]\n")
    scene.reload()
    assert len(compares) == compared


def test_a_gate_that_cannot_judge_new_addresses_leaves_everything_as_it_was(scene: Scene) -> None:
    def fails() -> None:
        raise LocumError("no memory")

    scene.meanwhile = fails
    scene.path.write_text(FIRST.replace("10.0.0.1", "10.0.0.2"))
    with pytest.raises(LocumError, match="no memory"):
        scene.reload()
    scene.meanwhile = lambda: None
    scene.path.write_text(FIRST)
    scene.reload()
    assert scene.judged[-1] == {"10.0.0.1"}
