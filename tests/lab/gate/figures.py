"""Measure the gate: ``python -m tests.lab.gate.figures``, as root. Prints what docs/enforcement.md quotes.

For each hold and family: a process arms and confirms, and is killed; the client asks in every way, every half
millisecond. The figure is when the last answer left the node, against the deadline, by the kernel's time stamps.
"""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Callable

from tests.lab.gate.scene import A4, A6, PUBLIC, Puppet, Scene, last_answer
from tests.lab.namespaces import Client, Network

RUNS = 10


def deadlines(scene: Scene) -> None:
    scene.configure(A4, A6)
    for hold in (0.1, 0.4, 2.0):
        for address in (A4, A6):
            figures: dict[str, list[float]] = {}
            for _ in range(RUNS):
                puppet = Puppet(scene.node)
                puppet.do(f"gate.install({PUBLIC!r}, ['eth0']); gate.allow({(A4, A6)!r})")
                # The process itself says when it began; it is on the same clock.
                puppet.say(f"import time; t = time.time_ns(); gate.confirm(gate.arm(0, {hold})); print(t, flush=True)")
                began = int(puppet.heard())
                puppet.signal(signal.SIGKILL)
                latest = last_answer(scene, address, time.monotonic() + hold + 0.2, pause=0.0005)
                puppet.end()
                for name, when in latest.items():
                    figures.setdefault(name, []).append((when - began) / 1e6 - hold * 1000)
            for name, values in figures.items():
                print(
                    f"hold {hold:4} s  {name:6} last answer minus deadline, ms: "
                    f"min {min(values):7.2f}  median {statistics.median(values):7.2f}  max {max(values):7.2f}"
                    f"  ({len(values)} runs)",
                    flush=True,
                )


def costs(scene: Scene) -> None:
    gate = scene.gate()
    many = [f"10.78.0.{n}" for n in range(1, 101)] + [f"fd78::{n:x}" for n in range(1, 101)]
    scene.install(gate, tuple(many))
    gate.allow(many)

    def cost(name: str, action: Callable[[int], object], runs: int = 500) -> None:
        taken = []
        for number in range(runs):
            start = time.perf_counter()
            action(number)
            taken.append((time.perf_counter() - start) * 1e6)
        taken.sort()
        print(f"{name:34} median {taken[runs // 2]:7.0f} µs   99 % {taken[runs * 99 // 100]:7.0f} µs", flush=True)

    cost("arm", lambda n: gate.arm(n % 4, 2))
    cost("arm and confirm", lambda n: gate.confirm(gate.arm(n % 4, 2)))
    cost("allow one address", lambda n: gate.allow([many[n % 200]]))
    cost("deny one address", lambda n: gate.deny([many[n % 200]]))
    cost("allow 200 addresses", lambda _: gate.allow(many), 50)
    cost("deny 200 addresses", lambda _: gate.deny(many), 50)
    cost("shut", lambda _: gate.shut(), 50)
    cost("verify, 200 addresses", lambda _: gate.verify(), 50)
    cost("install, 200 addresses (nft)", lambda _: scene.install(gate, tuple(many)), 20)
    gate.close()


def main() -> None:
    network = Network()
    try:
        node = network.host("node", "10.77.0.1/24", "fd77::1/64")
        outside = network.host("client", "10.77.0.9/24", "fd77::9/64")
        client = Client(outside, "10.77.0.9", "fd77::9")
        scene = Scene(network, node, node, outside, client, node.mac("eth0"))
        costs(scene)
        deadlines(scene)
        client.close()
    finally:
        network.delete()


if __name__ == "__main__":
    main()
