"""What follows from an audit: mended, told to scripts, given up after some times in vain, told to admins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from locum.machine.audit import Claim, Finding
from locum.node import auditor
from locum.node.auditor import REPAIRS, Auditor
from locum.node.driver import Driver
from locum.node.steps import Steps
from locum.threads import NoAnswer

ADDRESS = "10.0.0.1"


class FakeNode:
    def __init__(self) -> None:
        self.moving: str | None = None
        self.hosted: dict[str, object] = {}

    def __getattr__(self, name: str) -> Callable[..., None]:
        def method(*_: object) -> None:
            raise AssertionError("the driver calls it")

        method.__name__ = name
        return method


class FakeDriver:
    """Writes down what the rules are told."""

    def __init__(self) -> None:
        self.node = FakeNode()
        self.fed: list[tuple[object, ...]] = []

    def feed(self, method: Callable[..., None], *arguments: object) -> None:
        self.fed.append((method.__name__, *arguments))


class FakeActs:
    """An address on eth1; writes down what is done about it."""

    def __init__(self) -> None:
        self.did: list[tuple[str, object]] = []
        self.unannounced: dict[str, str] = {}
        self.expected_removals: set[tuple[str, str]] = set()
        self.configured = self.held = {ADDRESS: (24, "eth1")}
        self.gate = self.addresses = self.announcements = self

    async def done(self, limit: float) -> None:
        assert limit > 0

    async def replace(self, address: str) -> str:
        self.did.append(("replace", address))
        return ""

    async def put_last(self, addresses: list[str]) -> str:
        self.did.append(("put_last", addresses))
        return ""

    async def let_through(self, address: str) -> None:
        self.did.append(("allow", address))

    async def mute(self, address: str) -> None:
        self.did.append(("mute", address))

    def once(self, _interface: str, address: str) -> None:
        self.did.append(("announce", address))


class Scene:
    """An auditor whose kernel shows what the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.driver, self.steps = FakeDriver(), FakeActs()
        self.found: tuple[Finding, ...] = ()
        monkeypatch.setattr(auditor, "findings", lambda *_: self.found)
        monkeypatch.setattr(auditor, "_look", lambda *_: None)
        self.log: list[str] = []
        self.compared: list[bool] = []
        self.auditor = Auditor(
            cast(Driver, self.driver),
            cast(Steps, self.steps),
            True,
            lambda text, _level: self.log.append(text),
            compare=lambda: self.compared.append(True),
        )

    def audits(self, count: int, *found: Finding) -> None:
        self.found = found
        for _ in range(count):
            asyncio.run(self.auditor.audit())

    def told(self, what: str) -> list[tuple[object, ...]]:
        return [fed for fed in self.driver.fed if fed[0] == what]


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


def finding(kind: str, action: str) -> Finding:
    return Finding(kind, action, f"{ADDRESS}: {kind}", (ADDRESS,), "eth1")  # type: ignore[arg-type]


def test_a_mute_address_is_replaced_told_to_scripts_and_in_the_end_given_up(scene: Scene) -> None:
    scene.audits(REPAIRS, finding("duplicate", "replace"))
    assert scene.steps.did == [("replace", ADDRESS)] * REPAIRS
    assert len(scene.told("scripts_forget")) == REPAIRS
    assert not scene.told("address_unfit")
    scene.audits(1, finding("duplicate", "replace"))
    assert scene.told("address_unfit") == [("address_unfit", ADDRESS, "eth1", f"{ADDRESS}: duplicate")]


def test_each_audit_looks_for_addresses_that_are_not_served_here(scene: Scene) -> None:
    """So the removal of another program's address that the kernel refused is tried again."""
    scene.audits(2)
    assert len(scene.compared) == 2


def test_what_was_right_in_between_is_mended_anew(scene: Scene) -> None:
    for _ in range(3):
        scene.audits(REPAIRS, finding("gate", "allow"))
        scene.audits(1)
    assert len(scene.steps.did) == 3 * REPAIRS
    assert not scene.told("address_unfit")


def test_what_is_normal_just_after_an_address_was_configured_must_be_seen_twice(scene: Scene) -> None:
    scene.audits(1, finding("undelivered", "replace"))
    assert scene.steps.did == []
    scene.audits(1, finding("undelivered", "replace"))
    assert scene.steps.did == [("replace", ADDRESS)]


def test_nothing_is_done_to_an_address_that_an_activity_is_about(scene: Scene) -> None:
    scene.driver.node.moving = ADDRESS
    scene.audits(REPAIRS + 2, finding("gate", "allow"))
    assert scene.steps.did == []
    assert not scene.told("address_unfit")


def test_an_address_that_was_removed_is_restored_by_the_rules(scene: Scene) -> None:
    scene.audits(1, finding("missing", "restore"))
    assert scene.told("address_removed") == [("address_removed", ADDRESS, "eth1")]


