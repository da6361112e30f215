"""Configurations, right and wrong: everything wrong is found at once, each with its place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from locum.config import load as load_module
from locum.config.load import load, parse
from locum.config.model import (
    ClusterSettings,
    ConnectionSettings,
    EtcdSettings,
    LogSettings,
    NodeSettings,
    PathSettings,
    PublicAddress,
)
from locum.errors import ConfigError
from locum.store.location import StoreUrl

CHECKOUT = Path(__file__).parents[3]

GOOD = """\
[node]
name = "n1"
number = 0
private_address = "192.168.1.1"

[cluster]
name = "files"
store = "unix:/run/store.sock"
hold = 1.5

[paths]
runtime = "/run/n1"
state = "/var/lib/n1/"
events = "/etc/n1/events"
control_group = "admins"

[[address]]
address = "10.0.0.1/24"
interfaces = ["eth0", "eth1"]

[[address]]
address = "2001:DB8::0001/64"
interfaces = ["eth0"]

[tunables]
MonitorInterval = 5
NoIPFailback = 1

[scripts."50.web"]
port = 80
names = ["a", "b"]
start-timeout = 3.5

[log]
level = "debug"
format = "json"
"""


@pytest.fixture(autouse=True)
def no_address_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own file of public addresses must not get into the tests."""
    monkeypatch.setattr(load_module, "DEFAULT_PUBLIC_ADDRESSES", str(tmp_path / "none"))


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "c.toml")
    assert caught.value.subject == "c.toml"
    return list(caught.value.problems)


def with_store(text: str) -> str:
    return f'{text}\n[cluster]\nstore = "memory:"\n'


def test_everything_that_is_said_is_read() -> None:
    settings = parse(GOOD, "c.toml")
    assert settings.source == "c.toml"
    assert (settings.node.name, settings.node.number, settings.node.private_address) == ("n1", 0, "192.168.1.1")
    assert settings.cluster.name == "files"
    assert settings.cluster.store == StoreUrl(kind="unix", path="/run/store.sock")
    assert settings.cluster.hold == 1.5
    assert settings.paths.state == "/var/lib/n1"
    assert settings.paths.control == "/run/n1/control.sock"
    assert settings.paths.control_group == "admins"
    assert settings.paths.public_addresses is None
    assert settings.addresses == (
        PublicAddress("10.0.0.1", 24, ("eth0", "eth1")),
        PublicAddress("2001:db8::1", 64, ("eth0",)),
    )
    assert settings.tunables == {"MonitorInterval": 5, "NoIPFailback": 1}
    assert settings.scripts == {"50.web": {"port": 80, "names": ("a", "b"), "start-timeout": 3.5}}
    assert (settings.log.level, settings.log.format) == ("debug", "json")


def test_the_store_is_all_that_must_be_said() -> None:
    # A default store would make every node a cluster of its own, each with all the addresses.
    settings = parse('[cluster]\nstore = "memory:"', "c.toml")
    assert settings.node.name != ""
    assert settings.node.number is None
    assert settings.cluster.hold == 2.0
    assert settings.paths.control == "/run/locum/control.sock"
    assert settings.addresses == ()
    assert problems("") == [
        "c.toml: cluster.store: missing; expected memory: | sqlite:PATH | unix:PATH | etcd://HOST:PORT,HOST:PORT"
    ]


