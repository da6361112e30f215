"""Scripts for the rules: what happens to the nodes of a cluster, and what they do then, as text.

A script is a text file of blocks. A block has commands, a line of four dashes, and what the nodes did meanwhile; an
empty line ends it, ``#`` begins a comment. Each line of output has the time in seconds, the node and the effect. Of
beats, only a change in how they are answered is shown. A commit shows its kind, what it writes (``+``) and deletes
(``-``), and after "if" the keys that it is conditional on.

``cluster NODE... [addresses=A,B] [probe]``
    Begin with these nodes on an empty store.
``run SECONDS`` · ``settle SECONDS``
    Let time pass; the second one prints nothing.
``fails NODE EVENT REASON`` · ``hangs NODE EVENT`` · ``works NODE EVENT``
    Scripts of the event fail, do not end, or succeed again.
``ends NODE [REASON]``
    What hangs ends, and fails if there is a reason.
``link NODE up|down`` · ``lose NODE ADDRESS`` · ``stranger ADDRESS WHAT`` · ``gone ADDRESS``
    The kernel: a link changes, an address vanishes. Another machine answers for an address, or does no longer.
``cut NODE`` · ``heal NODE``
    The store does not answer the node and its watch shows nothing, or all of that works again.
``freeze NODE`` · ``thaw NODE`` · ``kill NODE`` · ``start NODE`` · ``crash NODE`` · ``leave NODE``
    The node's processes stand still or go on; they end for good; a new daemon starts; the agent alone starts anew and
    adopts; the daemon is asked to stop.
``admin NODE [disabled] [stopped] [banned=SECONDS]``
    An admin decides.
``refuse NODE KIND``
    The store refuses the node's next commit of this kind.
``wipe`` · ``delete KEY``
    The store loses everything, or a stranger deletes a key.
``show [PREFIX]`` · ``status``
    Print the keys of the store, or what the nodes are and hold.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from locum.rules import effects as fx
from locum.rules import schema
from locum.rules.effects import Effect
from locum.rules.node import Adoption, Node
from locum.rules.schema import AdminRecord
from locum.rules.view import View
from locum.store.base import CommitResult, Delete, Put
from locum.store.keyvalue import KeyValue
from tests.unit.rules.rig import EPOCH, Cluster

MARK = "----"


def rewritten(text: str) -> str:
    """The script ``text`` with the output that it has now."""
    script = Script()
    blocks = []
    for block in text.strip("\n").split("\n\n"):
        lines = block.split(f"\n{MARK}")[0].splitlines()
        commands = [line for line in lines if not line.startswith("#")]
        output = [line for command in commands for line in script.do(command)]
        blocks.append("\n".join([*lines, *([MARK, *output] if commands else [])]))
    return "\n\n".join(blocks) + "\n"


def scripts() -> list[Path]:
    """Every script."""
    return sorted((Path(__file__).parent / "scripts").glob("*.txt"))


class Script:
    """One script as it goes on: ``do_<command>`` for each command."""

    def __init__(self) -> None:
        self._cluster = Told()

    def do(self, line: str) -> list[str]:
        """Carry out one command; returns what the nodes did then, and what was printed."""
        command, *arguments = shlex.split(line)
        method: Callable[..., list[str] | None] = getattr(self, f"do_{command}")
        printed = method(*arguments) or []
        lines, self._cluster.lines = self._cluster.lines, []
        return [*lines, *printed]

    def do_cluster(self, *words: str) -> None:
        names = [word for word in words if "=" not in word and word != "probe"]
        given = dict(word.split("=") for word in words if "=" in word)
        addresses = given.get("addresses", "10.0.0.1").split(",")
        self._cluster = Told(*names, addresses=addresses, probe="probe" in words)

    def do_run(self, seconds: str) -> None:
        self._cluster.run(float(seconds) - self._cluster.step / 2)

    def do_settle(self, seconds: str) -> None:
        self.do_run(seconds)
        self._cluster.lines.clear()

    def do_fails(self, node: str, event: str, reason: str) -> None:
        self._cluster.outcomes[node, event] = reason

    def do_hangs(self, node: str, event: str) -> None:
        self._cluster.outcomes[node, event] = None

    def do_works(self, node: str, event: str) -> None:
        del self._cluster.outcomes[node, event]

    def do_ends(self, node: str, reason: str = "") -> None:
        self._cluster.tell(node, "activity_done", self._cluster.hanging.pop(node), not reason, reason)

    def do_link(self, node: str, state: str) -> None:
        self._cluster.links[node] = state == "up"

    def do_lose(self, node: str, address: str) -> None:
        self._cluster.tell(node, "address_removed", address, "eth0")

    def do_stranger(self, address: str, what: str) -> None:
        self._cluster.heard[address] = what

    def do_gone(self, address: str) -> None:
        del self._cluster.heard[address]

    def do_cut(self, node: str) -> None:
        self._cluster.cut.add(node)

    def do_heal(self, node: str) -> None:
        self._cluster.cut.remove(node)

    def do_freeze(self, node: str) -> None:
        self._cluster.frozen.add(node)

    def do_thaw(self, node: str) -> None:
        self._cluster.frozen.remove(node)

    def do_kill(self, node: str) -> None:
        del self._cluster.nodes[node]

    def do_start(self, node: str) -> None:
        self._cluster.start(node)

    def do_crash(self, node: str) -> None:
        self._cluster.crash(node)

    def do_leave(self, node: str) -> None:
        self._cluster.tell(node, "leave")

    def do_admin(self, node: str, *words: str) -> None:
        banned = [float(word.partition("=")[2]) for word in words if word.startswith("banned=")]
        until = EPOCH + self._cluster.now + banned[0] if banned else 0.0
        record = AdminRecord("disabled" in words, "stopped" in words, until)
        self._cluster.core.commit((), [Put(f"admin/{node}", schema.encode(record))])

    def do_refuse(self, node: str, kind: str) -> None:
        self._cluster.refused.add((node, kind))

    def do_wipe(self) -> None:
        self._cluster.core = KeyValue()
        for name in self._cluster.nodes:
            self._cluster.read_anew(name)

    def do_delete(self, key: str) -> None:
        self._cluster.core.commit((), [Delete(key)])

    def do_show(self, prefix: str = "") -> list[str]:
        return [f"{entry.key} = {entry.value.decode()}" for entry in self._cluster.core.snapshot(prefix).entries]

    def do_status(self) -> list[str]:
        lines = []
        for name, node in self._cluster.nodes.items():
            status = node.status()
            left = f"holds for {status.deadline - self._cluster.now:.2f} s" if status.deadline > 0 else "no hold"
            held = f"; has {' '.join(sorted(status.held))}" if status.held else ""
            unsure = f"; may have {' '.join(sorted(status.unsure))}" if status.unsure else ""
            lines.append(f"{name} {status.stage.value} {status.incarnation or '-'}: {left}{held}{unsure}")
        return lines


class Told(Cluster):
    """A cluster that writes down what its nodes do."""

    def __init__(self, *names: str, addresses: Sequence[str] = ("10.0.0.1",), probe: bool = False) -> None:
        self.lines: list[str] = []
        #: (node, event) → why its scripts fail, None: they do not end.
        self.outcomes: dict[tuple[str, str], str | None] = {}
        #: Node → the request of what does not end there.
        self.hanging: dict[str, int] = {}
        #: (node, kind of commit) that the store refuses once.
        self.refused: set[tuple[str, str]] = set()
        self._beats: dict[str, str] = {}
        self._confirmed: dict[str, fx.ConfirmHold] = {}
        super().__init__(*names, addresses=addresses, probe=probe)
        self.outcome = self._outcome

    def say(self, name: str, text: str) -> None:
        """Write a line."""
        self.lines.append(f"{self.now - 1000:6.2f} {name} {text}")

    def crash(self, name: str) -> None:
        """The agent dies; the next one adopts what it had confirmed."""
        status, last = self.nodes[name].status(), self._confirmed[name]
        held = dict(status.held)
        adoption = Adoption(last.incarnation, last.deadline, last.slot, last.revision, last.quiet, held)
        self.hanging.pop(name, None)
        tries = itertools.count()
        self.nodes[name] = Node(status.identity, View(), lambda: f"{name}-{self.core.revision}.{next(tries)}", adoption)
        self.nodes[name].view.reset(self.core.snapshot(""))

    def read_anew(self, name: str) -> None:
        """The watch is lost; the caller reads everything."""
        self.tell(name, "watch_lost")
        view = self.nodes[name].view
        self.tell(name, "store_read", self.core.snapshot(""), view.known)

    def carry_out(self, name: str, node: Node, effect: Effect) -> None:
        if (text := self._shown(name, effect)) is not None:
            self.say(name, text)
        super().carry_out(name, node, effect)

    def commit(self, name: str, effect: fx.SendBeat | fx.CommitWork) -> CommitResult | None:
        """What the store answers, as a line."""
        if isinstance(effect, fx.CommitWork) and (name, type(effect.kind).__name__) in self.refused:
            self.refused.remove((name, type(effect.kind).__name__))
            result: CommitResult | None = CommitResult(False, self.core.revision)
        else:
            result = super().commit(name, effect)
        answer = "no answer" if result is None else ("" if result.accepted else "refused")
        if isinstance(effect, fx.SendBeat):
            if answer != self._beats.get(name, ""):
                self.say(name, f"beats: {answer or 'accepted again'}")
            self._beats[name] = answer
            return result
        writes = [f"{'+' if isinstance(o, Put) else '-'}{o.key}" for o in effect.commit.operations]
        conditions = sorted({condition.key for condition in effect.commit.conditions})
        text = f"commits {type(effect.kind).__name__}: {' '.join(writes)} if {' '.join(conditions)}"
        self.say(name, f"{text}: {answer}" if answer else text)
        return result

    def _outcome(self, name: str, effect: Effect) -> str | None:
        outcome = self.outcomes.get((name, _event(effect)), "")
        if outcome is None:
            self.hanging[name] = getattr(effect, "request", 0)
        return outcome

    def _shown(self, name: str, effect: Effect) -> str | None:
        """An effect as it is written down; None for one that has a line of its own or is not shown."""
        end = self.outcomes.get((name, _event(effect)), "")
        how = " and does not end" if end is None else f" and fails: {end}" if end else ""
        match effect:
            case fx.ConfirmHold():
                first, self._confirmed[name] = name not in self._confirmed, effect
                return "holds" if first else None
            case fx.DropHold():
                self._confirmed.pop(name, None)
                return "drops its hold"
            case fx.RunEvent():
                return f"runs {effect.event}{how}"
            case fx.TakeAddress():
                return f"takes {effect.address} on {effect.interface}{how}"
            case fx.TakeAgain():
                return f"tells the scripts again of {effect.address} on {effect.interface}{how}"
            case fx.ReleaseAddress():
                return f"releases {effect.address} on {effect.interface}{how}"
            case fx.UpdateAddress():
                return f"moves {effect.address} from {effect.old_interface} to {effect.new_interface}{how}"
            case fx.Restore():
                return f"restores {effect.address} on {effect.interface}"
            case fx.ProbeAddresses():
                return f"probes {' '.join(address for address, _ in effect.items)}"
            case fx.ReadAnew():
                return "reads the store anew"
            case fx.CancelActivity():
                self.hanging.pop(name, None)
                return "cancels what runs"
            case fx.Note():
                return f"says: {effect.text}"
            case fx.Exit():
                return "exits"
        return None


def _event(effect: Effect) -> str:
    match effect:
        case fx.RunEvent():
            return effect.event
        case fx.TakeAddress() | fx.TakeAgain():
            return "takeip"
        case fx.ReleaseAddress():
            return "releaseip"
        case fx.UpdateAddress():
            return "updateip"
    return ""
