"""The invariants of the design, asserted during a run.

This file sees the truth (every kernel, the store, true time) and never changes anything. Speaking can begin only at a
few kinds of instants, and claims can end only at commits, so checking these covers every instant.

- **I1** at no instant two machines can speak for one address; and, stronger, a speaker has the claim in the store.
- **I2** ``takeip`` and ``updateip`` start only while the hold lasts, and when no other machine with an open gate has
  the address or runs a script for it.
- **I3** after the last change of addresses anywhere, every participant has run ``recovered`` (:meth:`Checks.unclosed`).
- **I5** scripts of two events never run at once on a machine.
- **I6** ``takeip`` only after ``startup`` and a ``monitor`` succeeded in this life of the daemon.
- **I7** ``releaseip`` starts only when the address is mute. (:mod:`locum_sim.convergence` checks at rest that it is
  gone afterwards.)
- **I8** only the leader writes plans, expires members, lifts bans and frees claims; a claim is a living member's.
- **I9** only another command changes what an admin command confirmed.

I4 (order of scripts) concerns only the event engine and is tested there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from locum.errors import StoreCorrupt
from locum.rules import schema
from locum.rules.schema import AdminRecord, ClaimRecord, LeaderRecord, MemberRecord
from locum.store.base import Batch, Entry
from locum.store.keyvalue import KeyValue
from locum_sim.decisions import stale
from locum_sim.promises import Promises
from locum_sim.run_state import RunState
from locum_sim.service import Author
from locum_sim.views import MachineView

ADMIN, STRANGER = Author("admin"), Author("stranger")
MOVES = ("takeip", "releaseip", "updateip")
DURABLE = ("admin", "prefer", "tunable")


class Checks:
    """The invariants of one run."""

    def __init__(self, run: RunState, machines: Mapping[str, MachineView], promises: Promises) -> None:
        self._run = run
        self._machines = machines
        self._promises = promises
        #: Machine → the (event, address) that runs.
        self.running: dict[str, tuple[str, str]] = {}
        #: Machine → events that have succeeded in this life of its daemon.
        self._earned: dict[str, set[str]] = {}
        #: When scripts last changed addresses, on any machine, and which change on which machine.
        self.last_change = (-1.0, "", "")
        #: Machine → when its last successful ``recovered`` began.
        self.recovered: dict[str, float] = {}
        self._began: dict[str, float] = {}
        #: Durable key → its value after a confirmed command (None: deleted).
        self.confirmed: dict[str, bytes | None] = {}
        #: Keys that another program spoiled, until a node repairs them.
        self.spoiled: set[str] = set()
        self._spoiled_claims: dict[str, ClaimRecord] = {}
        #: Machine → true time of its last beat that the store accepted.
        self.beaten: dict[str, float] = {}
        #: Machine → the true time until which it may hold by claims of a history that the store has lost.
        self._legacy: dict[str, float] = {}
        self.looks = 0
        #: How often a plan gave an address to another node.
        self.moves = 0
        self.plans = 0
        self.expired = 0

    def fail(self, invariant: str, text: str) -> None:
        """End the run."""
        self._run.fail(invariant, text)

    # -- I1 --------------------------------------------------------------------------------------------------

    def may_speak(self, name: str, addresses: Iterable[str]) -> None:
        """From this instant the machine may speak for some of ``addresses``: it alone may, and it has the claim."""
        machine = self._machines[name]
        if _excused(machine):
            return
        for address in addresses:
            if not machine.kernel.speaks(address) or self.is_by_hand(machine, address):
                continue
            self.looks += 1
            for other in self._machines.values():
                if other is machine or not other.kernel.speaks(address):
                    continue
                if not _excused(other) and not self.is_by_hand(other, address):
                    self.fail("I1", f"{machine.name} and {other.name} both speak for {address}")
            owner = self._claimant(address)
            self._promises.speaks(name, address)
            if owner != machine.name and not self._holds_of_old(machine):
                self.fail("I1", f"{machine.name} speaks for {address}, which {owner or 'no node'} has claimed")

    def is_by_hand(self, machine: MachineView, address: str) -> bool:
        """Whether an administrator configured ``address`` where the gate does not judge it: no daemon runs there,
        or the configuration of the daemon does not contain the address."""
        return address not in machine.kernel.judged and (machine.name, address) in self._run.by_hand

    def _claimant(self, address: str) -> str:
        """The node that has the claim in the store (or had it before the claim was spoiled), "" for none."""
        key = f"claim/{address}"
        if key in self.spoiled:
            return self._spoiled_claims[key].node
        entry = self._run.store.core.get(key)
        if entry is None:
            return ""
        record = schema.decode(key, entry.value)
        assert isinstance(record, ClaimRecord)
        return record.node

    def _holds_of_old(self, machine: MachineView) -> bool:
        """Whether a hold of ``machine`` from before the store went back may last: even then, two must not speak."""
        return self._run.engine.now < self._legacy.get(machine.name, -1.0)

    def went_back(self) -> None:
        """The store was wiped or restored: its present content is the truth, and earlier holds end by themselves."""
        core, now = self._run.store.core, self._run.engine.now
        for machine in self._machines.values():
            self._legacy[machine.name] = now + 1.001 * machine.identity.hold + 0.02
        self.spoiled.clear()
        self._spoiled_claims.clear()
        for key in self.confirmed:
            entry = core.get(key)
            self.confirmed[key] = entry.value if entry is not None else None

    # -- commits: I1, I8, I9 ---------------------------------------------------------------------------------

    def committed(self, author: Author, before: KeyValue, batch: Batch) -> None:
        """``batch`` is about to take effect."""
        if self._run.trace.on:
            self._run.trace.say("store", f"{author.name} {batch.revision}: {_summary(batch)}")
        changes = {change.key: change.value for change in batch.changes}
        if author.read is not None and (problem := stale(author.name, author.read, before, batch)) is not None:
            self.fail("I8", problem)
        for key, value in changes.items():
            kind, name = schema.split_key(key)
            if kind == "beat" and value is not None:
                self.beaten[name] = self._run.engine.now
                continue
            if author is STRANGER:
                self._spoiled(key, before)
                continue
            spoiled = key in self.spoiled
            self.spoiled.discard(key)
            if kind == "claim":
                self._claim_changes(author, name, before, value, changes, spoiled)
            elif kind == "plan":
                self._leaders_alone(author, before, changes, "a plan")
                self.plans += 1
            elif kind == "member" and author.name != name:
                self._leaders_alone(author, before, changes, f"the expiry of {name}")
                self._hold_is_over(name, before.get(key))
                self._run.expired(name, _incarnation(before.get(key)))
                self.expired += 1
            elif kind in DURABLE:
                self._durable_changes(author, kind, name, before, value, changes)

    def _spoiled(self, key: str, before: KeyValue) -> None:
        entry = before.get(key)
        if key.startswith("claim/") and key not in self.spoiled and entry is not None:
            # The owner of the spoiled claim remains: no other node may speak.
            record = schema.decode(key, entry.value)
            assert isinstance(record, ClaimRecord)
            self._spoiled_claims[key] = record
        self.spoiled.add(key)
        if key in self.confirmed:
            del self.confirmed[key]

    def _claim_changes(
        self,
        author: Author,
        address: str,
        before: KeyValue,
        value: bytes | None,
        changes: dict[str, bytes | None],
        spoiled: bool,
    ) -> None:
        owner = None
        if value is not None:
            record = schema.decode(f"claim/{address}", value)
            assert isinstance(record, ClaimRecord)
            owner = record.node
            if owner != author.name:
                # A leader may restore a spoiled claim with its former value.
                was = self._spoiled_claims.get(f"claim/{address}") if spoiled else None
                if was is None or (was.node, was.incarnation) != (owner, record.incarnation):
                    self.fail("I8", f"{author.name} writes a claim of {owner} on {address}")
                self._leaders_alone(author, before, changes, f"the claim of {owner}")
        for machine in self._machines.values():
            if machine.name == owner or _excused(machine) or self._holds_of_old(machine):
                continue
            if machine.kernel.speaks(address) and not self.is_by_hand(machine, address):
                what = f"is claimed by {owner}" if owner else "is free"
                self.fail("I1", f"{address} {what} while {machine.name} still speaks for it")
        old = before.get(f"claim/{address}")
        if old is not None:
            key = f"claim/{address}"
            known = self._spoiled_claims.pop(key) if spoiled else schema.decode(key, old.value)
            if isinstance(known, ClaimRecord) and known.node == author.name:
                if f"member/{author.name}" not in changes and not self._is_member(author, before):
                    self.fail("I8", f"{author.name} changes its claim on {address} but is no longer a member")
                return
            self._leaders_alone(author, before, changes, f"a change of the claim on {address}")
        elif not self._is_member(author, before):
            self.fail("I8", f"{author.name} claims {address} but is no longer a member")

    def _hold_is_over(self, name: str, member: Entry | None) -> None:
        """An expired node must know by its own clock that its hold has ended."""
        machine = self._machines[name]
        page = machine.page
        left = page.deadline - machine.clock.boot()
        if left > 0 and machine.powered and member is not None and f'"{page.incarnation}"'.encode() in member.value:
            self.fail("I1", f"{name} is expired while its hold lasts for another {left:.6f} s")

    def _is_member(self, author: Author, before: KeyValue) -> bool:
        key = f"member/{author.name}"
        if key in self.spoiled:
            return True
        entry = before.get(key)
        if entry is None:
            return False
        record = schema.decode(key, entry.value)
        return isinstance(record, MemberRecord) and record.incarnation == author.incarnation

    def _leaders_alone(self, author: Author, before: KeyValue, changes: dict[str, bytes | None], what: str) -> None:
        if "leader" in changes:
            value = changes["leader"]
        else:
            if "leader" in self.spoiled:
                return
            entry = before.get("leader")
            value = entry.value if entry is not None else None
        if value is None or schema.decode("leader", value) != LeaderRecord(author.name, author.incarnation):
            self.fail("I8", f"{author.name} ({author.incarnation}) commits {what} without being the leader")
        if not self._is_member(author, before):
            self.fail("I8", f"{author.name} commits {what} but is no longer a member")

    def _durable_changes(
        self,
        author: Author,
        kind: str,
        name: str,
        before: KeyValue,
        value: bytes | None,
        changes: dict[str, bytes | None],
    ) -> None:
        key = f"{kind}/{name}"
        if author is ADMIN:
            self.confirmed[key] = value
            return
        if kind != "admin" or value is None:
            self.fail("I9", f"{author.name} changes {key}, which is an admin's")
            return
        new = schema.decode(key, value)
        entry = before.get(key)
        old: object = AdminRecord()
        if entry is not None:
            try:
                old = schema.decode(key, entry.value)
            except StoreCorrupt:
                return
        assert isinstance(new, AdminRecord)
        assert isinstance(old, AdminRecord)
        if (new.disabled, new.stopped) != (old.disabled, old.stopped):
            self.fail("I9", f"{author.name} changes what an admin decided in {key}: {old} to {new}")
        if author.name != name:
            self._leaders_alone(author, before, changes, f"the end of a ban of {name}")
        self.confirmed[key] = value

    def check_confirmed(self) -> None:
        """I9: every confirmed value is present."""
        core = self._run.store.core
        for key, value in self.confirmed.items():
            entry = core.get(key)
            if (None if entry is None else entry.value) != value:
                self.fail("I9", f"{key} is {entry}, confirmed was {value!r}")

    # -- events: I2, I3, I5, I6 ------------------------------------------------------------------------------

    def event_started(self, name: str, event: str, address: str) -> None:
        """The scripts of an event start on the machine."""
        machine = self._machines[name]
        if self._run.trace.on:
            self._run.trace.say(name, f"{event} {address} starts")
        if name in self.running:
            self.fail("I5", f"{event} {address} starts on {name} while {' '.join(self.running[name])} runs")
        self.running[name] = (event, address)
        self._began[name] = self._run.engine.now
        self._run.count_event(event)
        self._changed(machine, event, address)
        if event in ("takeip", "updateip"):
            self._may_take(machine, event, address)
        if event == "releaseip" and machine.kernel.speaks(address) and not _excused(machine):
            self.fail("I7", f"{machine.name} runs releaseip for {address}, which still answers")

    def _may_take(self, machine: MachineView, event: str, address: str) -> None:
        deadline = machine.page.deadline
        late = machine.clock.boot() - deadline
        if late >= 0:
            # One race remains that no process can close: this one checked the clock while its hold lasted, was stopped,
            # and starts the scripts with its very next step. The address is mute. The check must be of the same turn of
            # its loop: between two turns the hold can be dropped, so the process has to check again.
            turn, seen = machine.last_look
            if machine.agent is None or turn != machine.agent.turns or seen >= deadline:
                ended = f"{late:.3f} s after its hold has ended" if deadline else "without a hold"
                self.fail("I2", f"{machine.name} starts {event} for {address} {ended}")
            return
        for other in self._machines.values():
            if other is machine or not other.kernel.open():
                continue
            here = address in other.kernel.addresses and (other.name, address) not in self._run.by_hand
            if here and not _excused(other):
                self.fail(
                    "I2", f"{machine.name} starts {event} for {address} while {other.name} has it and its gate is open"
                )
            if self.running.get(other.name, ("", ""))[1] == address:
                self.fail(
                    "I2",
                    f"{machine.name} starts {event} for {address} while {other.name} runs {self.running[other.name]}",
                )
        missing = {"startup", "monitor"} - self._earned.get(machine.name, set())
        if missing:
            self.fail(
                "I6",
                f"{machine.name} starts {event} for {address} before its {' and '.join(sorted(missing))} succeeded",
            )

    def event_ended(self, name: str, event: str, address: str, ok: bool) -> None:
        """The scripts of an event have ended on the machine."""
        if self._run.trace.on:
            self._run.trace.say(name, f"{event} {address} {'ends' if ok else 'fails'}")
        self.running.pop(name, None)
        self._changed(self._machines[name], event, address)
        if ok and event in ("takeip", "updateip"):
            self._promises.told(name, address)
        if ok and event in ("startup", "monitor"):
            self._earned.setdefault(name, set()).add(event)
        if ok and event == "recovered":
            self.recovered[name] = self._began[name]

    def event_killed(self, name: str) -> None:
        """The running scripts of the machine were killed."""
        event, address = self.running.pop(name, ("", ""))
        if self._run.trace.on:
            self._run.trace.say(name, f"{event} {address} killed")
        self._changed(self._machines[name], event, address)

    def _changed(self, machine: MachineView, event: str, address: str) -> None:
        """Note a change for I3, which concerns members: an expired node's cleanup was closed with its membership."""
        if event not in MOVES:
            return
        member = self._run.store.core.get(f"member/{machine.name}")
        agent = machine.agent
        if member is not None and agent is not None and agent.status().incarnation.encode() in member.value:
            self.last_change = (self._run.engine.now, machine.name, f"{event} {address}")

    def daemon_started(self, name: str) -> None:
        """A new life: startup and monitor must succeed again."""
        self._earned.pop(name, None)

    def all_processes_dead(self, name: str) -> None:
        """All processes died so long ago that every lifetime is over: the kernel has removed the addresses."""
        left = [a for a in self._machines[name].kernel.addresses if (name, a) not in self._run.by_hand]
        if left:
            self.fail("lifetime", f"{name} has {', '.join(left)} although no process renews them")

    def unclosed(self, participants: Iterable[str]) -> str | None:
        """I3 at rest: a participant that has not run ``recovered`` since the last change of addresses."""
        when, who, what = self.last_change
        for name in participants:
            if self.recovered.get(name, -1.0) < when:
                return f"{name} has not run recovered since {what} on {who} at {when:.3f}"
        return None


def _incarnation(member: Entry | None) -> str:
    """The incarnation of this membership, "" when it cannot be read."""
    try:
        record = schema.decode(member.key, member.value) if member is not None else None
    except StoreCorrupt:
        return ""
    return record.incarnation if isinstance(record, MemberRecord) else ""


def _excused(machine: MachineView) -> bool:
    """Whether removed rules cannot be put back, because no agent runs that would do so."""
    return machine.kernel.lawless and not machine.running


def _summary(batch: Batch) -> str:
    parts = []
    for change in batch.changes:
        if change.value is None:
            parts.append(f"-{change.key}")
        elif change.key.startswith("beat/"):
            parts.append(f"+{change.key}")
        else:
            parts.append(f"+{change.key}={change.value.decode('utf-8', 'replace')}")
    return ", ".join(parts)
