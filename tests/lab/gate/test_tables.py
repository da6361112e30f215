"""The gate's tables in the real kernel: damage and repair, configuration, state."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from locum.errors import NetlinkError
from locum.machine.announcements import Announcer
from locum.machine.gate.gate import Gate, GateUnavailable
from tests.lab.gate.scene import A4, A6, B4, B6, PUBLIC, SILENCE, Scene, gate_fixture, opened, scene_fixture  # noqa: F401 - pytest finds them here
from tests.lab.namespaces import is_arp_from

pytestmark = pytest.mark.lab


@pytest.mark.parametrize(
    "damage",
    [
        "flush ruleset",
        "delete table inet locum",
        "delete table arp locum",
        "delete table netdev locum",
        "flush chain inet locum gate",
        "flush set inet locum public4",
        "insert rule inet locum gate return",
        "add element inet locum held4 { 10.77.0.101 }",
        "delete element netdev locum public6_target { 0xfd770000000000000000000000000100 }",
        "add rule arp locum from4 accept",
    ],
)
def test_damage_is_found_and_restored_closed(scene: Scene, gate: Gate, damage: str) -> None:
    scene.configure(*PUBLIC)
    scene.install(gate)
    gate.allow([A4, A6])
    opened(gate)
    assert gate.verify() == ()
    pending = gate.arm(1, 30)
    scene.node.run("nft", damage)
    assert gate.verify() != ()
    with scene.node.entered():
        gate.restore()
    assert gate.verify() == ()
    assert not gate.confirm(pending), "a beat from before must not open what is new"
    scene.assert_mute(*PUBLIC)
    opened(gate)
    scene.assert_speaks(A4, A6)
    scene.assert_mute(B4, B6)


def test_an_admins_own_tables_are_no_damage(scene: Scene, gate: Gate) -> None:
    scene.install(gate)
    scene.node.run(
        "nft", "-f", "-", stdin="table inet filter {\n chain input {\n type filter hook input priority 0;\n }\n}"
    )
    assert gate.verify() == ()
    gate.remove()
    assert "filter" in scene.node.run("nft", "list", "ruleset")


def test_without_tables_the_errors_say_so(scene: Scene, gate: Gate) -> None:
    with pytest.raises(NetlinkError) as caught:
        gate.arm(0, 1)
    assert caught.value.errno == 2
    assert gate.verify() != ()
    assert not gate.state().installed
    scene.install(gate)
    gate.remove()
    gate.remove()
    assert scene.node.run("nft", "list", "ruleset") == ""


def test_i1_what_is_released_while_the_tables_are_gone_stays_mute(scene: Scene, gate: Gate) -> None:
    scene.configure(A4, A6)
    scene.install(gate)
    gate.allow([A4, A6])
    scene.node.run("nft", "flush ruleset")
    with pytest.raises(NetlinkError):
        gate.deny([A4])
    with scene.node.entered():
        gate.restore()
    assert gate.state().held == (A6,)
    opened(gate)
    scene.assert_speaks(A6)
    scene.assert_mute(A4)


def test_what_an_earlier_gate_judges_can_be_asked(scene: Scene, gate: Gate) -> None:
    with scene.node.entered():
        assert Gate().judged() == ()
    scene.install(gate, (A4, B6))
    with scene.node.entered():
        assert sorted(Gate().judged()) == [A4, B6]


def test_a_missing_or_broken_nft_program_is_said(scene: Scene) -> None:
    with scene.node.entered():
        for program in ("/no/such/nft", "/bin/false"):
            gate = Gate(nft=program)
            with pytest.raises(GateUnavailable, match="nft"):
                gate.install(PUBLIC, ["eth0"])
            gate.close()


def test_configure_changes_the_addresses_without_disturbing_the_others(scene: Scene, gate: Gate) -> None:
    scene.configure(*PUBLIC)
    scene.install(gate, (A4, A6))
    gate.allow([A4, A6])
    opened(gate)
    scene.assert_speaks(*PUBLIC)
    with scene.node.entered():
        gate.configure(PUBLIC, ["eth0", "eth9"])
    assert gate.verify() == ()
    scene.assert_speaks(A4, A6)
    scene.assert_mute(B4, B6)
    with scene.node.entered():
        gate.configure([A4, B4], ["eth0"])
    scene.assert_speaks(A4, A6, B6)
    scene.assert_mute(B4)
    assert gate.state().held == (A4,)


def test_i1_an_interface_that_comes_back_is_covered_again(scene: Scene, gate: Gate) -> None:
    scene.install(gate)
    with scene.node.entered():
        assert gate.state().egress == ("eth0",)
    scene.node.run("ip", "link", "del", "eth0")
    with scene.node.entered():
        assert gate.state().egress == gate.state().egress_missing == ()
    assert gate.verify() == (), "an interface that is gone is no damage"
    opened(gate)
    scene.network.plug(scene.node, "eth0", "10.77.0.1/24")
    with scene.node.entered():
        gate.ensure_interfaces()
        gate.ensure_interfaces()
        assert gate.state().egress == ("eth0",)
        announcer = Announcer()
        scene.client.tap.clear()
        assert not announcer.announce("eth0", A4)
    announcer.close()
    assert scene.client.tap.collect(is_arp_from(A4), SILENCE) is None


def test_many_addresses(scene: Scene, gate: Gate) -> None:
    many = [f"10.77.{n // 250 + 1}.{n % 250 + 1}" for n in range(1500)] + [f"fd77:1::{n:x}" for n in range(1, 1501)]
    scene.install(gate, tuple(many))
    gate.allow(many)
    assert len(gate.state().held) == 3000
    assert gate.verify() == ()
    gate.deny(many)
    assert gate.state().held == ()
    gate.allow([])
    gate.deny([A4])


def test_state_tells_what_nft_tells(scene: Scene, gate: Gate) -> None:
    scene.install(gate)
    gate.allow([A4])
    opened(gate, 30, slot=1)
    listing = json.loads(scene.node.run("nft", "-j", "list", "set", "inet", "locum", "slot_1"))
    left = {e["elem"]["val"]: e["elem"]["expires"] for e in listing["nftables"][1]["set"]["elem"]}
    assert set(left) == {"ipv4", "ipv6"}
    state = gate.state()
    assert 20 < state.open_for <= 30
    assert abs(state.slots[1].left - min(left.values())) < 5
    held = json.loads(scene.node.run("nft", "-j", "list", "set", "arp", "locum", "held4"))
    assert held["nftables"][1]["set"]["elem"] == list(state.held) == [A4]


def test_works_in_a_user_namespace(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Everything that the daemon does here, with no privilege outside (as the demo does it for an ordinary user)."""
    code = """
import subprocess
from locum.machine.announcements import Announcer
from locum.machine.clean_slate import remove_public
from locum.machine.gate.gate import Gate
from locum.machine.addresses import AddressTable
for command in ('set lo up', 'add v0 type veth peer name v1', 'set v0 up', 'set v1 up'):
    subprocess.run(['ip', 'link', *command.split()], check=True)
gate, table = Gate(), AddressTable()
gate.install(['10.0.0.1', 'fd00::1'], ['v0'])
for address, bits in (('10.0.0.1', 24), ('fd00::1', 64)):
    table.add(address, bits, 'v0', 5)
assert table.check_promote_secondaries('v0')
assert not Announcer().announce('v0', '10.0.0.1', 'fd00::1')
gate.allow(['10.0.0.1', 'fd00::1'])
assert gate.confirm(gate.arm(0, 2))
assert gate.verify() == () and gate.state().open_for > 0 and gate.state().egress == ('v0',)
assert Announcer().announce('v0', '10.0.0.1', 'fd00::1')
assert len(remove_public(['10.0.0.1', 'fd00::1'])) == 2
gate.remove()
print('fine')
"""
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", code],
        capture_output=True, text=True, check=False, cwd=tmp_path_factory.mktemp("userns"),
    )  # fmt: skip
    assert done.stdout == "fine\n", done.stderr