def test_all_problems_at_once_in_the_order_of_the_lines() -> None:
    text = GOOD.replace('"n1"', '"n/1"').replace("hold = 1.5", "hold = 0.05\nholt = 3").replace("0001/64", "1/129")
    text = text.replace("NoIPFailback", "NoIpFailbak").replace('"json"', '"xml"')
    assert problems(text) == [
        "c.toml:2: node.name: found \"n/1\"; expected 1 to 63 letters, digits, '-', '_' or '.', "
        "beginning with a letter or digit",
        "c.toml:9: cluster.hold: found 0.05; expected a number of seconds from 0.1 to 60",
        "c.toml:10: cluster.holt: no such key; did you mean hold?",
        "c.toml:23: address[2].address: found \"2001:DB8::1/129\"; expected bits from 1 to 128 after '/' (IPv6)",
        "c.toml:28: tunables.NoIpFailbak: no such tunable; did you mean NoIPFailback?",
        'c.toml:37: log.format: found "xml"; expected "console" or "json"',
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[node]\nname = 5", "c.toml:2: node.name: found 5; expected a string in quotes"),
        ("[node]\nnumber = true", "c.toml:2: node.number: found true; expected a whole number from 0 to 999"),
        ("[node]\nnumber = 1.0", "c.toml:2: node.number: found 1.0; expected a whole number from 0 to 999"),
        ("[node]\nnumber = -1", "c.toml:2: node.number: found -1; expected a whole number from 0 to 999"),
        ('[node]\nprivate_address = "10.0.0.1/24"', "expected an IPv4 or IPv6 address"),
        ("node = 3", "c.toml:1: node: found 3; expected a table, [node]"),
        ('[paths]\nruntime = "run"', 'c.toml:2: paths.runtime: found "run"; expected an absolute path'),
        (
            f'[paths]\nruntime = "/{"r" * 100}"',
            "expected at most 94 bytes, to leave room for the control socket's name",
        ),
        (f'[paths]\ncontrol = "/{"c" * 107}"', "expected a socket's path of at most 107 bytes (this one has 108)"),
        ('[paths]\npublic_addresses = "/nowhere/x"', "/nowhere/x: cannot be read: No such file or directory"),
        ("address = 1", "c.toml:1: address: found 1; expected tables, [[address]]"),
        ('[address]\naddress = "10.0.0.1/24"', "c.toml:1: address: found a table; expected tables, [[address]]"),
        ('[[addresses]]\naddress = "10.0.0.1/24"', "c.toml:1: addresses: no such key; did you mean address?"),
        ("[[address]]", 'c.toml:1: address[1].address: missing; expected "ADDRESS/BITS"'),
        ("[[address]]", 'c.toml:1: address[1].interfaces: missing; expected a list of interfaces, ["eth0"]'),
        ("[[address]]\ninterfaces = []", "c.toml:2: address[1].interfaces: found []; expected at least one interface"),
        ('[[address]]\ninterfaces = ["a", 1]', 'expected a list of strings, ["...", "..."]'),
        ('[[address]]\ninterfaces = ["a", "a"]', "expected each interface once"),
        ("[[address]]\nbits = 24", "c.toml:2: address[1].bits: no such key; expected one of address, interfaces"),
        ("[tunables]\nMonitorInterval = 0", "found 0; expected a number of seconds from 0.2 to 3600"),
        ("[tunables]\nMonitorInterval = nan", "found nan; expected a number of seconds from 0.2 to 3600"),
        ('[tunables]\nMonitorInterval = "15"', 'found "15"; expected a number of seconds'),
        ("[tunables]\nNoIPFailback = 2", "found 2; expected 0 or 1"),
        ("[tunables]\nNoIPFailback = true", "found true; expected 0 or 1"),
        ("[tunables]\nBanAfterFailures = 1.5", "found 1.5; expected a whole number from 1 to 1000"),
        ("[tunables]\nEventScriptTimeout = 3", "no such tunable; did you mean EventTimeout?"),
        (
            "[scripts.50.web]\nport = 1",
            'c.toml:1: scripts.50: found "50"; expected the name of an event script, NN.name',
        ),
        ("[scripts.50.web]\nport = 1", '(write [scripts."50.web"], with the quotes)'),
        ('[scripts."50.web.script"]', "expected the name of an event script, NN.name, without '.script'"),
        ('[scripts]\n"50.web" = 1', 'c.toml:2: scripts."50.web": found 1; expected a table, [scripts."50.web"]'),
        ('[scripts."50.web"]\nport = 2020-01-01', "expected a string, a number, true or false, or a list of these"),
        (
            '[scripts."50.web"]\nport = [[1]]',
            'c.toml:2: scripts."50.web".port: found a list; expected a string, a number',
        ),
        ('[scripts."50.web"]\n"a b" = 1', 'scripts."50.web"."a b": found the name "a b"; expected a name of'),
        ('[scripts."50.web"]\na-b = 1\nA_b = 2', 'c.toml:3: scripts."50.web".A_b: found beside a-b, the same for a'),
        ("[log]\nlevel = 3", "c.toml:2: log.level: found 3; expected a string in quotes"),
    ],
)
def test_one_problem(text: str, expected: str) -> None:
    found = problems(with_store(text))
    assert any(expected in problem for problem in found), found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('store = "memory:"\nprofil = "fast"', "c.toml:3: cluster.profil: no such key; did you mean profile?"),
        ('store = "memory:"\nhold = "2"', "expected a number of seconds from 0.1 to 60"),
        ('store = "memory:"\nhold = inf', "found inf; expected a number of seconds from 0.1 to 60"),
        ('store = "memory:"\nname = ""', "cluster.name"),
        ('store = "memory:"\netcd.ca = "/ca"', 'cluster.etcd: found beside store = "memory:"; expected with etcd only'),
        ('store = "etcd://a"\netcd.cert = "/c"', "cluster.etcd.key: missing beside cert; expected both or neither"),
        ('store = "etcd://a"\netcd.user = "u"', "cluster.etcd.password_file: missing beside user"),
        ('store = "etcd://a"\netcd.password_file = "/p"', "cluster.etcd.user: missing beside password_file"),
        ('store = "etcd://a"\netcd.password = "p"', "cluster.etcd.password: no such key; did you mean password_file?"),
        ('store = "redis://a"', 'c.toml:2: cluster.store: found "redis://a"; expected memory: | sqlite:PATH'),
    ],
)
def test_one_problem_of_the_cluster(text: str, expected: str) -> None:
    found = problems(f"[cluster]\n{text}")
    assert any(expected in problem for problem in found), found


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("[node]\nname = n1\n", "c.toml:2:", "not TOML"),
        ('[node]\nname = "n1"\n[node]\n', "c.toml:3:", "twice"),
        ("a = 1\n\na = 2\n", "c.toml:3:", "not TOML"),
        ("[node\n", "c.toml:1:", "not TOML"),
        ('name = "', "c.toml:1:", "not TOML"),
        ("x = [1,\n2,\n", "c.toml:3:", "not TOML"),
        (f"x = {'[' * 5000}", "c.toml", "not a configuration"),
        (f"x = {'1' * 5000}", "c.toml", "not a configuration"),
    ],
)
def test_what_is_not_toml_is_said_with_its_line(text: str, place: str, what: str) -> None:
    (problem,) = problems(text)
    assert problem.startswith(place)
    assert what in problem


