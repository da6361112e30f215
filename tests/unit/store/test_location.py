"""Stores' URLs, right and wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.store.location import NotAStore, StoreUrl, parse_store_url


@pytest.mark.parametrize(
    ("url", "parsed", "text"),
    [
        ("memory:", StoreUrl("memory"), "memory:"),
        ("sqlite:/var/lib/locum/s", StoreUrl("sqlite", "/var/lib/locum/s"), "sqlite:/var/lib/locum/s"),
        ("unix:/run/s.sock", StoreUrl("unix", "/run/s.sock"), "unix:/run/s.sock"),
        ("unix:///run/s.sock", StoreUrl("unix", "/run/s.sock"), "unix:/run/s.sock"),
        ("etcd://h1:2379", StoreUrl("etcd", endpoints=("h1:2379",)), "etcd://h1:2379"),
        ("etcd://h1, h2", StoreUrl("etcd", endpoints=("h1:2379", "h2:2379")), "etcd://h1:2379,h2:2379"),
        (
            "etcd://h1,h2.example.org:4001,10.0.0.3,[fd00::3]:2379,[FD00:0::4]/",
            StoreUrl(
                "etcd",
                endpoints=("h1:2379", "h2.example.org:4001", "10.0.0.3:2379", "[fd00::3]:2379", "[fd00::4]:2379"),
            ),
            "etcd://h1:2379,h2.example.org:4001,10.0.0.3:2379,[fd00::3]:2379,[fd00::4]:2379",
        ),
    ],
)
def test_right_urls(url: str, parsed: StoreUrl, text: str) -> None:
    assert parse_store_url(url) == parsed
    assert str(parsed) == text
    assert parse_store_url(text) == parsed


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("", "unknown kind of store"),
        ("memory", "unknown kind of store"),
        ("redis://h", "unknown kind of store"),
        ("memory:x", "nothing may follow"),
        ("sqlite:", "needs an absolute path"),
        ("sqlite:store.db", "needs an absolute path"),
        ("unix://run/s", "needs an absolute path"),
        ("unix:/run/", "not the path of a file"),
        ("unix:/" + "x" * 107, "too long: 108 bytes, at most 107"),
        ("etcd:h1:2379", "is written etcd://"),
        ("etcd://", "not a host"),
        ("etcd://h1:2379,", "not a host"),
        ("etcd://h1:0", "'0' is not a port"),
        ("etcd://h1:65536", "not a port"),
        ("etcd://h1:http", "'http' is not a port"),
        ("etcd://h1:", "not a port"),
        ("etcd://h_1!:2379", "not a host"),
        ("etcd://fd00::1", "not a host"),
        ("etcd://[fd00::1:2379", "not an IPv6 address"),
        ("etcd://[10.0.0.1]:2379", "not an IPv6 address"),
        ("etcd://h1:2379,h1", "duplicate endpoint h1:2379"),
        ("etcd://root:secret@h1:2379", "are not allowed in the URL"),
        ("etcd://h1:2379/prefix", "nothing may follow the endpoints"),
        ("etcd://h1:2379?ca=x", "nothing may follow the endpoints"),
    ],
)
def test_wrong_urls(url: str, complaint: str) -> None:
    with pytest.raises(NotAStore) as caught:
        parse_store_url(url)
    assert complaint in str(caught.value)
    assert "secret" not in str(caught.value)


@given(st.text(max_size=40).map(lambda tail: "etcd://" + tail) | st.text(max_size=40))
def test_any_text_is_parsed_or_refused(url: str) -> None:
    try:
        parsed = parse_store_url(url)
    except NotAStore:
        return
    assert parse_store_url(str(parsed)) == parsed
