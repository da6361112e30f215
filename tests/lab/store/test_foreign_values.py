"""A stranger in the store: garbage, foreign records and nothing at all under each key of a cluster that serves.

``tests/unit/rules/test_strangers.py`` has the details of each kind; here it is whether a real cluster stays whole.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import msgspec
import pytest

from locum.api.model import StatusReport
from locum.clock import boottime
from locum.errors import LocumError
from locum.rules import schema
from locum.store.base import Delete, Put
from locum_lab import gaps
from locum_lab.lab import Lab
from tests.lab.clusters import check_kernels, locum
from tests.lab.hostile import BUSY, Stranger, agents, lab_for_module, report_with, watch

pytestmark = [pytest.mark.lab, pytest.mark.long]

#: What an admin has decided, and must find as it was. n3 is disabled, so it serves nothing.
DECISIONS = (
    ("node", "disable", "n3"),
    ("ip", "move", "10.77.0.2", "n1"),
    ("tunable", "set", "TickleCount", "5"),
    # What is lost here comes back at once, again and again: the damping of flaps would keep it waiting.
    ("tunable", "set", "HealthyDelay", "0"),
)
GARBAGE = (b"", b"garbage", b"[]", b"{}", b"\xff\xfe\x00", b'{"node":', b"1e999")
#: How a changed value may look when it is a record all the same.
FOREIGN: dict[str, schema.Record] = {
    "node": schema.NodeRecord(77),
    "number": schema.NumberRecord("nobody"),
    "member": schema.MemberRecord("foreign", 1.0, 0.1, "elsewhere"),
    "beat": schema.BeatRecord("foreign", 1),
    "health": schema.HealthRecord("foreign"),
    "phase": schema.PhaseRecord("foreign", 1, schema.SETTLED),
    "leader": schema.LeaderRecord("ghost", "foreign"),
    "plan": schema.PlanRecord(10**6, {"10.77.0.2": "ghost"}, {"ghost": "foreign"}, "mischief"),
    "claim": schema.ClaimRecord("ghost", "foreign", "eth9", serving=True),
    "held": schema.HeldRecord("ghost"),
    "history": schema.HistoryRecord("foreign"),
}
#: Kinds that the right to serve depends on: a node that loses it stops, and the others (or it) take over. Another name
#: of the store's history ends all memberships.
COSTLY = {"member", "claim", "health", "plan", "node", "history"}


@pytest.fixture(scope="module", params=["embedded", "etcd"])
def shared(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with lab_for_module("store", hold=1.0, store=request.param) as lab:
        for command in DECISIONS:
            locum(lab, "n1", *command)
        yield lab


@pytest.fixture
def lab(request: pytest.FixtureRequest, shared: Lab) -> Lab:
    report_with(request, shared)
    return shared


def settled(lab: Lab) -> StatusReport | None:
    """The status when everything is as the admin wants it."""
    try:
        report = lab.status("n1")
        others = [lab.status(node) for node in ("n2", "n3")]
    except LocumError:
        return None
    states = {node.name: node.state for node in report.nodes}
    placed = {a.address: a.node for a in report.addresses}
    good = (
        states == {"n1": "OK", "n2": "OK", "n3": "DISABLED"}
        and all(a.state == "served" for a in report.addresses)
        and placed.get("10.77.0.2") == "n1"
        and len(placed) == lab.layout.addresses
        and report.progress == "settled"
        and not any("store key" in warning for one in (report, *others) for warning in one.warnings)
        and {one.epoch for one in others} == {report.epoch}
    )
    return report if good else None


def wait_settled(lab: Lab) -> StatusReport:
    """Wait until everything is as the admin wants it, for longer than a moment."""
    since: dict[int, float] = {}

    def stays() -> StatusReport | None:
        report = settled(lab)
        if report is None:
            since.clear()
            return None
        return report if time.monotonic() - since.setdefault(report.epoch, time.monotonic()) > 0.15 else None

    found = lab.wait_for("the cluster to settle again by itself", stays, 60.0)
    assert found is not None
    return found


def keys_of(stranger: Stranger) -> list[str]:
    """The keys of two nodes, one of them the leader, and those of nobody, in an order that mixes nodes."""
    keys = [key for key in stranger.read() if schema.split_key(key)[0] in schema.RECORDS]
    leader = msgspec.json.decode(stranger.read()["leader"].value)["node"]
    other = next(node for node in ("n1", "n2") if node != leader)
    chosen = [key for key in keys if schema.split_key(key)[1] in ("", leader, other, "10.77.0.2", "fd77::3", "n3")]
    chosen += [key for key in keys if schema.split_key(key)[0] in ("number", "tunable", "prefer")]
    return sorted(set(chosen), key=lambda key: schema.split_key(key)[::-1])


@pytest.mark.parametrize("way", ["garbage", "foreign", "deleted"])
def test_i1_i9_each_key_one_after_the_other(lab: Lab, way: str) -> None:
    stranger = Stranger(lab)
    before = agents(lab)
    wait_settled(lab)
    values = itertools.cycle(GARBAGE)
    keys = keys_of(stranger)
    kinds = {schema.split_key(key)[0] for key in keys}
    assert kinds == set(schema.RECORDS), "a kind of key is not tried"
    with watch(lab) as watching:
        for key in keys:
            kind, _ = schema.split_key(key)
            if (way == "foreign" and kind not in FOREIGN) or (
                way == "deleted" and kind in ("admin", "prefer", "tunable")
            ):
                continue  # that is what an admin's command does
            lengths = {node: lab.daemon_log(node).stat().st_size for node in lab.layout.node_names}
            start = boottime()
            if way == "deleted":
                stranger.commit(Delete, key)
            else:
                value = next(values) if way == "garbage" else schema.encode(FOREIGN[kind])
                stranger.commit(lambda whole, value=value: Put(whole, value), key)  # type: ignore[misc]
            report = wait_settled(lab)
            print(f"{key}: settled after {boottime() - start:.2f} s, plan {report.epoch}: {report.cause}")
            if way == "garbage":
                for node, length in lengths.items():
                    said = lab.daemon_log(node).read_bytes()[length:].decode(errors="replace")
                    assert f"store key '{key}'" in said, f"the log of {node} does not name {key}: {said}"
            if kind not in COSTLY or (kind, way) == ("plan", "deleted"):
                longest = gaps.longest(watching.attempts, start, boottime())
                assert {a: g.seconds for a, g in longest.items() if g.failed and g.seconds > BUSY} == {}, key
            watching.read()
        last = watching.end()
    assert last.violations == 0, [record for record in watching.records if record.event == "violation"]
    assert agents(lab) == before
    check_kernels(lab)
    assert "5" in locum(lab, "n2", "tunable", "get", "TickleCount")
    numbers = {key: entry.value for key, entry in stranger.read().items() if key.startswith("number/")}
    assert numbers == {f"number/{n}": schema.encode(schema.NumberRecord(f"n{n}")) for n in (1, 2, 3)}
    for node in lab.layout.node_names:
        assert "Traceback" not in lab.daemon_log(node).read_text()


def test_keys_that_locum_does_not_write_are_named_or_left_alone(lab: Lab) -> None:
    stranger = Stranger(lab)
    before = wait_settled(lab)
    strange = ("leader/n1", "plan/1", "node", "claim", "admin/", "member/")
    foreign = ("foreign", "foreign/key", "statd/x", "zzz/\u00e4")
    try:
        for key in strange:
            stranger.commit(lambda whole: Put(whole, b"{}"), key)
        for key in foreign:
            stranger.commit(lambda whole: Put(whole, b"\xff"), key)

        def named() -> bool:
            text = " ".join(lab.status("n2").warnings)
            return all(f"store key '{key}'" in text for key in strange)

        lab.wait_for("status to name them", named)
        # No node deletes them: a leader does so with what is left of a membership, after the longest hold.
        time.sleep(2 * lab.layout.hold)
        text = locum(lab, "n2", "status")
        for key in strange:
            assert f"'{key}'" in text
        assert "foreign" not in text
    finally:
        for key in (*strange, *foreign):
            stranger.commit(Delete, key)
    assert wait_settled(lab).epoch == before.epoch


def test_records_that_contradict_a_node_end_no_daemon(lab: Lab) -> None:
    """Its name on another machine, alive; its number with a node that does not exist; nesting without end."""
    stranger = Stranger(lab)
    before = agents(lab)
    wait_settled(lab)
    deep = b'{"incarnation":"a","sequence":1,"x":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    stranger.commit(lambda whole: Put(whole, schema.encode(schema.NumberRecord("ghost"))), "number/1")
    foreign = schema.MemberRecord("foreign", 0.5, 0.05, "elsewhere")
    stranger.commit(lambda whole: Put(whole, schema.encode(foreign)), "member/n1")
    for sequence in range(5):
        beat = schema.BeatRecord("foreign", sequence)
        stranger.commit(lambda whole, beat=beat: Put(whole, schema.encode(beat)), "beat/n1")  # type: ignore[misc]
    for key in ("beat/n2", "plan", "phase/n3"):
        stranger.commit(lambda whole: Put(whole, deep), key)
    wait_settled(lab)
    assert agents(lab) == before, "an agent was started anew"
    for node in lab.layout.node_names:
        assert "Traceback" not in lab.daemon_log(node).read_text()
    assert "another node named 'n1' is alive" not in locum(lab, "n1", "status")
