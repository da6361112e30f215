"""TCP connections in the kernel: listed, destroyed, clients told; judged by ``ss`` and by what real clients see."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Collection, Iterable, Sequence

import pytest

from locum import hosts
from locum.connections.destroy import Destroyer, destroy
from locum.connections.reset import blockade, reset
from locum.connections.sockets import ALIVE, Census, Connection, scan
from locum.connections.tickle import tickle_once
from locum.machine.gate.gate import Gate
from locum.machine.netlink import inet_diag, route
from locum.machine.netlink.core import NetlinkSocket
from locum.machine.netlink.inet_diag import Found
from tests.lab.connections.scene import P4, P6, PORT, Q4, BlockedReader, Stage, sockets, stage_fixture  # noqa: F401
from tests.lab.namespaces import wait_for

pytestmark = pytest.mark.lab

BOTH = pytest.mark.parametrize("address", [P4, P6])


class Listed(Connection, frozen=True, order=True):
    state: int = 0


def connections(
    addresses: Iterable[str] | None = None, ports: Collection[int] | None = None, states: int = ALIVE
) -> list[Listed]:
    packed = None if addresses is None else [route.packed(a) for a in addresses]
    with inet_diag.open_socket() as netlink:
        return sorted(
            Listed(hosts.of_bytes(f.address), f.port, hosts.of_bytes(f.peer), f.peer_port, f.state)
            for f in scan(netlink, packed, ports, states)
        )


def seen(listed: Sequence[Connection]) -> set[tuple[str, int, str, int]]:
    return {(c.local, c.local_port, c.remote, c.remote_port) for c in listed}


def ends(talk_client: socket.socket, address: str, port: int = PORT) -> tuple[str, int, str, int]:
    name = talk_client.getsockname()
    return (address, port, name[0], name[1])


# -- listing -----------------------------------------------------------------------------------------------------------


def test_connections_of_both_families_are_listed(stage: Stage) -> None:
    four, six, mapped = stage.listen(stage.old, P4), stage.listen(stage.old, P6), stage.listen(stage.old, "", 4451)
    expected = {
        ends(stage.connect(four, P4).client, P4),
        ends(stage.connect(six, P6).client, P6),
        ends(stage.connect(mapped, Q4, 4451).client, Q4, 4451),  # IPv4 on an IPv6 socket
        ends(stage.connect(mapped, P6, 4451).client, P6, 4451),
    }
    with stage.old.entered():
        assert seen(connections()) == expected
        assert seen(connections(addresses=[P4, Q4])) == {e for e in expected if e[0] in (P4, Q4)}
        assert seen(connections(addresses=[P6])) == {e for e in expected if e[0] == P6}
        assert seen(connections(addresses=[P6], ports=[4451])) == {e for e in expected if e[:2] == (P6, 4451)}
        assert seen(connections(ports=[PORT, 9])) == {e for e in expected if e[1] == PORT}
        assert connections(addresses=[]) == []
        assert connections(ports=[]) == []
        # More than the kernel's filter is given.
        many = [f"10.99.0.{n}" for n in range(1, 200)]
        assert seen(connections(addresses=[*many, P4])) == {e for e in expected if e[0] == P4}
        assert seen(connections(ports=[*range(1, 200), 4451])) == {e for e in expected if e[1] == 4451}


def test_states_are_told_apart(stage: Stage) -> None:
    listener = stage.listen(stage.old, P4)
    closing, waiting, open_ = (stage.connect(listener, P4) for _ in range(3))
    closing.client.close()  # the server's side waits for its own close
    waiting.server.close()  # ended by the server, whose side is FIN-WAIT-2
    states: dict[int, int] = {}

    def settled() -> bool:
        with stage.old.entered():
            states.update({c.remote_port: c.state for c in connections()})
        return sorted(states.values()) == [inet_diag.ESTABLISHED, inet_diag.FIN_WAIT2, inet_diag.CLOSE_WAIT]

    wait_for(settled, "both ends to have closed")
    assert states[open_.client_port] == inet_diag.ESTABLISHED


@pytest.mark.parametrize(("bound", "address"), [("", P4), ("", P6), (P4, P4), (P6, P6)])
def test_connections_of_a_socket_that_is_bound_to_a_device_are_ended(stage: Stage, bound: str, address: str) -> None:
    listener = stage.listen(stage.old, bound)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
    talk = stage.connect(listener, address)
    with stage.old.entered():
        assert [c.remote_port for c in connections([address])] == [talk.client_port]
        assert destroy([address]).destroyed == 1
        assert connections([address]) == []


def test_a_census_tells_what_came_and_went(stage: Stage) -> None:
    listener, mapped = stage.listen(stage.old, P4), stage.listen(stage.old, "", 4451)
    with stage.old.entered():
        census = Census(inet_diag.open_socket())
    first = stage.connect(listener, P4)
    second = stage.connect(mapped, P4, 4451)
    key = route.packed(P4)
    entries = {
        Connection(P4, PORT, "10.78.0.9", first.client_port).entry,
        Connection(P4, 4451, "10.78.0.9", second.client_port).entry,
    }
    come, gone = census.take([PORT, 4451])
    assert (come.by_address, gone.by_address) == ({key: entries}, {})
    come, gone = census.take([PORT, 4451])
    assert (come.by_address, gone.by_address) == ({}, {})
    second.server.close()
    second.client.close()
    come, gone = census.take([PORT, 4451])
    assert come.by_address == {}
    assert gone.of(key) == {Connection(P4, 4451, "10.78.0.9", second.client_port).entry}
    assert census.all().of(key) == entries - gone.of(key)
    come, gone = census.take([])
    assert gone.of(key) == {Connection(P4, PORT, "10.78.0.9", first.client_port).entry}


def test_a_quiet_census_misses_nothing(stage: Stage) -> None:
    """Looks are left out while the kernel's counters stand still; one that goes and one that comes change them."""
    listener = stage.listen(stage.old, P4)
    talks = [stage.connect(listener, P4) for _ in range(3)]
    with stage.old.entered():
        census = Census(inet_diag.open_socket())
    key = route.packed(P4)
    census.take([PORT])
    for _ in range(30):
        for _ in range(3):
            come, gone = census.take([PORT])
            assert not come.by_address
            assert not gone.by_address
        old, new = talks.pop(0), stage.connect(listener, P4)
        old.server.close()
        old.client.close()
        talks.append(new)
        come, gone = census.take([PORT])
        assert come.of(key) == {Connection(P4, PORT, "10.78.0.9", new.client_port).entry}
        assert gone.of(key) == {Connection(P4, PORT, "10.78.0.9", old.client_port).entry}


