"""Names and addresses of a lab."""

from __future__ import annotations

import pytest

from locum.errors import UsageError
from locum_lab.layout import Layout


def test_addresses_of_both_families_take_turns() -> None:
    pool = Layout(addresses=5).public_addresses
    assert [public.address for public in pool] == ["10.77.0.2", "fd77::2", "10.77.0.3", "fd77::3", "10.77.0.4"]
    assert [public.bits for public in pool] == [24, 64, 24, 64, 24]


def test_the_largest_lab_has_no_name_twice_and_none_too_long() -> None:
    layout = Layout(name="x" * 24, nodes=64, addresses=250, interfaces=2)
    layout.check()
    assert len(layout.macs()) == 128
    assert len({public.address for public in layout.public_addresses}) == 250
    ports = [port for node in layout.node_names for port in layout.ports(node)]
    assert len(set(ports)) == len(ports)
    assert max(map(len, ports)) <= 15  # IFNAMSIZ
    taken = {"10.77.0.1", "10.77.0.250", "fd77::1"}
    assert not taken & {public.address for public in layout.public_addresses}


@pytest.mark.parametrize(
    ("layout", "word"),
    [
        (Layout(nodes=0), "--nodes 0"),
        (Layout(nodes=65), "--nodes 65"),
        (Layout(addresses=251), "--addresses 251"),
        (Layout(interfaces=3), "--interfaces 3"),
        (Layout(hold=0.0), "--hold 0"),
        (Layout(hold=float("nan")), "--hold nan"),
        (Layout(name="a/b"), "'a/b'"),
        (Layout(name=""), "''"),
        (Layout(name="ä"), "'ä'"),
    ],
)
def test_wrong_numbers_are_named(layout: Layout, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        layout.check()


def test_an_unknown_node_is_named_with_those_that_are() -> None:
    with pytest.raises(UsageError, match=r"'n4'.*n1, n2, n3"):
        Layout().number("n4")
