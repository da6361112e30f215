"""Where the kernel has no nf_tables (a container whose host did not load them): what guard and agent do."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from typing import cast

import pytest

from locum.errors import NetlinkError
from locum.machine.gate import gate
from locum.machine.gate.gate import Gate, GateState, GateUnavailable
from locum.node.guard.enforcement import WITHOUT_GATE, GuardGate, enforcement_of, judged_before


class NoFamily:
    """socket(2) knows no NETLINK_NETFILTER."""

    def __init__(self) -> None:
        raise NetlinkError("cannot open a netlink socket of family 12", errno.EPROTONOSUPPORT)


class NoSubsystem:
    """Nobody is behind the socket: nfnetlink_rcv_msg in net/netfilter/nfnetlink.c."""

    def close(self) -> None:
        """See NftSocket."""

    def table_comment(self, _family: int, _table: str) -> str | None:
        """See NftSocket."""
        raise NetlinkError("cannot read nftables table 'locum'", errno.EINVAL)

    def elements(self, _family: int, _table: str, _name: str) -> object:
        """See NftSocket."""
        raise NetlinkError("cannot read set 'public4'", errno.EINVAL)


def _refused(_self: object, _text: str) -> None:
    raise GateUnavailable("nft refused Locum's rules: Invalid argument")


PUBLIC, INTERFACES = ["192.0.2.1"], ["lo"]


@pytest.mark.parametrize("netfilter", [NoFamily, NoSubsystem])
def test_a_node_runs_without_nf_tables_and_says_so(
    netfilter: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "NftSocket", netfilter)
    monkeypatch.setattr(gate.Gate, "_load", _refused)
    said: list[str] = []

    def log(text: str, _level: str) -> None:
        said.append(text)

    guard = GuardGate(PUBLIC, INTERFACES, log, Gate)
    guard.shut()
    guard.remove()
    assert judged_before(Gate) == ()
    enforcement = enforcement_of(2.0, PUBLIC, INTERFACES, log, Gate)
    assert enforcement.gate is None
    assert enforcement.margin > 2.0
    assert enforcement.lifetime == 2, "to be rounded down: nothing else ends the hold"
    assert enforcement.warning == WITHOUT_GATE
    assert [text.startswith(WITHOUT_GATE) for text in said] == [True, True]


class Present:
    """A kernel whose rules are there or not; notes what is done."""

    def __init__(self, present: bool) -> None:
        self._present = present
        self.done: list[str] = []

    def adopt(self, _public: Iterable[str], _interfaces: Iterable[str]) -> bool:
        """See AgentGate."""
        self.done.append("adopt")
        return self._present

    def install(self, _public: Iterable[str], _interfaces: Iterable[str]) -> None:
        """See AgentGate."""
        self.done.append("install")

    def state(self) -> GateState:
        """See AgentGate."""
        return GateState(True)

    def close(self) -> None:
        """See AgentGate."""


@pytest.mark.parametrize(("present", "done"), [(True, ["adopt"]), (False, ["adopt", "install"])])
def test_an_agent_takes_the_gate_over_as_it_is_and_loads_one_that_is_gone(present: bool, done: list[str]) -> None:
    """To load rules that are there would shut the gate in the midst of a hold that this agent adopts."""
    kernel = Present(present)
    enforcement = enforcement_of(2.0, PUBLIC, INTERFACES, lambda _text, _level: None, lambda: cast(Gate, kernel))
    assert kernel.done == done
    assert enforcement.gate is not None
    assert enforcement.lifetime == 3, "to be rounded up: the gate ends the hold, and a beat in time keeps the address"


def test_another_trouble_of_the_kernel_is_no_lack_of_nf_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> object:
        raise NetlinkError("cannot open a netlink socket of family 12", errno.EMFILE)

    monkeypatch.setattr(gate, "NftSocket", full)
    with pytest.raises(NetlinkError):
        enforcement_of(2.0, PUBLIC, INTERFACES, lambda _text, _level: None, Gate)
