"""How long an address may be without service after a round of faults: a sum of named parts.

Pure. Each part is the highest cost of one fault, computed from the settings of the lab. The *machine's* lateness is
measured (:mod:`.machine`), not estimated, and added when a stretch is judged.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from locum_lab.torture.kinds import TUNABLES
from locum_lab.torture.schedule import Round, Shape

#: The margin of any hold of use is below that, in seconds (docs/safety.md).
MARGIN = 0.1
#: Daemons that start, run ``startup`` and pass their first monitor, in seconds.
START = 10.0
#: ``startup`` that keeps failing is tried again after at most this many seconds (rules/monitoring.py).
STARTUP_PAUSE = 30.0
#: A node that failed to take an address three times in a round refuses it for this long, in seconds (rules/serving.py).
REFUSAL = 20.0
#: A client that missed all announcements asks again when its entry for the address is not fresh (Linux: up to 1.5 times
#: base_reachable_time, 30 s) and does not answer three questions, one a second, after a delay of 5 s (arp(7)).
NEIGHBOUR = 45.0 + 5.0 + 3.0
#: A store that went back loses the tunables, so that their defaults apply: MonitorInterval, EventTimeout, and
#: DampingLongest.
DEFAULT_MONITOR, DEFAULT_TIMEOUT, DEFAULT_DAMPING = 15.0, 30.0, 120.0
#: Within this many seconds after healing, every node must be OK and every address on its assigned node.
SETTLED = 90.0


class Part(msgspec.Struct, frozen=True):
    """``seconds`` of a bound, and their reason."""

    why: str
    seconds: float


class Bound(msgspec.Struct, frozen=True):
    """The sum of its parts."""

    parts: tuple[Part, ...]

    @property
    def seconds(self) -> float:
        """The total."""
        return sum(part.seconds for part in self.parts)

    def words(self) -> str:
        """For people: ``9.1 s = hold and margin 2.1 + slack 5.0 + …``."""
        return f"{self.seconds:.1f} s = " + " + ".join(f"{part.why} {part.seconds:.1f}" for part in self.parts)


def longest(tunable: str) -> float:
    """The largest value that the tunable gets in a run."""
    return max(TUNABLES[tunable])


def standing(storm: Round, shape: Shape, *, slack: float, election: float) -> Bound:
    """While the faults stand: until the nodes that are fit serve everything.

    ``slack`` in seconds is for all work meanwhile on a machine without lateness; ``election`` is etcd's election
    time-out in seconds, 0 for another store.
    """
    parts = [Part("hold and margin", shape.hold + MARGIN), Part("slack", slack)]
    if storm.store_disturbed:
        # Every member gets a full hold again when the store is back (docs/safety.md).
        parts.append(Part("another hold: the store was disturbed", shape.hold + MARGIN))
        if election:
            parts.append(Part("two elections", 2 * election))
    return Bound((*parts, *_gone_back(storm, shape), *_trouble(storm, shape)))


def healed(storm: Round, shape: Shape, *, slack: float, election: float) -> Bound:
    """From healing on, until the whole cluster serves everything."""
    parts = [*standing(storm, shape, slack=slack, election=election).parts, Part("daemons start", START)]
    if storm.fit:
        return Bound(tuple(parts))
    # No node was healthy. The first one must notice its recovery, and its present event may last for a while.
    parts.append(Part("the next monitor", longest("MonitorInterval") + longest("MonitorTimeout")))
    troubled = _details(storm, ("hang-script", "fail-script"))
    short = {act.kind for act in storm.acts} & {"no-descriptors", "full-disk"}
    if troubled & {"startup", "monitor"}:
        parts.append(Part("startup is tried again", STARTUP_PAUSE))
    if short or troubled & {"ipreallocated", "recovered"}:
        parts.append(Part("a node that banned itself", longest("RecoveryBanPeriod")))
    if short or "takeip" in troubled:
        parts.append(Part("an address that was refused is tried again", REFUSAL))
    return Bound(tuple(parts))


def pause(storm: Round, shape: Shape, *, slack: float) -> Bound:
    """How long a served address may be without an answer again: it moves, with its scripts."""
    return Bound((Part("slack", slack), *_gone_back(storm, shape), *_trouble(storm, shape)))


def settled(storm: Round) -> float:
    """Seconds until the whole cluster must be well after healing: every node OK and each address in place.

    A node that came back counts only when its damping is over.
    """
    return SETTLED + (DEFAULT_DAMPING if storm.went_back else 0.0)


def _gone_back(storm: Round, shape: Shape) -> Sequence[Part]:
    if not storm.went_back:
        return ()
    return (
        Part("all join anew: the store went back", START + DEFAULT_MONITOR),
        Part("and wait for the holds from before", 2 * (shape.hold + MARGIN)),
    )


def _trouble(storm: Round, shape: Shape) -> Sequence[Part]:
    limit = max(longest("EventTimeout"), DEFAULT_TIMEOUT if storm.went_back else 0.0)
    hanging = _details(storm, ("hang-script",))
    parts = []
    if any(act.kind == "mute-public" for act in storm.acts):
        # The announcements of a take are lost.
        parts.append(Part("announcements are lost: until clients ask again", NEIGHBOUR))
    if any(act.kind == "hang" for act in storm.acts) or "monitor" in hanging:
        wait = longest("MonitorInterval") + longest("MonitorTimeout")
        parts.append(Part("until monitor finds what hangs", wait))
    per_address = len([event for event in ("takeip", "releaseip") if event in hanging])
    if per_address:
        # One script at a time (I5): a node on which it hangs gives up, or refuses, one address after the other.
        what = "scripts that hang, for each address"
        parts.append(Part(what, per_address * len(shape.addresses) * limit))
    others = len([event for event in ("startipreallocate", "ipreallocated", "recovered") if event in hanging])
    if others:
        parts.append(Part("scripts that hang, once each", others * limit))
    return parts


def _details(storm: Round, kinds: Collection[str]) -> set[str]:
    return {act.detail for act in storm.acts if act.kind in kinds}
