"""Addresses and names from outside are brought into one form where they come in, whoever they are from."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from locum import hosts, rpc
from locum.config import values
from locum.config.values import BadValue
from locum.connections.connection_report import parse_endpoint
from locum.errors import LocumError, UsageError
from locum.machine.gate import gate_rules
from locum.machine.netlink import route
from locum.nfs import callout, recovery
from locum.rules import admin
from locum.store.location import NotAStore, parse_store_url
from locum.xdr import Malformed, Packer

#: Only inet_aton(3) takes these for addresses, or nobody does.
NUMBERS = ("4711", "10.1", "0x7f.1", "010.0.0.1", "0x0a000001", "127.1", "1.2.3")
WRONG = (
    *NUMBERS,
    "10.0.0.256",
    "10.0.0.1.",
    " 10.0.0.1",
    "10.0.0.1\n",
    "\u0661\u0660.0.0.1",
    "fe80::1%eth0",
    "::ffff:010.0.0.1",
)
SPELLINGS = {
    "2001:DB8::1": "2001:db8::1",
    "2001:db8:0:0:0:0:0:1": "2001:db8::1",
    "2001:0db8::0001": "2001:db8::1",
    "2001:db8:0:1:0:0:0:1": "2001:db8:0:1::1",
    "::ffff:10.0.0.1": "10.0.0.1",
    "::FFFF:a00:1": "10.0.0.1",
    "10.0.0.1": "10.0.0.1",
}


@pytest.mark.parametrize(("text", "form"), SPELLINGS.items())
def test_every_spelling_of_an_address_is_one_address_in_every_place(text: str, form: str) -> None:
    assert hosts.address(text) == hosts.host(text) == form
    assert route.canonical(text) == form
    assert admin._canonical(text) == form
    assert parse_endpoint(f"[{text}]:445" if ":" in text else f"{text}:445") == (form, 445)
    if "f:" not in text.lower():
        assert values.plain_address(text) == form


@pytest.mark.parametrize("text", WRONG)
def test_what_programs_disagree_about_is_no_address_in_any_place(text: str) -> None:
    assert not hosts.is_address(text)
    assert admin._canonical(text) is None
    refusals: list[tuple[Callable[[], object], type[Exception]]] = [
        (lambda: route.canonical(text), ValueError),
        (lambda: values.plain_address(text), BadValue),
        (lambda: values.public_address(f"{text}/24"), BadValue),
        (lambda: parse_endpoint(f"[{text}]:445" if ":" in text else f"{text}:445"), UsageError),
    ]
    for refusal, error in refusals:
        with pytest.raises(error):
            refusal()


@pytest.mark.parametrize("text", NUMBERS)
def test_a_store_is_not_looked_for_at_a_number(text: str) -> None:
    with pytest.raises(NotAStore, match="is not a host"):
        parse_store_url(f"etcd://{text}:2379")


def test_endpoints_have_one_form() -> None:
    assert parse_store_url("etcd://Etcd.Example:2379,[2001:DB8::1]:1").endpoints == (
        "etcd.example:2379",
        "[2001:db8::1]:1",
    )
    with pytest.raises(NotAStore, match="duplicate endpoint"):
        parse_store_url("etcd://A.example,a.example")


def test_the_kernel_and_the_configuration_agree_about_every_address() -> None:
    for raw in (bytes(15) + b"\2", bytes(12) + b"\x0a\0\0\1", bytes(10) + b"\xff\xff\x0a\0\0\1", b"\x20\1" + bytes(14)):
        assert hosts.of_bytes(raw) == hosts.address(socket.inet_ntop(socket.AF_INET6, raw))
    with pytest.raises(BadValue, match="::/96"):
        values.plain_address("::10.0.0.1")


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("Client.Example.COM.", "client.example.com"),
        ("4711", "4711"),
        ("10.1", "10.1"),
        ("a_b-c", "a_b-c"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
    ],
)
def test_names(text: str, form: str) -> None:
    assert hosts.host(text) == form


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "a/b",
        "a b",
        "-a",
        "a\n",
        "a\x1b",
        "a" * 64,
        "a." * 127 + "a",
        "\ud800",
        "a%b",
        "\u202e",
        "é" * 300,
    ],
)
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        hosts.host(text)


def test_a_client_with_a_number_for_a_name_is_looked_up_as_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was taken for an address, and never notified; resolvers would take it for 0.0.18.103."""
    asked: list[str] = []

    def getaddrinfo(name: str, _port: object, family: int, kind: int) -> list[object]:
        asked.append(name)
        if name == "4711.lan.example.":
            return [(family, kind, 0, "", ("192.0.2.9", 0))]
        if name == "192.0.2.8":
            return [(family, kind, 0, "", ("192.0.2.8", 0))]
        raise socket.gaierror(socket.EAI_NONAME, "no")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    (tmp_path / "hosts").write_text("# a comment\n192.0.2.8 Ten.example 10.1 # 4711\n")
    (tmp_path / "resolv").write_text("nameserver 192.0.2.53\nsearch other.example lan.example\n")
    monkeypatch.setattr(recovery, "_HOSTS", str(tmp_path / "hosts"))
    monkeypatch.setattr(recovery, "_RESOLVER", str(tmp_path / "resolv"))
    clients = [("4711", False), ("10.1", False), ("0x7f.1", False), ("10.0.0.9", False), ("fd77::9", True)]
    assert recovery.look_up(clients) == {
        ("4711", False): "192.0.2.9",
        ("10.1", False): "192.0.2.8",
        ("10.0.0.9", False): "10.0.0.9",
        ("fd77::9", True): "fd77::9",
    }
    assert not {"4711", "10.1", "0x7f.1"} & set(asked)


def test_the_callout_brings_clients_and_servers_into_one_form() -> None:
    change = {"do": "add", "client": "FD77:0::9", "server": "::FFFF:10.0.0.1", "at": 1.0}
    assert callout._change(change) == {"do": "add", "client": "fd77::9", "server": "10.0.0.1", "at": 1.0}
    with pytest.raises(callout.Wrong, match="invalid client name"):
        callout._change({**change, "client": "fe80::1%eth0"})


@pytest.mark.parametrize("port", [65536, 0xFFFFFFFF])
def test_a_port_that_is_none_is_the_clients_fault_alone(port: int) -> None:
    """Sending to it raised an error that ended the notification of all clients."""
    with pytest.raises(Malformed):
        rpc.decode_getport(struct.pack(">I", port), v6=False)


@pytest.mark.parametrize("text", ["::.999.999", "::.-1.1", "::.\u0661.1", "::.256.0", "::.x.y"])
def test_a_universal_address_that_is_none_is_the_clients_fault_alone(text: str) -> None:
    with pytest.raises((Malformed, ValueError)):
        rpc.decode_getport(Packer().string(text).data, v6=True)


@pytest.mark.parametrize("name", ['a"; }', "a\x1b", "eth*", "a\\", "\u202e", "a\x00"])
def test_an_interface_name_cannot_leave_its_quotes_in_the_packet_filter(name: str) -> None:
    """The kernel allows these, and a container can give them to a device that comes back from it."""
    with pytest.raises(LocumError, match="rename it"):
        gate_rules.ruleset([], [], [name])
    with pytest.raises(LocumError, match="rename it"):
        gate_rules.egress_ruleset([], [], [gate_rules.Device(1, name, "")])
    with pytest.raises(LocumError, match="rename it"):
        gate_rules.egress_addition(gate_rules.Device(1, name, ""))
    with pytest.raises(BadValue):
        values.interface(name)
