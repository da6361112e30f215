"""What a machine can lack for a good configuration."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from locum import nft
from locum.config import environment
from locum.config.environment import check_environment, environment_warnings, interfaces
from locum.config.load import parse
from locum.config.model import Settings


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for a node's paths, on a machine with eth0 whose user has every capability."""
    monkeypatch.setattr(environment, "_missing_capabilities", list)
    monkeypatch.setattr(environment, "interfaces", lambda: frozenset({"lo", "eth0"}))
    return tmp_path


def settings(base: Path, text: str = "", store: str = "memory:", etcd: str = "") -> Settings:
    paths = f'[paths]\nruntime = "{base}/run"\nstate = "{base}/state"\n'
    return parse(f'{paths}{text}\n[cluster]\nstore = "{store}"\n{etcd}', str(base / "c.toml"))


def test_nothing_lacks(base: Path) -> None:
    address = '[[address]]\naddress = "10.0.0.1/24"\ninterfaces = ["eth0"]'
    assert check_environment(settings(base, address)) == []
    (base / "run").mkdir()
    (base / "state").mkdir()
    assert check_environment(settings(base, address)) == []


def test_an_interface_that_does_not_exist(base: Path) -> None:
    lines = "".join(
        f'[[address]]\naddress = "10.0.0.{n}/24"\ninterfaces = ["eth0", "eth{1 + n // 5}"]\n' for n in range(1, 6)
    )
    source = base / "c.toml"
    assert check_environment(settings(base, lines)) == [
        f"{source}: found interface eth1 for 10.0.0.1/24, 10.0.0.2/24, 10.0.0.3/24 and 1 more, which this machine does "
        "not have; expected one of its interfaces: eth0",
        f"{source}: found interface eth2 for 10.0.0.5/24, which this machine does not have; "
        "expected one of its interfaces: eth0",
    ]


def test_directories_that_cannot_be(base: Path) -> None:
    (base / "run").write_text("a file")
    (base / "file").write_text("a file")
    assert check_environment(settings(base, f'control = "{base}/file/c.sock"')) == [
        f"{base}/c.toml: paths.runtime: found {base}/run, which is not a directory; expected a directory, or nothing",
        f"{base}/c.toml: paths.control: found {base}/file, which is not a directory; expected a directory, or nothing",
    ]


def test_a_path_through_a_file_cannot_be_made(base: Path) -> None:
    (base / "file").write_text("")
    problems = check_environment(settings(base, "", store=f"sqlite:{base}/file/x/store.db"))
    assert problems == [
        f"{base}/c.toml: cluster.store: found {base}/file/x, which cannot be created in {base}/file; "
        "expected a directory that this process may create"
    ]


def test_a_directory_that_is_not_ours_to_write(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may write everywhere: say no in its place.
    (base / "run").mkdir()
    monkeypatch.setattr("os.access", lambda path, _mode: str(path) != str(base / "run"))
    assert check_environment(settings(base)) == [
        f"{base}/c.toml: paths.runtime: found {base}/run, which this process may not write; "
        "expected a directory that it may write"
    ]


def test_a_group_that_does_not_exist(base: Path) -> None:
    assert check_environment(settings(base, 'control_group = "root"')) == []
    assert check_environment(settings(base, 'control_group = "0"')) == []
    (problem,) = check_environment(settings(base, 'control_group = "no-such-group"'))
    assert "found 'no-such-group', a group that this machine does not have" in problem
    (problem,) = check_environment(settings(base, 'control_group = "99999999999999999999"'))
    assert "a group that this machine does not have" in problem


def test_files_for_etcd(base: Path) -> None:
    secret = base / "secret"
    secret.write_text("x")
    secret.chmod(0o644)
    found = settings(
        base, store="etcd://h", etcd=f'etcd = {{ ca = "{base}/ca", user = "u", password_file = "{secret}" }}'
    )
    assert check_environment(found) == [
        f"{base}/c.toml: cluster.etcd.ca: found {base}/ca, which does not exist; expected a readable file"
    ]
    assert any("users other than its owner may read the password" in warning for warning in environment_warnings(found))
    secret.chmod(0o600)
    assert not any("password" in warning for warning in environment_warnings(found))


def test_warnings(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = base / "c.toml"
    source.write_text("")
    source.chmod(0o664)
    monkeypatch.setattr(nft, "DIRECTORIES", (str(base),))
    assert environment_warnings(settings(base)) == [
        "the program nft is not installed (Debian package: nftables): Locum loads its rules with it; without them "
        "holds are enforced to the second only, and others wait longer before they take over",
        f"{source}: users other than its owner may write it; chmod go-w {source}",
    ]
    source.chmod(0o644)
    (base / "nft").write_text("")
    (base / "nft").chmod(0o755)
    assert environment_warnings(settings(base)) == []


def test_this_machine_has_a_loopback_interface() -> None:
    assert "lo" in interfaces()


@pytest.mark.parametrize(
    ("effective", "missing"),
    [("000001ffffffffff", []), ("0000000000001000", ["CAP_NET_RAW"]), ("0", ["CAP_NET_ADMIN", "CAP_NET_RAW"])],
)
def test_capabilities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, effective: str, missing: list[str]) -> None:
    status = tmp_path / "status"
    status.write_text(f"Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t{effective}\n")
    monkeypatch.setattr(environment, "_STATUS", str(status))
    problems = environment._missing_capabilities()
    assert [problem.split()[1] for problem in problems] == missing
    assert all("run the daemon as root" in problem for problem in problems)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a directory of another user")
def test_root_does_not_work_in_directories_of_another_user(base: Path) -> None:
    """Or that user would have files opened, changed and given away that are not theirs."""
    for name in ("theirs", "home"):
        (base / name).mkdir()
        os.chown(base / name, 64123, 64123)
    (base / "link").symlink_to(base / "theirs")
    (base / "wide").mkdir()
    (base / "wide").chmod(0o777)
    found = parse(
        f'[paths]\nruntime = "{base}/theirs/run"\nstate = "{base}/link/state"\ncontrol = "{base}/wide/c.sock"\n'
        f'[cluster]\nstore = "sqlite:{base}/home/store.db"\n',
        str(base / "home" / "c.toml"),
    )
    problems = check_environment(found)
    assert [problem.split(": ")[1] for problem in problems] == [
        "paths.runtime",
        "paths.state",
        "paths.control",
        "cluster.store",
    ]
    assert all("but" in problem and "expected a place that belongs only to root" in problem for problem in problems)
    assert any("may replace it" in warning for warning in environment_warnings(found))


def test_places_below_a_temporary_directory_are_fine_when_they_are_there(base: Path) -> None:
    """As root's in /tmp: nobody else can replace them."""
    base.chmod(0o1777)
    for name in ("run", "state"):
        (base / name).mkdir()
    assert check_environment(settings(base)) == []
