"""What an address, a name, a path or a store may look like."""

from __future__ import annotations

import pytest

from locum.config import values
from locum.config.address_file import parse_lines
from locum.config.model import PublicAddress
from locum.config.values import BadValue
from locum.store.location import StoreUrl


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1/24", ("10.0.0.1", 24)),
        ("10.0.0.1/32", ("10.0.0.1", 32)),
        ("10.0.0.0/31", ("10.0.0.0", 31)),  # RFC 3021
        ("10.0.0.1/31", ("10.0.0.1", 31)),
        ("10.0.1.0/16", ("10.0.1.0", 16)),
        ("169.254.1.1/16", ("169.254.1.1", 16)),
        ("2001:DB8:0:0::1/64", ("2001:db8::1", 64)),
        ("2001:db8::/127", ("2001:db8::", 127)),  # RFC 6164
        ("2001:db8::/128", ("2001:db8::", 128)),
        ("2001:db8::ffff:ffff:ffff:ffff/64", ("2001:db8::ffff:ffff:ffff:ffff", 64)),
        ("fd00::1/8", ("fd00::1", 8)),
    ],
)
def test_public_addresses_become_canonical(text: str, expected: tuple[str, int]) -> None:
    assert values.public_address(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1", "ADDRESS/BITS"),
        ("10.0.0.1/", "bits from 1 to 32"),
        ("10.0.0.1/0", "bits from 1 to 32"),
        ("10.0.0.1/33", "bits from 1 to 32"),
        ("10.0.0.1/-1", "bits from 1 to 32"),
        ("10.0.0.1/ 24", "bits from 1 to 32"),
        ("10.0.0.1/²4", "bits from 1 to 32"),
        ("10.0.0.1/255.255.255.0", "bits from 1 to 32"),
        ("10.0.0.1/24/24", "bits from 1 to 32"),
        ("fd00::1/129", "bits from 1 to 128"),
        ("/24", "an IPv4 or IPv6 address"),
        ("host/24", "an IPv4 or IPv6 address"),
        ("10.0.0/24", "an IPv4 or IPv6 address"),
        ("10.0.0.256/24", "an IPv4 or IPv6 address"),
        ("010.0.0.1/24", "an IPv4 or IPv6 address"),
        (" 10.0.0.1/24", "an IPv4 or IPv6 address"),
        ("10.0.0.0/24", "this is the subnet 10.0.0.0/24 itself"),
        ("10.0.0.255/24", "this is the broadcast address of 10.0.0.0/24"),
        ("10.0.0.3/30", "this is the broadcast address of 10.0.0.0/30"),
        ("fd00::/64", "this is the subnet fd00::/64 itself"),
        ("0.0.0.0/8", "unspecified"),
        ("0.1.2.3/8", "0.0.0.0/8 has none"),
        ("::/64", "unspecified"),
        ("127.0.0.1/8", "loopback"),
        ("::1/128", "loopback"),
        ("224.0.0.1/4", "multicast"),
        ("ff02::1/16", "multicast"),
        ("255.255.255.255/32", "broadcast"),
        ("::ffff:10.0.0.1/96", "or the IPv4 address 10.0.0.1 that this one maps"),
        ("fe80::1%eth0/64", "without a zone"),
        ("fd00::1%1/64", "without a zone"),
        ("fe80::1/64", "this one is link-local"),
    ],
)
def test_what_is_no_public_address(text: str, expected: str) -> None:
    with pytest.raises(BadValue, match=expected.replace("(", r"\(")):
        values.public_address(text)


@pytest.mark.parametrize("text", ["n1", "N", "1", "node-1.example.org", "a_b", "x" * 63])
def test_names(text: str) -> None:
    assert values.name(text) == text


@pytest.mark.parametrize("text", ["", "a/b", "a b", "-a", ".a", "_a", "ä", "x" * 64, "a\n", "²"])
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(BadValue):
        values.name(text)


@pytest.mark.parametrize("text", ["eth0", "bond0.100", "br-lan", "ens1f0np0", "x" * 15, "wg_0"])
def test_interfaces(text: str) -> None:
    assert values.interface(text) == text


@pytest.mark.parametrize("text", ["", "x" * 16, "a b", "a/b", "eth0:1", ".", "..", "a\n", "äääääääää"])
def test_what_is_no_interface(text: str) -> None:
    with pytest.raises(BadValue):
        values.interface(text)