# -- destroying --------------------------------------------------------------------------------------------------------


@BOTH
def test_no_connection_to_the_address_survives(stage: Stage, address: str) -> None:
    listener, other = stage.listen(stage.old, address), stage.listen(stage.old, Q4)
    talks = [stage.connect(listener, address) for _ in range(5)]
    bystander = stage.connect(other, Q4)
    talks[0].client.shutdown(socket.SHUT_WR)
    talks[1].server.shutdown(socket.SHUT_WR)
    talks[2].server.close()
    assert len(sockets(stage.old, address)) == 5
    with stage.old.entered():
        progress = destroy([address])
    assert (progress.destroyed, progress.left, progress.unsupported) == (5, (), False)
    assert sockets(stage.old, address) == []
    for talk in (talks[3], talks[4]):
        with pytest.raises(ConnectionAbortedError):
            talk.server.recv(1)
        with pytest.raises(ConnectionResetError):
            talk.client.recv(1)
    assert bystander.works()
    # The service goes on listening.
    assert stage.connect(listener, address).works()


def test_an_address_taken_away_loses_its_connections_all_the_same(stage: Stage) -> None:
    listener = stage.listen(stage.old, "")
    talk = stage.connect(listener, P4)
    stage.old.run("ip", "addr", "del", f"{P4}/24", "dev", "eth0")
    assert len(sockets(stage.old, f"::ffff:{P4}")) == 1
    with stage.old.entered():
        assert destroy([P4]).destroyed == 1
    assert sockets(stage.old, f"::ffff:{P4}") == []
    with pytest.raises(ConnectionAbortedError):
        talk.server.recv(1)


