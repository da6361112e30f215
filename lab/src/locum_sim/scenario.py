"""The cluster of a seed: number of nodes and addresses, speed, density of faults.

Values only, drawn in a fixed order from one generator, so that a knob that is set by hand changes nothing else.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from locum.rules.hold import CLOCK_RATE_BOUND
from locum.rules.schema import HostedAddress

HOLDS = (0.25, 0.5, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0)
#: One-way delays between node and store in seconds: one room, one building, busy, far (shares of the beat interval).
NETWORKS = ((0.00005, 0.0002), (0.0002, 0.002), (0.001, 0.01), (0.002, 0.02))


class Scenario(NamedTuple):
    """The parameters of one run. Times in seconds."""

    seed: int
    nodes: int
    hold: float
    #: Hold of each node; all the same in most runs.
    holds: tuple[float, ...]
    hosted: tuple[tuple[HostedAddress, ...], ...]
    interfaces: tuple[str, ...]
    rates: tuple[float, ...]
    hz: tuple[int, ...]
    network: tuple[float, float]
    usual: tuple[float, float]
    handles: tuple[tuple[str, ...], ...]
    #: Whether node numbers are configured.
    numbered: bool
    history: int
    #: Tunable → value, as an admin set them before the start.
    tunables: dict[str, float]
    #: Mean time between two faults.
    calm: float
    #: Rounds of trouble and healing, and how long the trouble of each lasts.
    rounds: int
    trouble: float


def shape_of(seed: int, nodes: int | None = None, addresses: int | None = None, hold: float | None = None) -> Scenario:
    """The scenario of ``seed``; arguments replace drawn values."""
    random = Random(f"shape {seed}")
    count = random.choice((1, 2, 2, 3, 3, 3, 3, 4, 5, 6))
    count = nodes or count
    pool = random.choice((1, 2, 3, 4, 6, 8, 12, 20))
    pool = addresses or pool
    drawn = random.choice(HOLDS)
    drawn = hold or drawn
    mixed = random.random() < 0.1
    holds = tuple(random.choice(HOLDS) if mixed else drawn for _ in range(6))[:count]
    interfaces = ("eth0", "eth1")[: random.choice((1, 1, 2))]
    everywhere = random.random() < 0.7
    names = [
        (f"10.0.{number % 2}.{number + 1}", 24) if number % 3 < 2 else (f"2001:db8::{number + 1:x}", 64)
        for number in range(pool)
    ]
    hosted = []
    for _ in range(6):
        chosen = [one for one in names if everywhere or random.random() < 0.7]
        where = tuple(random.sample(interfaces, len(interfaces)))
        hosted.append(tuple(HostedAddress(a, bits, where) for a, bits in chosen))
    half = CLOCK_RATE_BOUND / 2
    extreme = random.random() < 0.7
    rates = tuple(1.0 + (random.choice((-half, half)) if extreme else random.uniform(-half, half)) for _ in range(6))
    hz = tuple(random.choice((100, 250, 1000)) for _ in range(6))
    room = random.choice((0, 0, 1, 1, 2, 3))
    shortest = min(holds)
    network = NETWORKS[room]
    if network[1] > shortest / 20:
        network = NETWORKS[1]
    usual = random.choice(((0.001, 0.01), (0.005, 0.1), (0.02, 0.5)))
    preparing = random.random() < 0.25
    handles = tuple(
        tuple(e for e in ("startrecovery", "startipreallocate") if preparing and random.random() < 0.5)
        for _ in range(6)
    )
    history = random.choice((30, 300, 10_000))
    timeout = random.choice((1.0, 2.0, 5.0))
    tunables: dict[str, float] = {
        "EventTimeout": timeout,
        "MonitorTimeout": timeout,
        "MonitorInterval": random.choice((1.0, 3.0, 10.0)),
        "RecoveryBanPeriod": random.choice((1.0, 5.0)),
        "BanAfterFailures": random.choice((1, 2, 3)),
        "NoIPFailback": random.choice((0, 0, 0, 1)),
        "NoIPHostOnAllDisabled": random.choice((0, 0, 1)),
    }
    # From a separate generator, so that the rest of a seed's history stays the same.
    damping = Random(f"damping {seed}")
    tunables["LinkUpDelay"] = damping.choice((0.0, 0.5, 3.0))
    tunables["HealthyDelay"] = damping.choice((0.0, 0.5, 3.0))
    tunables["DampingLongest"] = damping.choice((3.0, 6.0))
    tunables["DampingWindow"] = damping.choice((5.0, 60.0))
    return Scenario(
        seed=seed,
        nodes=count,
        hold=drawn,
        holds=holds,
        hosted=tuple(hosted[:count]),
        interfaces=interfaces,
        rates=rates[:count],
        hz=hz[:count],
        network=network,
        usual=usual,
        handles=handles[:count],
        numbered=random.random() < 0.3,
        history=history,
        tunables=tunables,
        calm=random.choice((0.15, 0.3, 0.6, 1.0, 2.0, 4.0)),
        rounds=random.choice((1, 2, 3)),
        trouble=random.uniform(8.0, 25.0),
    )