@pytest.mark.parametrize("text", ["50.web", "00.locum", "99.a-b_c.d"])
def test_script_names(text: str) -> None:
    assert values.script_name(text) == text


@pytest.mark.parametrize(
    "text", ["", "50", "50.", "5.web", "050.web", "web", "50web", "50.web.script", "50.web~", "٥0.a"]
)
def test_what_is_no_script_name(text: str) -> None:
    with pytest.raises(BadValue):
        values.script_name(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("memory:", StoreUrl(kind="memory")),
        ("sqlite:/var/lib/x.db", StoreUrl(kind="sqlite", path="/var/lib/x.db")),
        ("unix:/run/s.sock", StoreUrl(kind="unix", path="/run/s.sock")),
        ("etcd://h1", StoreUrl(kind="etcd", endpoints=("h1:2379",))),
        ("etcd://h1:1,h2.example:65535", StoreUrl(kind="etcd", endpoints=("h1:1", "h2.example:65535"))),
        ("etcd://h1, 10.0.0.1:80", StoreUrl(kind="etcd", endpoints=("h1:2379", "10.0.0.1:80"))),
        ("etcd://[FD00::1],[fd00::2]:99", StoreUrl(kind="etcd", endpoints=("[fd00::1]:2379", "[fd00::2]:99"))),
    ],
)
def test_stores(text: str, expected: StoreUrl) -> None:
    assert values.store_location(text) == expected
    assert values.store_location(str(expected)) == expected


def test_a_path_may_be_written_as_a_url() -> None:
    assert values.store_location("unix:///run/s.sock") == StoreUrl(kind="unix", path="/run/s.sock")


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "memory",
            "memory:x",
            "sqlite:",
            "sqlite:x.db",
            "unix:",
            "unix:x",
            f"unix:/{'x' * 107}",
            "etcd:h1",
            "etcd://",
        ),
        *(
            "etcd://h1,",
            "etcd://h1:0",
            "etcd://h1:65536",
            "etcd://h1:x",
            "etcd://h1:",
            "etcd://fd00::1",
            "etcd://[fd00::1",
        ),
        *("etcd://[fd00::1]x", "etcd://[10.0.0.1]:1", "etcd://h1,h1:2379", "etcd://h1/x", "http://h1:2379"),
    ],
)
def test_what_is_no_store(text: str) -> None:
    with pytest.raises(BadValue):
        values.store_location(text)


def test_socket_paths_fit_their_address() -> None:
    assert values.socket_path("/" + "x" * 106) == "/" + "x" * 106
    with pytest.raises(BadValue, match="this one has 108"):
        values.socket_path("/" + "x" * 107)
    # It is bytes that count.
    with pytest.raises(BadValue, match="this one has 121"):
        values.socket_path("/" + "ä" * 60)


def test_the_customary_file() -> None:
    found, problems = parse_lines(
        "# ctdb's example\n"
        "10.1.1.1/24 eth1\n"
        "\n"
        "  10.1.1.2/24\teth1,eth2   # second choice\r\n"
        "2001:DB8::1/64 eth1\n"
        "#10.1.1.3/24 eth1\n"
        "10.1.1.4/24\n"
        "10.1.1.5/24 eth1 eth2\n"
        "10.1.1.6/24 eth1,,eth2\n"
        "10.1.1.7/24 eth1,eth1\n"
        "10.1.1.300/24 eth1"
    )
    assert found == [
        (2, PublicAddress("10.1.1.1", 24, ("eth1",))),
        (4, PublicAddress("10.1.1.2", 24, ("eth1", "eth2"))),
        (5, PublicAddress("2001:db8::1", 64, ("eth1",))),
    ]
    assert problems == [
        (7, "found no interface in '10.1.1.4/24'; expected ADDRESS/BITS IFACE[,IFACE...]"),
        (8, "found 3 words in '10.1.1.5/24 eth1 eth2'; expected ADDRESS/BITS IFACE[,IFACE...]"),
        (9, "found 'eth1,,eth2'; expected the name of a network interface (1 to 15 printable characters)"),
        (10, "found 'eth1,eth1'; expected each interface once"),
        (11, "found '10.1.1.300/24'; expected an IPv4 or IPv6 address"),
    ]