def test_warnings_are_told_and_end_with_their_cause(scene: Scene) -> None:
    warning = Finding("arp", "warn", "arp_ignore is 8 on eth1", (), "eth1", "sysctl -w x=1")
    scene.audits(2, warning, Finding("deaf", "hint", "slight", (), "eth1"))
    scene.audits(1)
    text = "arp_ignore is 8 on eth1 (sysctl -w x=1)"
    assert [fed[2] for fed in scene.told("warnings_changed")] == [(text,), (text,), ()]
    assert scene.log == [text]


def test_own_addresses_are_put_first_and_scripts_are_told(scene: Scene) -> None:
    scene.audits(1, Finding("source", "order", "the public one is first", (ADDRESS,), "eth1"))
    assert scene.steps.did == [("put_last", [ADDRESS])]
    assert scene.told("scripts_forget") == [("scripts_forget", [ADDRESS])]


def test_an_announcement_that_could_not_be_sent_is_sent_again_and_said(scene: Scene) -> None:
    scene.steps.unannounced[ADDRESS] = "it was not sent"
    scene.audits(1)
    assert scene.steps.did == [("announce", ADDRESS)]
    assert "could not be announced" in str(scene.told("warnings_changed"))


def test_what_the_gate_lets_through_for_nobody_is_muted(scene: Scene) -> None:
    other = "10.0.0.2"
    scene.audits(1, Finding("gate", "deny", "the gate lets it through", (other,)))
    assert scene.steps.did == [("mute", other)]


def test_what_was_dropped_while_the_kernel_was_looked_at_is_no_fault_of_the_gate(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The addresses of a node that falls silent are muted by that; nothing is found, said or done beside it."""

    def look(*_: object) -> None:
        scene.steps.configured.clear()

    monkeypatch.setattr(auditor, "_look", look)
    scene.audits(1, Finding("gate", "deny", "the gate lets it through", (ADDRESS,)))
    assert (scene.steps.did, scene.log) == ([], [])
    # Not muted by the next audit, either: then it is one.
    scene.audits(1, Finding("gate", "deny", "the gate lets it through", (ADDRESS,)))
    assert scene.steps.did == [("mute", ADDRESS)]


def test_the_gate_is_looked_at_when_it_has_done_what_it_was_told(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program has nftables' lock: the node has fallen silent meanwhile, and its addresses are not muted yet."""

    async def caught_up(limit: float) -> None:
        assert limit > 0
        scene.steps.configured.clear()
        scene.found = ()

    monkeypatch.setattr(scene.steps, "done", caught_up)
    scene.audits(1, Finding("gate", "deny", "the gate lets it through", (ADDRESS,)))
    assert scene.steps.did == []

    async def never(limit: float) -> None:
        raise NoAnswer(f"waiting for the gate: no answer within {limit:g} s")

    monkeypatch.setattr(scene.steps, "done", never)
    scene.audits(1, Finding("gate", "deny", "the gate lets it through", (ADDRESS,)))
    assert scene.steps.did == []
    assert "waiting for the gate" in str(scene.told("warnings_changed")[-1])


def test_an_address_that_leaves_while_the_kernel_is_looked_at_is_examined_next_time(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    examined: list[object] = []

    def findings(claims: list[Claim], *_: object) -> tuple[Finding, ...]:
        examined.extend(claims)
        return ()

    monkeypatch.setattr(auditor, "findings", findings)
    monkeypatch.setattr(auditor, "_look", lambda *_: scene.steps.configured.clear())
    scene.audits(1)
    assert examined == []
    assert scene.auditor._trigger.is_set()


def test_removals_that_never_came_hide_no_later_one(scene: Scene) -> None:
    scene.steps.expected_removals.add((ADDRESS, "eth1"))
    scene.audits(1)
    assert not scene.steps.expected_removals


def test_an_address_that_was_removed_and_not_configured_again_is_restored_by_the_rules(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def replace(_address: str) -> str:
        return "the kernel refuses it"

    monkeypatch.setattr(scene.steps, "replace", replace)
    scene.audits(1, finding("duplicate", "replace"))
    assert scene.told("address_removed") == [("address_removed", ADDRESS, "eth1")]


def test_a_defect_does_not_end_the_auditing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditor, "INTERVAL", 0.0)
    monkeypatch.setattr(auditor, "TRIGGERED", 0.0)
    second = asyncio.Event()

    async def audit() -> None:
        if scene.told("warnings_changed"):
            second.set()
        raise RuntimeError("a defect")

    monkeypatch.setattr(scene.auditor, "audit", audit)

    async def go() -> None:
        scene.auditor.start()
        await asyncio.wait_for(second.wait(), 60)
        scene.auditor.close()

    asyncio.run(go())
    assert "unexpected RuntimeError: a defect" in str(scene.told("warnings_changed")[0])