def test_half_open_and_waiting_sockets_go_as_well(stage: Stage) -> None:
    listener = stage.listen(stage.old, P4)
    ended = stage.connect(listener, P4)
    ended.server.close()
    ended.client.close()
    wait_for(lambda: any("TIME-WAIT" in line for line in sockets(stage.old, P4)), "TIME-WAIT")
    # A client whose handshake is never completed: it ignores what comes back.
    rules = "table ip t { chain c { type filter hook prerouting priority 0; tcp sport 4450 drop; }; }"
    stage.client.run("nft", "-f", "-", stdin=rules)
    with stage.client.entered():
        dumb = socket.socket()
    dumb.setblocking(False)
    stage.opened.append(dumb)
    dumb.connect_ex((P4, PORT))
    wait_for(lambda: any("SYN-RECV" in line for line in sockets(stage.old, P4)), "SYN-RECV")
    with stage.old.entered():
        assert destroy([P4]).destroyed == 2
    assert sockets(stage.old, P4) == []


def test_only_the_ports_that_were_named(stage: Stage) -> None:
    one, two = stage.listen(stage.old, P4, 4451), stage.listen(stage.old, P4, 4452)
    gone, stays = stage.connect(one, P4, 4451), stage.connect(two, P4, 4452)
    with stage.old.entered():
        assert destroy([P4], [4451]).destroyed == 1
    assert not gone.works()
    assert stays.works()


def test_a_kernel_that_cannot_destroy_is_recognised(stage: Stage) -> None:
    def without(_netlink: NetlinkSocket, found: Sequence[Found]) -> list[int]:
        return [errno.EOPNOTSUPP] * len(found)

    listener = stage.listen(stage.old, P4)
    talk = stage.connect(listener, P4)
    with stage.old.entered():
        lacking, real = Destroyer(without), Destroyer()
    assert real.supported()
    assert not lacking.supported()
    (progress,) = lacking.sweep([P4])
    assert progress.unsupported
    assert [found.peer_port for found in progress.left] == [talk.client_port]
    assert talk.works()


def test_a_kernel_that_cannot_destroy_time_wait_only(stage: Stage) -> None:
    def old_kernel(netlink: NetlinkSocket, found: Sequence[Found]) -> list[int]:
        answers = inet_diag.destroy(netlink, [f for f in found if f.state != inet_diag.TIME_WAIT])
        return [errno.EOPNOTSUPP if f.state == inet_diag.TIME_WAIT else answers.pop(0) for f in found]

    listener = stage.listen(stage.old, P4)
    ended, open_ = stage.connect(listener, P4), stage.connect(listener, P4)
    ended.server.close()
    ended.client.close()
    wait_for(lambda: any("TIME-WAIT" in line for line in sockets(stage.old, P4)), "TIME-WAIT")
    with stage.old.entered():
        *_, progress = Destroyer(old_kernel).sweep([P4])
    assert (progress.destroyed, progress.unsupported) == (1, False)
    assert [found.state for found in progress.left] == [inet_diag.TIME_WAIT]
    assert not open_.works()


# -- resetting, where destroying cannot be had -----------------------------------------------------------------------


def killed_by_reset(stage: Stage, address: str, *, clients: bool) -> list[Found]:
    with stage.old.entered(), blockade(address) as active:
        assert active
        return reset(address, Destroyer().find([address]), clients=clients)


@BOTH
def test_connections_are_reset_without_the_help_of_the_kernel(stage: Stage, address: str) -> None:
    listener, other = stage.listen(stage.old, address), stage.listen(stage.old, Q4)
    talks = [stage.connect(listener, address) for _ in range(5)]
    bystander = stage.connect(other, Q4)
    talks[0].client.shutdown(socket.SHUT_WR)
    talks[1].server.shutdown(socket.SHUT_WR)
    talks[2].server.close()
    assert killed_by_reset(stage, address, clients=False) == []
    assert sockets(stage.old, address) == []
    for talk in (talks[3], talks[4]):
        with pytest.raises(ConnectionResetError):
            talk.server.recv(1)
        # The client was not told; it is the new holder who does that, when it is there.
        talk.client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            talk.client.recv(1)
    assert bystander.works()
    assert "locum_release" not in stage.old.run("nft", "list", "tables")
    assert stage.connect(listener, address).works()


@BOTH
def test_clients_are_reset_as_well_if_wanted(stage: Stage, address: str) -> None:
    talk = stage.connect(stage.listen(stage.old, address), address)
    assert killed_by_reset(stage, address, clients=True) == []
    with pytest.raises(ConnectionResetError):
        talk.server.recv(1)
    with pytest.raises(ConnectionResetError):
        talk.client.recv(1)


