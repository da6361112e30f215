"""A machine's kernel, with the parts on which the promise rests: addresses with lifetimes, links, and the gate.

The kernel continues when every process is dead. The model lets openings happen as early, and closings as late, as a
real kernel may:

- The gate (``docs/enforcement.md``): a slot is armed for a number of milliseconds, counted in whole jiffies from the
  present one, and also has a wall-clock end; it lets packets through only while confirmed. An address speaks while it
  is configured, held, and a slot is open.
- ``valid_lft`` counts in seconds and is enforced up to 1.25 s late.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from random import Random
from typing import Protocol

from locum.machine.gate.gate_rules import SLOTS
from locum.machine.gate.lifetimes import LATENESS
from locum_sim.clocks import MachineClock
from locum_sim.engine import Engine

#: Lifetimes beyond this, in seconds, are no lifetimes of ours.
PERMANENT = 10**5
#: How long a process may outlive its SIGKILL, in seconds: mostly at most, and at worst.
KILL_LATE, LONG_KILL_LATE = 0.05, 1.5


class KernelListener(Protocol):
    """Receives the kernel's actions."""

    def may_speak(self, addresses: Iterable[str]) -> None:
        """From this instant the kernel may let ``addresses`` speak."""

    def address_gone(self, address: str, interface: str) -> None:
        """Netlink: ``address`` was removed from ``interface``, by any program."""

    def address_new(self, address: str, interface: str) -> None:
        """Netlink: ``address`` was configured on ``interface``, by any program."""


class Slot:
    """One timed slot of the gate."""

    __slots__ = ("confirmed", "expires", "until")

    def __init__(self) -> None:
        self.expires = -math.inf
        self.until = -math.inf
        self.confirmed = False


