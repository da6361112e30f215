"""A directory of event scripts: which files are scripts, their order, and their problems.

Rules of this file: it reads the file system, runs nothing of a script and changes nothing. Names and order follow CTDB
(``NN.name``, ``ctdb/config/events/README``); files that other users could write are refused, for scripts run as root.

There are three kinds of problems. A *fault* keeps a daemon from starting; a running daemon continues with its last good
scripts (:mod:`locum.events.script_set`). A *remark* is for the author of a script. An *ignored* file is not a script,
and is listed so that its owner can find out why it does not run. Only enabled scripts can have faults: upgrades and
configuration tools leave other files on all nodes alike, and these must stop nothing.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Self

import msgspec

from locum.errors import PermissionRequired, ScriptDirectoryError, UsageError
from locum.events.analysis import READ_LIMIT, Analysis, analyse
from locum.events.decisions import in_order
from locum.events.environment import search_path
from locum.events.leftovers import leftover
from locum.events.model import Script

_NAME = re.compile(r"(?P<number>[0-9]{2})\.[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_SUFFIX = ".script"


class Problem(msgspec.Struct, frozen=True):
    """One problem of a directory: the file, the problem, the remedy.

    A ``fault`` keeps a daemon from starting. ``ignored``: not a problem, the file is just not a script.
    """

    place: str
    text: str
    fault: bool
    ignored: bool = False

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


class Listing(msgspec.Struct, frozen=True):
    """A directory as it was at one moment: the scripts in the order in which they run, and all problems."""

    directory: str
    scripts: tuple[Script, ...]
    problems: tuple[Problem, ...]

    @property
    def faults(self) -> tuple[Problem, ...]:
        """The problems that keep a daemon from starting."""
        return tuple(problem for problem in self.problems if problem.fault)

    @property
    def remarks(self) -> tuple[Problem, ...]:
        """All listed problems except faults."""
        return tuple(problem for problem in self.problems if not problem.fault)

    def check(self) -> Self:
        """Raise :class:`ScriptDirectoryError` with faults and remarks; files that are not scripts do not count."""
        flaws = [str(problem) for problem in self.problems if not problem.ignored]
        if flaws:
            raise ScriptDirectoryError(self.directory, flaws)
        return self


#: Device, inode, times of change (ns) and size of a script: another signature is another content.
Signature = tuple[int, int, int, int, int]


def signature_of(status: os.stat_result) -> Signature:
    """The signature of a file."""
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)


class Survey(msgspec.Struct, frozen=True):
    """A listing, and which of its scripts are usable.

    ``closed``: the directory as a whole is faulty. ``broken``: names of files that are enabled scripts with a fault
    of their own. ``clashes``: file names of enabled scripts with the same number. ``signatures``: by file name.
    """

    listing: Listing
    closed: bool
    broken: frozenset[str]
    clashes: tuple[tuple[str, ...], ...]
    signatures: dict[str, Signature]


class ScriptDirectory:
    """Reads a directory as often as asked; files that did not change since the last time are not opened again."""

    def __init__(self, path: Path | str) -> None:
        self.path = os.fspath(path)
        self._search_path = search_path()
        self._analyses: dict[str, tuple[Signature, Analysis]] = {}

    def scan(self) -> Listing:
        """Read the directory now. All problems are in the listing; nothing is raised."""
        return self.survey().listing

    def survey(self) -> Survey:
        """As :meth:`scan`, and which scripts are usable."""
        problems = self._directory_problems()
        try:
            names = sorted(os.listdir(self.path))
        except OSError as error:
            if not problems:
                problems = [Problem(self.path, f"cannot be read: {error.strerror}", True)]
            return Survey(Listing(self.path, (), tuple(problems)), True, frozenset(), (), {})
        closed = bool(problems)
        scripts: list[Script] = []
        analyses: dict[str, tuple[Signature, Analysis]] = {}
        for name in names:
            if name.startswith("."):
                continue
            reason = leftover(name)
            if reason is not None:
                problems.append(Problem(name, reason, False, ignored=True))
            elif _NAME.fullmatch(name) is None:
                problems.append(self._stray(name))
            else:
                script = self._read(name, analyses, problems)
                if script is not None:
                    scripts.append(script)
        self._analyses = analyses
        broken = frozenset(problem.place for problem in problems if problem.fault and problem.place != self.path)
        clashes = self._clashes(scripts, problems)
        if not scripts and not broken and not closed:
            problems.append(Problem(self.path, "holds no event script (NN.name)", True))
            closed = True
        signatures = {name: known[0] for name, known in analyses.items()}
        return Survey(Listing(self.path, in_order(scripts), tuple(problems)), closed, broken, clashes, signatures)

    def load(self) -> tuple[Script, ...]:
        """The scripts in the order in which they run. Raises :class:`ScriptDirectoryError` with every fault."""
        listing = self.scan()
        if listing.faults:
            raise ScriptDirectoryError(self.path, [str(problem) for problem in listing.faults])
        return listing.scripts

    def find(self, name: str) -> Script:
        """The script called ``name``: ``50.web``, the file's name, a path to it, or ``web`` when only one is called
        that. Raises UsageError."""
        listing = self.scan()
        base = os.path.basename(name.rstrip("/")).removesuffix(_SUFFIX)
        exact = [script for script in listing.scripts if script.name == base]
        found = exact or [script for script in listing.scripts if script.name.split(".", 1)[1] == base]
        if len(found) == 1:
            return found[0]
        names = ", ".join(script.name for script in found or listing.scripts) or "none"
        if found:
            raise UsageError(f"{name!r} could be any of {names}: give the whole name")
        raise UsageError(f"unknown script {name!r} in {self.path}; there are {names}")

    def set_enabled(self, script: Script, enabled: bool) -> bool:
        """Make ``script`` executable or not; return False when nothing had to be changed.

        Raises UsageError when that cannot be done, and :class:`ScriptDirectoryError` instead of enabling a script
        that would be at fault then.
        """
        if script.enabled == enabled:
            return False
        file = os.path.basename(script.path)
        if os.path.islink(script.path):
            raise UsageError(
                f"{script.path} is a link to {os.path.realpath(script.path)}, whose mode decides for everybody who"
                " links to it: put a copy in its place, or remove the link"
            )
        if enabled and (problems := self._problems_when_enabled(script, file)):
            raise ScriptDirectoryError(self.path, problems)
        mode = stat.S_IMODE(os.stat(script.path).st_mode)
        try:
            os.chmod(script.path, mode | (mode & 0o444) >> 2 if enabled else mode & ~0o111)
        except PermissionError:
            raise PermissionRequired(f"{script.path}: only its owner or root can change its mode") from None
        return True

    def _problems_when_enabled(self, script: Script, file: str) -> list[str]:
        """The faults that the disabled ``script``, which is the file ``file``, would have once enabled."""
        listing = self.scan()
        problems = [str(one) for one in listing.problems if one.place == file and not one.ignored]
        remarks = analysis[1].remarks if (analysis := self._analyses.get(file)) is not None else ()
        problems = [text for text in problems if text not in {f"{file}: {remark}" for remark in remarks}]
        number = script.name[:2]
        same = [one.name for one in listing.scripts if one.enabled and one.name[:2] == number and one != script]
        return problems + [f"{file}: {name} has the same number {number}.: disable that one first" for name in same]

    def _directory_problems(self) -> list[Problem]:
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return [Problem(self.path, "there is no such script directory", True)]
        except OSError as error:
            return [Problem(self.path, f"cannot be read: {error.strerror}", True)]
        if not stat.S_ISDIR(status.st_mode):
            return [Problem(self.path, "is not a directory", True)]
        return [Problem(self.path, text, True) for text in unsafe(status, self.path)]

    def _stray(self, name: str) -> Problem:
        """A file whose name is not a script's: an executable file was perhaps meant to run, others were not."""
        try:
            status = os.stat(os.path.join(self.path, name))
            executable = stat.S_ISREG(status.st_mode) and bool(status.st_mode & 0o111)
        except OSError:
            executable = False
        text = "is not named NN.name or NN.name.script, so it never runs"
        if executable:
            text += ": rename it, or move it elsewhere"
        return Problem(name, text, False, ignored=not executable)

    @staticmethod
    def _clashes(scripts: list[Script], problems: list[Problem]) -> tuple[tuple[str, ...], ...]:
        """Scripts with one number. The order of enabled scripts would be undefined; a disabled script does not
        matter."""
        numbers: dict[str, list[Script]] = {}
        for script in scripts:
            numbers.setdefault(script.name[:2], []).append(script)
        clashes = []
        for number, same in numbers.items():
            if len(same) < 2:
                continue
            names = [os.path.basename(script.path) for script in same]
            enabled = [os.path.basename(script.path) for script in same if script.enabled]
            if len(enabled) > 1:
                clashes.append(tuple(enabled))
                text = f"have the same number {number}.: give each its own, the order is undefined otherwise"
                problems.append(Problem(" and ".join(enabled), text, True))
            else:
                text = f"have the same number {number}.; no more than one of them is enabled, so that stops nothing"
                problems.append(Problem(" and ".join(names), text, False, ignored=True))
        return tuple(clashes)

    def _read(
        self, name: str, analyses: dict[str, tuple[Signature, Analysis]], problems: list[Problem]
    ) -> Script | None:
        path = os.path.join(self.path, name)

        def ignore(text: str) -> None:
            problems.append(Problem(name, f"{text}, so it never runs", False, ignored=True))

        try:
            link = os.lstat(path)
            status = os.stat(path) if stat.S_ISLNK(link.st_mode) else link
        except FileNotFoundError:
            if os.path.islink(path):
                problems.append(Problem(name, f"is a link to {os.readlink(path)}, which does not exist", False))
            return None
        except OSError as error:
            problems.append(Problem(name, f"cannot be read: {error.strerror}", error.errno != errno.ELOOP))
            return None
        if not stat.S_ISREG(status.st_mode):
            ignore(f"is a {'directory' if stat.S_ISDIR(status.st_mode) else 'special file'}, not a script")
            return None
        enabled = bool(status.st_mode & 0o111)
        if not enabled:
            ignore("is not executable")

        def fault(text: str) -> None:
            problems.append(Problem(name, text, enabled))

        faults = len(problems)
        for text in unsafe(status, path):
            fault(text)
        if status is not link:
            self._check_target(path, fault)
        signature = signature_of(status)
        known = self._analyses.get(name)
        # A problem may disappear without a change of the file, when its interpreter is installed.
        if known is None or known[0] != signature or known[1].problems:
            try:
                with open(path, "rb") as file:
                    content = file.read(READ_LIMIT)
            except OSError as error:
                fault(f"cannot be read: {error.strerror}")
                return None
            safe = len(problems) == faults
            known = (signature, analyse(content, path, self._search_path, safe))
        analyses[name] = known
        analysis = known[1]
        for text in analysis.problems:
            fault(text)
        problems.extend(Problem(name, text, False) for text in analysis.remarks)
        return Script(name.removesuffix(_SUFFIX), path, enabled, analysis.kind, analysis.events)

    def _check_target(self, path: str, fault: Callable[[str], None]) -> None:
        """A link is as safe as its target directory: a user who can write there can replace the script."""
        parent = os.path.dirname(os.path.realpath(path))
        try:
            texts = unsafe(os.stat(parent), parent)
        except OSError as error:
            texts = [f"cannot be read: {error.strerror}"]
        for text in texts:
            fault(f"is a link into {parent}, which {text}")


def unsafe(status: os.stat_result, path: str) -> list[str]:
    """Why another user could change the file or directory with this ``status``; empty when none can."""
    texts = []
    us = os.geteuid()
    if status.st_uid not in (0, us):
        owner = "root" if us == 0 else "you or root"
        texts.append(f"belongs to user {status.st_uid}, not to {owner}: chown {'root' if us == 0 else us} {path}")
    if status.st_mode & 0o022:
        mode = stat.S_IMODE(status.st_mode)
        texts.append(f"can be written by group or others (mode {mode:04o}): chmod go-w {path}")
    return texts
