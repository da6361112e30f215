"""Sends echo requests for public addresses to one node, whichever node speaks for them.

They bypass the neighbour entries of a client, so a node that has lost its addresses continues to get them. Run in the
hub's namespace: ``python -m tests.vm.asking MAC VLAN ADDRESS ...``.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from locum_lab import packets
from locum_lab.layout import CLIENT_V4, CLIENT_V6
from locum_lab.network import CLIENT_MAC
from locum_lab.vm.lab import VmLab
from tests.lab.namespaces import echo4, echo6

#: Seconds between two requests for one address.
_INTERVAL = 0.2


@contextlib.contextmanager
def asking(lab: VmLab, mac: str, addresses: Iterable[str], vlan: int = 0) -> Iterator[None]:
    """Ask the machine with this hardware address until the end of the block; ``vlan``: a tag, or 0."""
    command = [*("ip", "netns", "exec", lab.layout.hub, sys.executable, "-m", "tests.vm.asking")]
    process = subprocess.Popen(
        [*command, mac, str(vlan), *sorted(addresses)],
        stdin=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )
    try:
        yield
        assert process.poll() is None, "the requests have ended"
    finally:
        process.kill()
        process.wait()


def main(mac: str, vlan: int, addresses: Sequence[str]) -> None:
    """Ask for ever, from the client's addresses, so that the client answers the node's own questions."""
    public = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    public.bind(("public", 0))
    sender, target = packets.mac_bytes(CLIENT_MAC), packets.mac_bytes(mac)
    frames = [
        packets.tagged(
            echo6(sender, target, CLIENT_V6, address) if ":" in address else echo4(sender, target, CLIENT_V4, address),
            vlan,
        )
        for address in addresses
    ]
    while True:
        for frame in frames:
            public.send(frame)
        time.sleep(_INTERVAL)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
