"""The files of a guest."""

from __future__ import annotations

import tomllib

from locum_lab.layout import Layout
from locum_lab.vm import setup, store

LAYOUT = Layout(nodes=3, addresses=4, clients=1, hold=6.0)


def test_the_layout_of_clients_does_not_meet_the_pool() -> None:
    layout = Layout(nodes=2, addresses=250, clients=8)
    pool = {public.address for public in layout.public_addresses}
    clients = {a.partition("/")[0] for c in layout.client_names for a in layout.client_addresses(c)}
    assert len(clients) == 16
    assert not clients & pool


def test_the_configuration_of_a_node_is_complete() -> None:
    text = setup.locum_configuration(LAYOUT, "n2", store.url("outside", LAYOUT), "[tunables]\nDampingWindow = 1\n")
    found = tomllib.loads(text)
    assert found["node"] == {"number": 2, "private_address": "10.78.0.2"}
    assert found["cluster"]["store"] == "etcd://10.78.0.254:2379"
    assert found["tunables"] == {"DampingWindow": 1}


def test_a_node_has_public_addresses_and_no_other_on_its_public_interface() -> None:
    files = setup.node_files(LAYOUT, "n1", "etcd://10.78.0.254:2379")
    assert "Address=" not in files["/etc/systemd/network/20-eth1.network"]
    assert "Address=10.78.0.1/24" in files["/etc/systemd/network/10-eth0.network"]
    assert files["/etc/locum/public_addresses"].splitlines() == [
        "10.77.0.2/24 eth1",
        "fd77::2/64 eth1",
        "10.77.0.3/24 eth1",
        "fd77::3/64 eth1",
    ]


def test_a_client_has_an_address_of_each_family() -> None:
    text = setup.client_files(LAYOUT, "c1")["/etc/systemd/network/10-eth0.network"]
    assert "Address=10.77.0.201/24" in text
    assert "Address=fd77::c9/64" in text


def test_members_of_etcd_are_an_odd_number_and_know_each_other() -> None:
    assert list(store.members(Layout(nodes=2))) == ["n1"]
    members = store.members(LAYOUT)
    assert list(members) == ["n1", "n2", "n3"]
    lines = setup.etcd_settings(members, "n3", "lab", (100, 1000)).splitlines()
    assert 'ETCD_LISTEN_CLIENT_URLS="http://10.78.0.3:2379"' in lines
    peers = "n1=http://10.78.0.1:2380,n2=http://10.78.0.2:2380,n3=http://10.78.0.3:2380"
    assert f'ETCD_INITIAL_CLUSTER="{peers}"' in lines
    assert store.url("etcd", LAYOUT) == "etcd://10.78.0.1:2379,10.78.0.2:2379,10.78.0.3:2379"
