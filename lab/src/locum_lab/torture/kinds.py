"""The kinds of acts, their weights, and their exclusions.

Tables only. Acts that :mod:`locum_lab.faults` lacks are admin commands, or are in :mod:`.actions`.
"""

from __future__ import annotations

#: Acts that make a node unfit for as long as they last, with their weight.
STANDING: dict[str, int] = {
    "cut": 4,
    "cut-private": 4,
    "mute-private": 3,
    "deaf-private": 3,
    "link": 3,
    "kill-all": 3,
    "freeze": 5,
    "freeze-agent": 3,
    "service": 3,
    "hang": 2,
    "hang-script": 4,
    "fail-script": 3,
    "full-disk": 2,
    "no-descriptors": 2,
    "terminate": 2,
    "disable": 2,
    "stop": 2,
    "ban": 2,
}
#: Acts that the cluster cannot detect: a node whose public network carries only one direction has link, and its
#: services work. They end with the storm, since nothing could be required of the cluster while they last.
FLEETING: dict[str, int] = {"mute-public": 2, "deaf-public": 2}
#: Acts that are over at once and that a fit node must survive without losing its fitness.
PASSING: dict[str, int] = {
    "kill-agent": 3,
    "remove-address": 2,
    "foreign-address": 3,
    "flush": 3,
    "move": 3,
    "auto": 1,
    "tunable": 3,
    "event": 2,
    "reload": 1,
}
#: Acts on the store: on a node's etcd member, or on the embedded store of all nodes.
ON_STORE: dict[str, dict[str, int]] = {
    "etcd": {"kill-etcd": 3, "freeze-etcd": 3, "wipe-store": 1, "restore-store": 1},
    "embedded-file": {"kill-store": 2, "freeze-store": 2, "wipe-store": 1, "restore-store": 1},
    "embedded": {},
}
#: The store is killed and begins anew, with nothing or with a copy from an earlier round.
GOING_BACK = frozenset({"wipe-store", "restore-store"})
WHOLE_STORE = frozenset({"kill-store", "freeze-store"}) | GOING_BACK
#: Acts that separate a node's etcd member from the others.
WAY_TO_ETCD = frozenset({"cut", "cut-private", "mute-private", "deaf-private"})
#: Only where the private network is the path to the store; a Unix socket has no directions to cut.
_ONLY_ETCD = frozenset({"mute-private", "deaf-private"})
#: Acts that are requests to a daemon.
ADMIN = frozenset({"disable", "stop", "ban", "move", "auto", "tunable", "event", "reload"})
#: Events in which the torture's script hangs or fails.
SCRIPT_EVENTS = (
    *("monitor", "monitor", "startup", "takeip", "takeip", "releaseip", "releaseip"),
    *("startipreallocate", "ipreallocated", "recovered"),
)
EVENTS_BY_HAND = ("monitor", "monitor", "ipreallocated", "recovered")

#: Tunables set at random, and their values. The first value is the run's initial one; time limits are short, to keep
#: rounds short. NoIPTakeover is left out: with it the cluster does not promise to serve.
TUNABLES: dict[str, tuple[float, ...]] = {
    "MonitorInterval": (2, 1, 3),
    "MonitorTimeout": (5, 3),
    "EventTimeout": (4, 3),
    "RecoveryBanPeriod": (5, 10),
    "BanAfterFailures": (3, 2),
    "NoIPFailback": (0, 1),
    "NoIPHostOnAllDisabled": (0, 1),
    "AnnounceCount": (5, 1),
    "TickleCount": (4, 0),
    "LinkUpDelay": (1, 0, 3),
    "HealthyDelay": (3, 0, 6),
    "DampingLongest": (6, 12),
}

#: With these on a node, none of its processes restores the rules while its hold lasts or the kernel still has its
#: addresses: a flush then is a double fault that docs/safety.md excludes.
NO_AGENT = frozenset({"freeze", "freeze-agent", "kill-all"})
NOT_WITH_FLUSH = NO_AGENT | {"kill-agent", "foreign-address", "terminate", "no-descriptors"}
#: A daemon that ends in order removes its rules: then an address that is added by hand is not its responsibility.
NOT_TOGETHER = frozenset({"terminate", "foreign-address"})

#: On one node, no two of a group at one time: undoing one would undo the other, or one prevents the other.
GROUPS: tuple[frozenset[str], ...] = (
    WAY_TO_ETCD,
    frozenset({"cut", "mute-public", "deaf-public", "link"}),
    frozenset({"kill-all", "terminate", "freeze", "freeze-agent"}),
    frozenset({"kill-etcd", "freeze-etcd"}),
    frozenset({"service", "hang"}),
    frozenset({"hang-script", "fail-script"}),
)


def standing_on(store: str) -> dict[str, int]:
    """The acts of STANDING that are possible in a lab on that kind of store."""
    return {kind: weight for kind, weight in STANDING.items() if store == "etcd" or kind not in _ONLY_ETCD}
