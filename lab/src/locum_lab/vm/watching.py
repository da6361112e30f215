"""The observer beside a lab of guests, and what it has heard."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Collection, Sequence
from typing import Self

from locum.errors import LocumError
from locum_lab import observer, processes
from locum_lab.observer import Record
from locum_lab.tail import Tail
from locum_lab.vm.lab import VmLab

#: Limit for the observer to judge the rest and end, in seconds.
_ENDS_WITHIN = 300.0


class Watching:
    """Runs ``locum lab observe`` until :meth:`end`: which node speaks for each address on the public bridge.

    ``interval``: seconds between two questions for each address; each question costs every emulated guest more than
    a millisecond. ``window``: seconds of the first criterion of
    :mod:`locum_lab.judge`. Emulated guests answer late, so the window is longer than the usual three intervals, and
    still shorter than two moves. ``vlan``: asks in this VLAN. ``records`` are the observer's, up to the last
    :meth:`read`.
    """

    def __init__(self, lab: VmLab, interval: float = 0.2, window: float = 2.0, vlan: int = 0) -> None:
        self.records: list[Record] = []
        path = lab.directory / "observe.jsonl"
        path.unlink(missing_ok=True)
        self._tail = Tail(path)
        self._addresses = tuple(public.address for public in lab.layout.public_addresses)
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "locum_lab.command", "observe", "--name", lab.layout.name),
                *("--interval", f"{interval * 1000:g}", "--window", f"{window * 1000:g}"),
                *("--vlan", str(vlan)),
                *("--output", str(path)),
            ],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        # Beside guests, which have that priority, it would lose frames.
        processes.prefer(self._process.pid)
        lab.wait_for("the observer's first question", self._has_begun)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def _has_begun(self) -> bool:
        self.read()
        return bool(self.records)

    def read(self) -> None:
        """Read what it has written since the last call. Raises LocumError when it has ended."""
        if self._process.poll() is not None:
            _, reason = self._process.communicate()
            raise LocumError(f"locum lab observe ended: {reason.decode(errors='replace').strip()}")
        self.records += map(observer.read, self._tail.lines())

    def end(self) -> Record:
        """End it and return its last record, the verdict. Raises LocumError for one that is worth nothing: see
        :func:`verdict`. Every public address must have been served at some time.
        """
        self._process.send_signal(signal.SIGTERM)
        self._process.communicate(timeout=_ENDS_WITHIN)
        self.records += map(observer.read, self._tail.lines())
        return verdict(self.records, self._addresses)

    def holders(self) -> dict[str, str]:
        """Address → the node that was heard for it last."""
        return {record.address: record.node for record in self.records if record.event == "speaks"}

    def spoken_by(self, node: str, since: float = 0.0) -> set[str]:
        """The addresses for which this node has begun to speak at ``since`` (boot time) or later."""
        return {r.address for r in self.records if r.event == "speaks" and r.node == node and r.t >= since}


def verdict(records: Sequence[Record], addresses: Collection[str]) -> Record:
    """The observer's last record. Raises LocumError without one, and when the observer cannot have seen everything:
    the kernel could not deliver frames to it, or it heard no node for one of these addresses.
    """
    if not records or records[-1].event != "end":
        raise LocumError("the observer ended without a verdict")
    last = records[-1]
    if last.lost:
        raise LocumError(f"the observer missed {last.lost} frames: the machine is too slow for the verdict")
    heard = {record.address for record in records if record.event == "speaks"}
    if missing := sorted(set(addresses) - heard):
        raise LocumError(f"the observer asked {last.asked} times and heard no node for {', '.join(missing)}")
    return last