class Kernel:
    """``hz``: jiffies per second."""

    def __init__(
        self, engine: Engine, clock: MachineClock, hz: int, random: Random, listener: KernelListener, links: list[str]
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._hz = hz
        self._random = random
        self._listener = listener
        #: Address → (interface, end of its lifetime in seconds of jiffies).
        self.addresses: dict[str, tuple[str, float]] = {}
        self.held: dict[str, None] = {}
        self.slots = [Slot() for _ in range(SLOTS)]
        self.links = dict.fromkeys(links, True)
        self.suspended = False
        #: The gate's rules were removed: every configured address speaks.
        self.lawless = False
        #: Addresses that it does not accept, and whether it refuses every change of the gate's timers.
        self.refuses: set[str] = set()
        self.gate_fails = False
        #: How the guard's removals of addresses fail: "" (they do not), "all" or "each".
        self.removal_fails = ""
        #: Address → when it was configured, true time.
        self.since: dict[str, float] = {}
        #: The addresses that the gate's rules judge; the others speak. None without a gate.
        self.judged: frozenset[str] = frozenset()
        self._generation: dict[str, int] = {}

    # -- the gate ----------------------------------------------------------------------------------------------

    def open(self) -> bool:
        """Whether a slot is open now."""
        if self.suspended:
            return False
        if self.lawless:
            return True
        jiffies, wall = -1.0, 0.0
        for slot in self.slots:
            if slot.confirmed:
                if jiffies < 0.0:
                    jiffies, wall = self._clock.jiffies(), self._clock.wall()
                if jiffies < slot.expires and wall < slot.until:
                    return True
        return False

    def speaks(self, address: str) -> bool:
        """Whether this machine may answer for ``address`` now. The state of its link is ignored."""
        if address not in self.addresses or self.suspended:
            return False
        return address not in self.judged or ((address in self.held or self.lawless) and self.open())

    def arm(self, slot: int, timeout: float, until: float) -> None:
        """Give ``slot`` a timer of ``timeout`` seconds, and the wall-clock end ``until``; it is not confirmed."""
        one = self.slots[slot]
        one.confirmed = False
        one.expires = self.timer_end(timeout)
        one.until = until

    def timer_end(self, timeout: float) -> float:
        """The end of a timer of ``timeout`` seconds that is set now: in whole jiffies, never late."""
        milliseconds = math.floor(timeout * 1000)
        return (math.floor(self._clock.jiffies() * self._hz) + milliseconds * self._hz // 1000) / self._hz

    def confirm(self, slot: int) -> None:
        """Open the slot for the rest of its timer."""
        was_open = self.open()
        self.slots[slot].confirmed = True
        if not was_open and self.open():
            self._listener.may_speak(self.held)

    def shut(self) -> None:
        """Clear every slot."""
        for slot in self.slots:
            slot.confirmed = False
            slot.expires = -math.inf

    def allow(self, address: str) -> None:
        """Add to the held set."""
        if address not in self.held:
            self.held[address] = None
            self._listener.may_speak((address,))

    def deny(self, addresses: Iterable[str]) -> None:
        """Remove from the held set."""
        for address in list(addresses):
            self.held.pop(address, None)

    def lose_rules(self) -> None:
        """A firewall reload removes the gate's rules."""
        self.lawless = True
        self._listener.may_speak(self.addresses)

    def restore_rules(self) -> None:
        """Restore the rules: shut, with the same addresses held."""
        self.lawless = False
        self.shut()

    def install_gate(self, public: Iterable[str]) -> None:
        """The rules are loaded anew for ``public``: shut, and with nothing held."""
        self.held.clear()
        self.restore_rules()
        self._judge(public)

    def adopt_gate(self, public: Iterable[str]) -> bool:
        """The rules, as they are, judge ``public`` from now on. False when they are not there."""
        if self.lawless or not self.judged:
            return False
        self._judge(public)
        return True

    def remove_gate(self) -> None:
        """The rules are gone in order: nothing is judged any longer."""
        self.held.clear()
        self.shut()
        self._judge(())

    def configure_gate(self, public: Iterable[str]) -> None:
        """The rules judge ``public`` from now on; what leaves them is no longer held."""
        judged = frozenset(public)
        self.deny([address for address in self.held if address not in judged])
        self._judge(judged)

    def _judge(self, public: Iterable[str]) -> None:
        before, self.judged = self.judged, frozenset(public)
        self._listener.may_speak(sorted(before - self.judged))

    def look_again(self) -> None:
        """Check again after the gate's obstacle may have gone (the machine resumed, the wall clock was set back)."""
        if self.open():
            self._listener.may_speak(self.held)

    # -- addresses ---------------------------------------------------------------------------------------------

    def add(self, address: str, interface: str, lifetime: int) -> bool:
        """Configure (or move, or renew) ``address`` with ``valid_lft`` ``lifetime`` seconds; False: refused."""
        if address in self.refuses:
            return False
        old = self.addresses.get(address)
        if old is not None and old[0] != interface:
            # Two interfaces may have one address; the simulation keeps the last, which speaks as much.
            self._listener.address_gone(address, old[0])
        self.addresses[address] = (interface, self._clock.jiffies() + lifetime)
        if old is None or old[0] != interface:
            self.since[address] = self._engine.now
            self._listener.address_new(address, interface)
            self._listener.may_speak((address,))
        if old is None:
            generation = self._generation[address] = self._generation.get(address, 0) + 1
            self._expire_later(address, generation, lifetime)
        return True

    def renew(self, address: str, interface: str, lifetime: int) -> bool:
        """Renew the lifetime of ``address`` on ``interface``; the request configures it when it is absent."""
        old = self.addresses.get(address)
        if address in self.refuses:
            return False
        if old is not None and old[0] == interface:
            self.addresses[address] = (interface, self._clock.jiffies() + lifetime)
            return True
        return self.add(address, interface, lifetime)

    def is_permanent(self, address: str) -> bool:
        """Whether somebody configured it by hand."""
        return self.addresses[address][1] - self._clock.jiffies() > PERMANENT

    def remove(self, address: str, interface: str | None = None) -> None:
        """Remove ``address`` (from ``interface`` if it is there, None: from any)."""
        old = self.addresses.get(address)
        if old is not None and interface in (None, old[0]):
            del self.addresses[address]
            self._listener.address_gone(address, old[0])

    def _expire_later(self, address: str, generation: int, lifetime: float) -> None:
        late = self._random.random() * LATENESS
        self._engine.after(lifetime / self._clock.rate + late, self._expire, address, generation)

    def _expire(self, address: str, generation: int) -> None:
        found = self.addresses.get(address)
        if found is None or self._generation[address] != generation:
            return
        left = found[1] - self._clock.jiffies()
        if self.suspended:
            # Timers have stopped: check again soon after they continue.
            self._engine.after(0.05, self._expire, address, generation)
        elif left > 0:
            self._expire_later(address, generation, left)
            return
        self.remove(address)