def test_lacking_privilege_is_said_as_such() -> None:
    """Root of a user namespace has no say in the network namespace outside it."""
    code = """
from locum.machine.gate.gate import Gate
from locum.machine.addresses import AddressTable
from locum.machine.announcements import Announcer
from locum.errors import PermissionRequired
for action in (
    lambda: Gate().install(['10.0.0.1'], ['lo']),
    lambda: Gate().arm(0, 1),
    lambda: AddressTable().add('10.255.255.1', 32, 'lo', 1),
    Announcer,
):
    try:
        action()
    except PermissionRequired as problem:
        assert 'CAP_NET' in str(problem), problem
    else:
        raise SystemExit('not refused')
print('refused')
"""
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "refused\n", done.stderr


def test_without_the_egress_hook_the_rest_stands(scene: Scene, gate: Gate, tmp_path: Path) -> None:
    """As on kernels before 5.16; played by an nft that refuses the hook."""
    refuses = tmp_path / "nft"
    refuses.write_text(
        "#!/bin/sh\nrules=$(cat)\n"
        "case $rules in *egress*) echo 'Error: Could not process rule: Operation not supported' >&2; exit 1;; esac\n"
        "printf '%s\\n' \"$rules\" | exec nft -f -\n"
    )
    refuses.chmod(0o755)
    scene.configure(A4, A6)
    scene.install(gate)
    with scene.node.entered():
        older = Gate(nft=str(refuses))
        older.install(PUBLIC, ["eth0"])
        assert older.state().egress_missing == ("eth0",)
        older.ensure_interfaces()
        assert older.verify() == ()
        older.allow([A4, A6])
        scene.assert_mute(A4, A6)
        opened(older)
        scene.assert_speaks(A4, A6)
        adopter = Gate()
        assert adopter.adopt(PUBLIC, ["eth0"])
        assert adopter.confirm(adopter.arm(1, 30))
        older.shut()
        scene.assert_mute(A4, A6)
    assert "netdev" not in scene.node.run("nft", "list", "tables")
    older.close()
    adopter.close()


@pytest.mark.parametrize("family", ["inet", "arp", "netdev"])
def test_tables_of_another_version_are_not_adopted(scene: Scene, gate: Gate, family: str) -> None:
    scene.install(gate)
    other = scene.gate()
    with scene.node.entered():
        assert other.adopt(PUBLIC, ["eth0"])
        scene.node.run("nft", f"delete table {family} locum")
        scene.node.run("nft", f'add table {family} locum {{ comment "Locum: of old"; }}')
        assert not other.adopt(PUBLIC, ["eth0"])
    other.close()