def test_a_profile_sets_the_hold_and_hold_overrides_it() -> None:
    assert parse('[cluster]\nstore = "memory:"\nprofile = "fast"', "c").cluster.hold == 0.25
    assert parse('[cluster]\nstore = "memory:"\nprofile = "fast"\nhold = 3', "c").cluster.hold == 3


def test_public_addresses_of_a_file_come_first_and_none_twice(tmp_path: Path) -> None:
    file = tmp_path / "addresses"
    file.write_text(
        "# customary form\n10.0.0.2/24 eth0\n\n10.0.0.1/24\teth0,eth1  # two\n10.0.0.9 eth0\n10.0.0.2/16 a\n"
    )
    inline = '[[address]]\naddress = "10.0.0.1/24"\ninterfaces = ["a"]\n[[address]]\naddress = "10.0.0.3/24"\n'
    text = with_store(f'[paths]\npublic_addresses = "{file}"\n{inline}interfaces = ["a"]\n')
    assert problems(text) == [
        f"{file}:5: found '10.0.0.9'; expected ADDRESS/BITS, the length of the subnet's prefix included",
        f"{file}:6: found 10.0.0.2 again, first at {file}:2; expected each address once",
        f"c.toml:4: address[1].address: found 10.0.0.1 again, first at {file}:4; expected each address once",
    ]
    file.write_text("10.0.0.2/24 eth0\n10.0.0.1/24 eth0,eth1\n")
    settings = parse(text.replace("10.0.0.1", "10.0.0.4"), "c.toml")
    assert [str(address) for address in settings.addresses] == [
        "10.0.0.2/24",
        "10.0.0.1/24",
        "10.0.0.4/24",
        "10.0.0.3/24",
    ]
    assert settings.paths.public_addresses == str(file)


