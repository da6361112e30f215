"""The rules of rounding for address lifetimes (``valid_lft``). Pure.

The kernel counts lifetimes in whole seconds and checks them with a delay. From ``check_lifetime`` in
``net/ipv4/devinet.c`` and ``addrconf_verify_rtnl`` in ``net/ipv6/addrconf.c``, with the constants of
``include/net/addrconf.h``:

- an address counts as expired 0.02 s (``ADDRCONF_TIMER_FUZZ_MINUS``) before its lifetime has passed;
- the next check is moved to a whole second if that is less than 0.25 s (``ADDRCONF_TIMER_FUZZ``) away, and checks are
  at least one second (``ADDRCONF_TIMER_FUZZ_MAX``) apart: an address that expires just after a check is removed a
  second late, or 0.25 s. Measured: up to 1.02 s with staggered lifetimes, 0.25 s alone. 1.25 s covers both.
"""

from __future__ import annotations

import math

#: The kernel may remove an address this much before its lifetime ends. Seconds.
EARLINESS = 0.02

#: The kernel may remove an address this much after its lifetime has ended. Seconds.
LATENESS = 1.25


def lifetime_for(hold: float) -> int:
    """The lifetime to give to addresses at each renewal while the gate enforces a hold of ``hold`` seconds.

    The gate silences the address in time; the lifetime only removes it from the interface when no process is left to
    do so. So it is rounded up: it must not remove an address that a beat in time would have kept.
    """
    return max(1, math.ceil(hold + EARLINESS))


def lifetime_without_gate(hold: float) -> int:
    """The same where only the lifetime enforces the hold: rounded down, to at least the kernel's minimum of 1 s."""
    return max(1, math.floor(hold))


def gone_after(lifetime: int) -> float:
    """Seconds after its last renewal by which an address with that lifetime has certainly left the kernel."""
    return lifetime + LATENESS


def margin_without_gate(hold: float) -> float:
    """How long beyond ``hold`` another node must wait before it takes the address, where only the lifetime enforces
    the hold. Seconds.

    A late renewal or a take may give the lifetime at the very end of the hold; the lifetime counts from then.
    """
    return gone_after(lifetime_without_gate(hold))
