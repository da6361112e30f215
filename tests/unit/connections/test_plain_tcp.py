"""The rules against Multipath TCP, as text."""

from __future__ import annotations

from locum.connections.plain_tcp import TABLE, ruleset


def test_the_rules_have_both_families_and_both_directions() -> None:
    comment, text = ruleset(["fd77::2", "10.77.0.3", "10.77.0.2"])
    assert comment is not None
    assert comment in text
    option = "tcp flags & (syn | ack) == syn reset tcp option mptcp"
    for rule in (
        "ip daddr { 10.77.0.2, 10.77.0.3 }",
        "ip6 daddr { fd77::2 }",
        "ip saddr { 10.77.0.2, 10.77.0.3 }",
        "ip6 saddr { fd77::2 }",
    ):
        assert f"\t\t{rule} {option}\n" in text


def test_a_family_without_addresses_has_no_rule() -> None:
    """An empty set of addresses is an error of syntax for nft."""
    assert "ip6" not in ruleset(["10.77.0.2"])[1]


def test_the_comment_tells_other_addresses_apart_and_not_their_order() -> None:
    assert ruleset(["10.77.0.2", "10.77.0.3"])[0] == ruleset(["10.77.0.3", "10.77.0.2", "10.77.0.2"])[0]
    assert ruleset(["10.77.0.2"])[0] != ruleset(["10.77.0.3"])[0]


def test_without_addresses_there_is_to_be_no_table() -> None:
    comment, text = ruleset([])
    assert comment is None
    assert text == f"add table inet {TABLE}\ndelete table inet {TABLE}\n"
