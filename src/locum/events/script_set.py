"""The scripts that a running daemon uses: those of the directory, or their last good versions.

Rules of this file: it decides which content of which script runs, and starts nothing. The reason: a fault in a script
directory usually comes from an upgrade or from configuration management, on all nodes alike. It does not mean that a
node's services are bad, so it must not change a node's behaviour: it moves no address, fails no event, bans no node.

While the directory as a whole is faulty (unreadable, empty, open to other users), the set does not change. While one
script is faulty, its last good version stays in use and the others follow the directory. Of scripts with the same
number, the one that ran before runs. A new script with a fault does not run. A last good version runs from a *copy*
that was made while the script was good: a file that other users could have changed meanwhile is not executed.

The set is on file, so that a restarted agent continues with it. Copies are kept in the state directory, because the
runtime directory is often mounted noexec.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

import msgspec

from locum.events.decisions import in_order
from locum.events.directory import Problem, ScriptDirectory, Signature, Survey, signature_of
from locum.events.model import Script
from locum.events.stored import Stored

_READ = 1 << 20


class _Kept(msgspec.Struct, frozen=True):
    """The last good version of a script. ``copy`` is the path of its copy, "" when none could be made."""

    script: Script
    signature: Signature
    copy: str


class InUse(msgspec.Struct, frozen=True):
    """The scripts in use.

    ``scripts``: in the order in which they run, including disabled ones; a path of "" means that a script is faulty
    and has no copy. ``problems``: all of the directory. ``kept``: names of scripts that run in their last good
    versions, because they, or the directory, are faulty. ``left_out``: names of enabled scripts that do not run.
    ``refused``: the directory is faulty, and was never good since the daemon started.
    """

    scripts: tuple[Script, ...] = ()
    problems: tuple[Problem, ...] = ()
    kept: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    refused: bool = False

    @property
    def faults(self) -> list[str]:
        """The faults, one line each."""
        return [str(problem) for problem in self.problems if problem.fault]


class ScriptSet:
    """The scripts of ``directory``, with copies for times of faults.

    ``runtime`` and ``state`` are the node's directories.
    """

    def __init__(self, directory: ScriptDirectory, *, runtime: str, state: str) -> None:
        self._directory = directory
        self._file = _record(runtime)
        self._copies = os.path.join(state, "last-good")
        self._kept: dict[str, _Kept] = {}
        #: Whether the directory was good at some time since the daemon started.
        self.established = False
        #: What :meth:`refresh` returned last.
        self.last = InUse()

    def adopt(self) -> bool:
        """Adopt the set of an earlier agent of this daemon; return whether there was one."""
        if (kept := self._file.read()) is None:
            return False
        self._kept = {
            name: msgspec.structs.replace(one, copy=one.copy if os.path.exists(one.copy) else "")
            for name, one in kept.items()
        }
        self.established = True
        return True

    def refresh(self) -> InUse:
        """Scan the directory; return the scripts to use from now on."""
        survey = self._directory.survey()
        if not survey.listing.faults:
            self.established = True
        if not self.established:
            self.last = InUse(problems=survey.listing.problems, refused=True)
            return self.last
        enabled, kept, left_out = self._choose(survey)
        self._keep(enabled, survey)
        disabled = [] if survey.closed else [script for script in survey.listing.scripts if not script.enabled]
        scripts = in_order([*enabled.values(), *disabled])
        self.last = InUse(scripts, survey.listing.problems, tuple(kept), tuple(left_out))
        return self.last

    def without_directory(self, reason: str) -> InUse:
        """The scripts to use while the directory cannot be read (its file system hangs), for ``reason``.

        Opens no file. Scripts run from their copies.
        """
        problem = Problem(self._directory.path, reason, True)
        if not self.established:
            return InUse(problems=(problem,), refused=True)
        kept = in_order([_as_it_was(one) for one in list(self._kept.values())])
        return InUse(kept, (problem,), tuple(script.name for script in kept))

    def _choose(self, survey: Survey) -> tuple[dict[str, Script], list[str], list[str]]:
        """The enabled scripts to use by file name; the names of those in their last good versions, and of those left
        out."""
        if survey.closed:
            chosen = {file: _as_it_was(one) for file, one in self._kept.items()}
            return chosen, sorted(script.name for script in chosen.values()), []
        chosen = {
            file: script
            for script in survey.listing.scripts
            if script.enabled and (file := os.path.basename(script.path)) not in survey.broken
        }
        kept = [file for file in survey.broken if file in self._kept]
        left_out = [file for file in survey.broken if file not in self._kept]
        chosen.update((file, _as_it_was(self._kept[file])) for file in kept)
        for clash in survey.clashes:
            late = [file for file in clash if file not in self._kept]
            left_out += [file for file in late if file in chosen]
            for file in late:
                chosen.pop(file, None)
        return chosen, sorted(kept), sorted(left_out)

    def _keep(self, enabled: dict[str, Script], survey: Survey) -> None:
        """Copy good new scripts, drop missing ones, and write the set to its file when it has changed."""
        before = dict(self._kept)
        for file, script in enabled.items():
            known = before.get(file)
            if known is not None and script == _as_it_was(known):
                continue
            signature = survey.signatures[file]
            if known is None or known.signature != signature or known.script != script or not known.copy:
                self._kept[file] = _Kept(script, signature, self._copy(file, script, signature))
        for file in before.keys() - enabled.keys():
            with contextlib.suppress(OSError):
                os.unlink(self._kept.pop(file).copy)
        if self._kept != before or not os.path.exists(self._file.path):
            self._file.write(self._kept)  # it only matters to an agent that restarts while the directory is faulty

    def _copy(self, file: str, script: Script, signature: Signature) -> str:
        """Copy the content of ``script`` that has this signature; "" when that cannot be done."""
        target = os.path.join(self._copies, file)
        try:
            os.makedirs(self._copies, mode=0o700, exist_ok=True)
            with open(script.path, "rb") as source, open(target + ".new", "wb") as copy:
                while data := source.read(_READ):
                    copy.write(data)
                os.fchmod(copy.fileno(), 0o700)
                if signature_of(os.fstat(source.fileno())) != signature:
                    return ""  # it changed since it was judged; the next scan judges and copies it again
            os.replace(target + ".new", target)
        except OSError:
            return ""
        return target


def _record(runtime: str) -> Stored[dict[str, _Kept]]:
    return Stored(os.path.join(runtime, "events", "in-use.json"), dict[str, _Kept])


def forget(runtime: str) -> None:
    """A daemon starts: discard the set of an earlier one."""
    _record(runtime).write(None)


def describe(in_use: InUse, directory: str) -> str:
    """One line about the directory's faults and their effect; "" without faults."""
    faults = in_use.faults
    if not faults:
        return ""
    parts = []
    if in_use.kept:
        parts.append(f"{_names(in_use.kept)} {_runs(in_use.kept)} as before")
    if in_use.left_out:
        parts.append(f"{_names(in_use.left_out)} {_runs(in_use.left_out, 'does not run', 'do not run')}")
    meaning = "; ".join(parts) or "the scripts that ran before continue to run"
    return f"script directory {directory} is faulty: {'; '.join(faults)}. Until it is repaired, {meaning}"


def _names(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _runs(names: Sequence[str], one: str = "runs", many: str = "run") -> str:
    return one if len(names) == 1 else many


def _as_it_was(kept: _Kept) -> Script:
    return msgspec.structs.replace(kept.script, path=kept.copy)
