"""The rules of rounding for address lifetimes (``valid_lft``). Pure.

The kernel counts lifetimes in whole seconds and looks at them when it finds the time. From ``check_lifetime`` in
``net/ipv4/devinet.c`` and ``addrconf_verify_rtnl`` in ``net/ipv6/addrconf.c``, with the constants of
``include/net/addrconf.h``:

- an address counts as expired 0.02 s (``ADDRCONF_TIMER_FUZZ_MINUS``) before its lifetime has passed;
- the next look is moved to a whole second if that is less than 0.25 s (``ADDRCONF_TIMER_FUZZ``) away, and there is
  at least one second (``ADDRCONF_TIMER_FUZZ_MAX``) between two looks: an address that expires just after a look goes
  a second late, or 0.25 s. Measured: up to 1.02 s with staggered lifetimes, 0.25 s alone. 1.25 s covers both.
"""

from __future__ import annotations

import math

#: An address may be removed this much before its lifetime ends. Seconds.
EARLINESS = 0.02

#: An address may be removed this much after its lifetime has ended. Seconds.
LATENESS = 1.25


def lifetime_for(hold: float) -> int:
    """The lifetime to give to addresses at each renewal while the gate enforces a hold of ``hold`` seconds.

    The gate silences the address in time; the lifetime only sees to it that the address leaves the interface when
    nobody is left to remove it. So it is rounded up: it must not take away what a beat in time would have kept.
    """
    return max(1, math.ceil(hold + EARLINESS))


def lifetime_without_gate(hold: float) -> int:
    """The same where only the lifetime enforces the hold: rounded down, but the kernel knows nothing below a second."""
    return max(1, math.floor(hold))


def gone_after(lifetime: int) -> float:
    """Seconds after its last renewal by which an address with that lifetime is gone from the kernel, for certain."""
    return lifetime + LATENESS


def margin_without_gate(hold: float) -> float:
    """What has to be waited beyond ``hold`` before another node may take the address, where only the lifetime
    enforces the hold. Seconds.

    A lifetime is given until the very end of the hold: by a renewal that comes late, by a take. It counts from then.
    """
    return gone_after(lifetime_without_gate(hold))