def test_many_connections_are_reset(stage: Stage) -> None:
    listener = stage.listen(stage.old, "")
    talks = [stage.connect(listener, P4) for _ in range(400)]
    started = time.monotonic()
    assert killed_by_reset(stage, P4, clients=False) == []
    print(f"{len(talks)} connections reset in {1000 * (time.monotonic() - started):.0f} ms")
    assert sockets(stage.old, f"::ffff:{P4}") == []


def test_who_does_not_answer_is_told(stage: Stage) -> None:
    listener = stage.listen(stage.old, P4)
    talk = stage.connect(listener, P4)
    rules = "table ip t { chain c { type filter hook output priority 0; tcp sport 4450 drop; }; }"
    stage.old.run("nft", "-f", "-", stdin=rules)
    (left,) = killed_by_reset(stage, P4, clients=False)
    assert left.peer_port == talk.client_port


# -- with the gate -----------------------------------------------------------------------------------------------------


@BOTH
def test_what_is_sent_from_here_passes_the_gate_while_it_is_open_and_only_then(stage: Stage, address: str) -> None:
    with stage.old.entered():
        gate = Gate()
        gate.install([P4, P6, Q4], ["eth0"])
        gate.allow([address])
        gate.confirm(gate.arm(0, 60.0))
    listener = stage.listen(stage.old, address)
    talks = [stage.connect(listener, address) for _ in range(2)]
    entries = [Connection(address, PORT, *talk.client.getsockname()[:2]).entry for talk in talks]
    with stage.old.entered():
        assert tickle_once(address, entries) == 2
    assert all(talk.works() for talk in talks)
    assert killed_by_reset(stage, address, clients=False) == []
    for talk in talks:
        with pytest.raises(ConnectionResetError):
            talk.server.recv(1)
    gate.deny([address])
    with stage.old.entered():
        assert tickle_once(address, entries) == 0
    gate.remove()
    gate.close()


# -- telling -----------------------------------------------------------------------------------------------------------


def fail_over(stage: Stage, address: str) -> None:
    """The old node dies without a word, the new one has the address."""
    stage.die(stage.old)
    stage.configure(stage.new, address)
    stage.announce(stage.new, address)


@BOTH
def test_a_blocked_client_is_woken_by_a_tickle(stage: Stage, address: str) -> None:
    talk = stage.connect(stage.listen(stage.old, address), address)
    talk.client.settimeout(None)
    reader = BlockedReader(talk.client)
    fail_over(stage, address)
    # Nobody has told it yet, and nothing else would.
    assert not reader.wait(1.0)
    with stage.new.entered():
        sent = time.monotonic()
        assert tickle_once(address, [Connection(address, PORT, *talk.client.getsockname()[:2]).entry]) == 1
    assert reader.wait(20)
    assert isinstance(reader.error, ConnectionResetError)
    assert reader.woken_at is not None
    print(f"woken {1000 * (reader.woken_at - sent):.1f} ms after the tickle")


@BOTH
def test_tickles_are_repeated_against_loss(stage: Stage, address: str) -> None:
    talk = stage.connect(stage.listen(stage.old, address), address)
    talk.client.settimeout(None)
    reader = BlockedReader(talk.client)
    fail_over(stage, address)
    family = "ip6" if ":" in address else "ip"
    rules = f"""
        table {family} lossy {{
            chain c {{ type filter hook prerouting priority 0; tcp sport {PORT} numgen inc mod 1000 < 2 counter drop; }}
        }}"""
    stage.client.run("nft", "-f", "-", stdin=rules)  # the first two are lost
    connection = Connection(address, PORT, *talk.client.getsockname()[:2])

    with stage.new.entered():
        for number in range(4):
            assert tickle_once(address, [connection.entry], number) == 1
            time.sleep(0.05)
    assert reader.wait(20)
    assert isinstance(reader.error, ConnectionResetError)
    assert "packets 2 " in stage.client.run("nft", "list", "table", family, "lossy")


@BOTH
def test_a_tickle_harms_no_connection_that_lives(stage: Stage, address: str) -> None:
    talk = stage.connect(stage.listen(stage.old, address), address)
    with stage.old.entered():
        for number in range(3):
            tickle_once(address, [Connection(address, PORT, *talk.client.getsockname()[:2]).entry], number)
    assert talk.works()
    talk.server.sendall(b"!")
    assert talk.client.recv(1) == b"!"
