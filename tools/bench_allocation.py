"""How long the allocation takes: medians for clusters of several sizes, from scratch and after each kind of change.

Run it from the checkout: ``.venv/bin/python tools/bench_allocation.py [--runs N]``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping

from locum.rules.allocation import allocate

#: Addresses, nodes, subnets.
SIZES = [(500, 16, 5), (1000, 32, 1), (1000, 32, 10), (1000, 32, 100), (1000, 32, 1000), (5000, 64, 50)]

Assignment = Mapping[str, str]
Hosts = Mapping[str, frozenset[str]]


def pool(addresses: int, subnets: int) -> dict[str, int]:
    """``addresses`` addresses in ``subnets`` subnets of equal size."""
    size = addresses // subnets
    bits = 16 if size > 250 else 24
    found: dict[str, int] = {}
    for subnet in range(subnets):
        base = (10 << 24) + (subnet << (32 - bits))
        for host in range(1, size + 1):
            value = base + host
            found[".".join(str(value >> shift & 255) for shift in (24, 16, 8, 0))] = bits
    return found


def median_ms(runs: int, addresses: Mapping[str, int], hosts: Hosts, current: Assignment) -> float:
    """The median duration of one allocation, in milliseconds."""
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        allocate(addresses, hosts, current, {})
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) * 1000


def main() -> None:
    """Print one line per size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="runs of each case (default: %(default)s)")
    runs = parser.parse_args().runs
    columns = ("from scratch", "no change", "node dies", "node joins", "half joins", "uneven hosts")
    print("milliseconds, medians of", runs)
    print(f"{'addresses':>9} {'nodes':>5} {'subnets':>7}", *(f"{name:>12}" for name in columns))
    for count, nodes, subnets in SIZES:
        addresses = pool(count, subnets)
        everything = frozenset(addresses)
        hosts = {f"n{number}": everything for number in range(nodes)}
        one_less = dict(list(hosts.items())[1:])
        half = dict(list(hosts.items())[::2])
        # Each node lacks every third address, beginning elsewhere: no two neighbours can host the same.
        uneven = {
            node: frozenset(address for place, address in enumerate(addresses) if (place + number) % 3)
            for number, node in enumerate(hosts)
        }
        full = allocate(addresses, hosts, {}, {})
        after_death = allocate(addresses, one_less, full, {})
        on_half = allocate(addresses, half, full, {})
        cases: list[tuple[Hosts, Assignment]] = [
            (hosts, {}),
            (hosts, full),
            (one_less, full),
            (hosts, after_death),
            (hosts, on_half),
            (uneven, {}),
        ]
        figures = [median_ms(runs, addresses, able, current) for able, current in cases]
        print(f"{count:9} {nodes:5} {subnets:7}", *(f"{figure:12.1f}" for figure in figures))


if __name__ == "__main__":
    main()