def test_the_customary_file_is_read_when_nothing_else_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "public_addresses"
    file.write_text("10.0.0.2/24 eth0\n")
    monkeypatch.setattr(load_module, "DEFAULT_PUBLIC_ADDRESSES", str(file))
    assert [str(a) for a in parse(with_store(""), "c").addresses] == ["10.0.0.2/24"]
    inline = with_store('[[address]]\naddress = "10.0.0.1/24"\ninterfaces = ["a"]')
    assert [str(a) for a in parse(inline, "c").addresses] == ["10.0.0.1/24"]
    assert parse(with_store("address = []"), "c").addresses == ()


def test_the_private_address_is_not_public() -> None:
    assert any("which is node.private_address" in p for p in problems(GOOD.replace("192.168.1.1", "10.0.0.1")))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name, content, expected in [
        ("missing", None, "cannot be read: No such file or directory; give the path of this node's configuration"),
        ("latin", 'a = 1\nb = "ä"'.encode("latin-1"), "latin:2: found a byte that is not UTF-8"),
    ]:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ConfigError, match=expected):
            load(path)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)


def test_foreign_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("hold = 1.5", "hold = 0").replace("\n", "\r\n").encode())
    with pytest.raises(ConfigError, match=r"c\.toml:9: cluster.hold"):
        load(path)


def test_the_host_name_serves_as_name_only_if_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "default_node_name", lambda: "host-1")
    assert parse(with_store(""), "c").node.name == "host-1"
    monkeypatch.setattr(load_module, "default_node_name", lambda: "höst")
    assert 'node.name: missing, and the host\'s name is "höst"' in problems(with_store(""))[0]


def test_the_example_is_right() -> None:
    settings = load(CHECKOUT / "examples" / "locum.toml")
    assert len(settings.addresses) == 2


def test_loading_imports_little() -> None:
    # The guard and every command load the configuration: what this imports, they all wait for.
    heavy = ["asyncio", "socket", "subprocess", "difflib", "logging", "inspect", "json", "grp", "threading"]
    code = "import sys, msgspec; before = set(sys.modules); import locum.config.load, locum.config.environment;"
    code += f"print([m for m in {heavy} if m in sys.modules and m not in before])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_documentation_has_every_key() -> None:
    text = (CHECKOUT / "docs" / "configuration.md").read_text()
    for part in (NodeSettings, ClusterSettings, EtcdSettings, PathSettings, LogSettings):
        for field in part.__struct_fields__:
            assert f"`{field}`" in text or f"[cluster.{field}]" in text, field


def test_ports_of_connections() -> None:
    settings = parse('[cluster]\nstore = "memory:"\n[connections]\nports = [2049, 445, 445]\nreset_ports = [21]\n', "x")
    assert settings.connections == ConnectionSettings(ports=(445, 2049), reset_ports=(21,))
    settings = parse('[cluster]\nstore = "memory:"\n[connections]\nmptcp = true\n', "x")
    assert settings.connections == ConnectionSettings(mptcp=True)


@pytest.mark.parametrize("value", ["445", '["445"]', "[0]", "[65536]", "[true]", "[1.5]"])
def test_ports_of_connections_are_numbers(value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f'[cluster]\nstore = "memory:"\n[connections]\nports = {value}\n', "x")
    (problem,) = caught.value.problems
    assert problem.startswith("x:4: connections.ports: found ")
    assert problem.endswith("expected a list of whole numbers from 1 to 65535")
